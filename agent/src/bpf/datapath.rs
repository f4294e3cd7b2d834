//! The data path of one node.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aya::{
    Ebpf,
    programs::{SchedClassifier, Xdp},
};
use causeway_abi::{
    ABI_VERSION, Address, DropReason,
    counter::{DropCounters, ServiceCounters},
    node::{DIRECT_RETURN, MASQUERADE, NATIVE_ROUTING, NodeConfig},
};
use causeway_maps::{
    AddressExt as _, MapsError, PinnedMaps, SocketOrigins, bpffs,
    link::{AttachType, Target},
    pins as layout, view,
};

use super::{
    DatapathConfig, DatapathError, DesiredPod, DesiredRoute, DesiredServices, FlowCollector, ReadinessHandle,
    ServicesOf, SyncReport,
    config::TcAttachment,
    links::{self, CGROUP_PROGRAMS, FROM_HOST, FROM_POD, InterfaceProgram, TUNNEL, UPLINK},
    load::load,
    log, pins, pods, routes,
    services::{Grace, PinnedWriter, ServiceSync, adopted_backends, owner},
    xdp,
};

/// The BPF object, built from `ebpf/`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("CAUSEWAY_BPF_OBJECT"));

/// The kernel's own types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// `CGROUP2_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const CGROUP2_SUPER_MAGIC: libc::__fsword_t = 0x6367_7270;

/// Handle on a node's data path. Clones share it; every method may be called from any thread that is in the node's network
/// namespace. They make system calls but never wait for anything.
///
/// Dropping it changes nothing in the kernel: everything is pinned.
#[derive(Clone)]
pub struct Datapath {
    inner: Arc<Inner>,
}

struct Inner {
    links_dir: PathBuf,
    tc: TcAttachment,
    readiness: ReadinessHandle,
    services: Mutex<Services>,
    maps: Mutex<PinnedMaps>,
    programs: Mutex<Ebpf>,
}

struct Services {
    sync: ServiceSync,
    writer: PinnedWriter,
}

/// Counters of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceTraffic {
    /// "namespace/name:port".
    pub name: String,
    /// Sums over all processors.
    pub counters: ServiceCounters,
}

impl Datapath {
    /// The BPF object that this agent was built with.
    pub const OBJECT: &'static [u8] = OBJECT;

    /// Loads the BPF object; makes its maps, or adopts those that are pinned; attaches its programs to the cgroup and the
    /// tunnel device and the uplink, or replaces those that are attached, also at every pod.
    pub fn open(config: &DatapathConfig) -> Result<Self, DatapathError> {
        Self::open_with(config, Grace::default())
    }

    /// As [`open`](Self::open), with other times of rest for what is freed.
    pub fn open_with(config: &DatapathConfig, grace: Grace) -> Result<Self, DatapathError> {
        Self::load_and_attach(config, grace, OBJECT)
    }

    /// As [`open`](Self::open), with the programs of another build: `object` is the content of its BPF object file.
    pub fn open_object(config: &DatapathConfig, object: &[u8]) -> Result<Self, DatapathError> {
        Self::load_and_attach(config, Grace::default(), object)
    }

    fn load_and_attach(config: &DatapathConfig, grace: Grace, object: &[u8]) -> Result<Self, DatapathError> {
        check_machine()?;
        let cgroup = open_cgroup(&config.cgroup_v2_dir)?;
        let maps_dir = layout::maps_dir(&config.pin_dir);
        let links_dir = layout::links_dir(&config.pin_dir);
        bpffs::prepare(&config.bpffs, &maps_dir)?;
        bpffs::prepare(&config.bpffs, &links_dir)?;
        pins::check(&config.pin_dir, &config.sizes)?;

        let mut programs = load(config, &maps_dir, object)?;
        let mut maps = PinnedMaps::open_any_version(&config.pin_dir)?;
        let readiness = ReadinessHandle::new(maps.backends.clone());
        let services = adopt(config, &maps, readiness.clone(), grace)?;
        maps.node.set(&node_config(config))?;

        attach_cgroup_programs(&mut programs, &cgroup, &config.cgroup_v2_dir, &links_dir)?;
        let inner = Inner {
            links_dir,
            tc: config.tc,
            readiness,
            services: Mutex::new(services),
            maps: Mutex::new(maps),
            programs: Mutex::new(programs),
        };
        let datapath = Self { inner: Arc::new(inner) };
        datapath.replace_pod_programs()?;
        if config.tunnel_ifindex != 0 {
            for which in TUNNEL {
                datapath.attach(which, config.tunnel_ifindex)?;
            }
        }
        if config.uplink_ifindex != 0 {
            for which in UPLINK {
                datapath.attach(which, config.uplink_ifindex)?;
            }
            datapath.attach_xdp(config)?;
        }
        Ok(datapath)
    }

    /// Brings services, Maglev tables and backends to what is desired, which must be the complete list. Only differences
    /// are written; what does not fit is named in the report and left as it was.
    pub fn sync_services(&self, desired: &DesiredServices) -> SyncReport {
        let mut services = lock(&self.inner.services);
        let Services { sync, writer } = &mut *services;
        sync.sync(desired, Instant::now(), writer)
    }

    /// Brings what these own, each with all of its ports, to what is desired, and leaves the rest as it is.
    pub fn update_services(&self, owners: impl IntoIterator<Item = ServicesOf>) -> SyncReport {
        let mut services = lock(&self.inner.services);
        let Services { sync, writer } = &mut *services;
        sync.update(owners, Instant::now(), writer)
    }

    /// Says that the next update is about every owner that there is and that there was: backends in adopted maps that nobody wants
    /// after it are not wanted any more.
    pub fn all_services_seen(&self) {
        lock(&self.inner.services).sync.all_seen();
    }

    /// "namespace/name" of every service that is in the maps.
    pub fn service_owners(&self) -> Vec<String> {
        lock(&self.inner.services).sync.owners().map(str::to_owned).collect()
    }

    /// Frees what has rested long enough, and makes slots forget whose they were when it is time.
    pub fn settle_services(&self) -> SyncReport {
        let mut services = lock(&self.inner.services);
        let Services { sync, writer } = &mut *services;
        sync.settle(Instant::now(), writer)
    }

    /// When [`settle_services`](Self::settle_services) has something to do next.
    pub fn services_due(&self) -> Option<Instant> {
        lock(&self.inner.services).sync.next_due()
    }

    /// Brings the pods of this node to what is desired, which must be the complete list; answers the number of changes.
    /// What was said of the readiness of an address that goes is forgotten.
    pub fn sync_pods(&self, desired: &[DesiredPod]) -> Result<usize, DatapathError> {
        let changes = pods::sync(&mut lock(&self.inner.maps).pods, desired)?;
        for address in &changes.removed {
            self.inner.readiness.forget(*address);
        }
        Ok(changes.written + changes.removed.len())
    }

    /// Adds or replaces one pod, so that a new pod need not wait for a pass.
    pub fn add_pod(&self, pod: &DesiredPod) -> Result<(), DatapathError> {
        let (address, value) = pods::element(pod);
        Ok(lock(&self.inner.maps).pods.insert(&address, &value)?)
    }

    /// Removes one pod; tells whether it was there.
    pub fn remove_pod(&self, address: IpAddr) -> Result<bool, DatapathError> {
        self.inner.readiness.forget(address);
        Ok(lock(&self.inner.maps).pods.remove(&Address::from_ip(address))?)
    }

    /// Brings the routes to other nodes' pods to what is desired, which must be the complete list; answers the number of
    /// changes.
    pub fn sync_routes(&self, desired: &[DesiredRoute]) -> Result<usize, DatapathError> {
        Ok(routes::sync(&mut lock(&self.inner.maps).routes, desired)?)
    }

    /// Attaches the pods' programs to the host side of a pod's veth pair, or replaces them there.
    pub fn attach_pod(&self, ifindex: u32) -> Result<(), DatapathError> {
        // What translates back before what translates, so that no connection is translated only half.
        self.attach(FROM_HOST, ifindex)?;
        self.attach(FROM_POD, ifindex)
    }

    /// Detaches the pods' programs from an interface; one that is gone is fine.
    pub fn detach_pod(&self, ifindex: u32) -> Result<(), DatapathError> {
        for which in [FROM_POD, FROM_HOST] {
            let path = which.pin(&self.inner.links_dir, ifindex);
            links::detach_interface(which, ifindex, &self.inner.links_dir)
                .map_err(|source| DatapathError::Pin { path, source })?;
        }
        Ok(())
    }

    /// Hands on what the programs of a development build say, from now on, to the agent's log; whether they say anything.
    /// Needs a tokio runtime.
    pub fn relay_log(&self) -> io::Result<bool> {
        log::relay(&mut lock(&self.inner.programs))
    }

    /// Flips readiness with no system call.
    pub fn readiness(&self) -> ReadinessHandle {
        self.inner.readiness.clone()
    }

    /// Which sockets were translated when they connected, by their cookies.
    pub fn socket_origins(&self) -> Result<SocketOrigins, DatapathError> {
        Ok(PinnedMaps::open(&lock(&self.inner.maps).dir)?.socket_origins)
    }

    /// What removes flows that are over from the connection table.
    pub fn flow_collector(&self) -> Result<FlowCollector, DatapathError> {
        Ok(FlowCollector::open(&lock(&self.inner.maps).dir)?)
    }

    /// Counters of every service, by name.
    pub fn service_traffic(&self) -> Result<Vec<ServiceTraffic>, DatapathError> {
        let maps = lock(&self.inner.maps);
        let mut names = maps.service_names.entries()?;
        names.sort_by_key(|(_, name)| name.0);
        let traffic = |(id, name)| {
            let counters = maps.service_counters.sum(id)?;
            Ok(ServiceTraffic {
                name: view::name_text(&name),
                counters,
            })
        };
        names.into_iter().map(traffic).collect()
    }

    /// Counters of every drop reason.
    pub fn drops(&self) -> Result<Vec<(DropReason, DropCounters)>, DatapathError> {
        let maps = lock(&self.inner.maps);
        DropReason::ALL
            .into_iter()
            .map(|reason| Ok((reason, maps.drops.sum(reason as u32)?)))
            .collect()
    }

    fn attach(&self, which: InterfaceProgram, ifindex: u32) -> Result<(), DatapathError> {
        let mut programs = lock(&self.inner.programs);
        let program: &mut SchedClassifier = program(&mut programs, which.name)?;
        links::attach_interface(program, which, ifindex, &self.inner.links_dir, self.inner.tc)
    }

    fn attach_xdp(&self, config: &DatapathConfig) -> Result<(), DatapathError> {
        let mut programs = lock(&self.inner.programs);
        let loaded: Option<&mut Xdp> = match config.xdp {
            Some(_) => Some(program(&mut programs, xdp::NAME)?),
            None => None,
        };
        xdp::attach(
            loaded.as_deref(),
            config.uplink_ifindex,
            config.xdp,
            &self.inner.links_dir,
        )
    }

    /// Puts the programs of this object in the place of those that an earlier agent attached to pods, and clears away what
    /// is left of interfaces that are gone.
    fn replace_pod_programs(&self) -> Result<(), DatapathError> {
        let dir = &self.inner.links_dir;
        let entries = fs::read_dir(dir).map_err(|source| DatapathError::Pin {
            path: dir.clone(),
            source,
        })?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((program, ifindex)) = name.split_once('-') else {
                continue;
            };
            let gone = links::is_defunct(&path).map_err(|source| DatapathError::Pin {
                path: path.clone(),
                source,
            })?;
            if gone {
                fs::remove_file(&path).map_err(|source| DatapathError::Pin {
                    path: path.clone(),
                    source,
                })?;
            } else if let (FROM_POD_NAME, Ok(ifindex)) = (program, ifindex.parse()) {
                self.attach_pod(ifindex)?;
            }
        }
        // Pods whose program is a clsact filter have no pin.
        for (address, pod) in lock(&self.inner.maps).pods.entries()? {
            if !FROM_POD.pin(dir, pod.ifindex).exists()
                && let Err(error) = self.attach_pod(pod.ifindex)
            {
                let address = address.to_ip();
                tracing::warn!(%address, ifindex = pod.ifindex, %error, "the link of a known pod is gone");
            }
        }
        Ok(())
    }
}

const FROM_POD_NAME: &str = FROM_POD.name;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Level-triggered: whatever a panicked pass left half-done, the next one puts right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_machine() -> Result<(), DatapathError> {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err(DatapathError::NotRoot { uid: uid.as_raw() });
    }
    // SAFETY: BPF_PROG_GET_NEXT_ID (11) with an empty attribute only reads; without bpf(2) the answer is ENOSYS.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, 11, std::ptr::null_mut::<u8>(), 0) };
    let error = io::Error::last_os_error();
    if answer < 0 && error.raw_os_error() == Some(libc::ENOSYS) {
        return Err(DatapathError::NoBpf(error));
    }
    if !Path::new(KERNEL_BTF).exists() {
        return Err(DatapathError::NoBtf { path: KERNEL_BTF });
    }
    Ok(())
}

/// Opens a cgroup directory and makes sure that it is one of the v2 tree.
fn open_cgroup(path: &Path) -> Result<File, DatapathError> {
    let failed = |source| DatapathError::Cgroup {
        path: path.to_owned(),
        source,
    };
    let dir = File::open(path).map_err(failed)?;
    // SAFETY: all-zero is a valid `statfs`.
    let mut buffer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the buffer valid for writing.
    if unsafe { libc::fstatfs(dir.as_raw_fd(), &raw mut buffer) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    if buffer.f_type == CGROUP2_SUPER_MAGIC {
        Ok(dir)
    } else {
        Err(DatapathError::NotCgroup2 { path: path.to_owned() })
    }
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = object.program_mut(name).ok_or(DatapathError::NoProgram { name })?;
    program
        .try_into()
        .map_err(|source| DatapathError::Program { name, source })
}

fn attach_cgroup_programs(
    object: &mut Ebpf,
    cgroup: &File,
    path: &Path,
    links_dir: &Path,
) -> Result<(), DatapathError> {
    // A cgroup's id is the inode number of its directory (kernfs with 64-bit inode numbers).
    let id = cgroup
        .metadata()
        .map_err(|source| DatapathError::Cgroup {
            path: path.to_owned(),
            source,
        })?
        .ino();
    for (name, attach_type) in order_of_attachment() {
        let program = object.program(name).ok_or(DatapathError::NoProgram { name })?;
        let fd = program.fd().map_err(|source| DatapathError::Program { name, source })?;
        links::attach(
            fd.as_fd(),
            attach_type,
            Target::Cgroup(cgroup.as_fd(), id),
            &links_dir.join(name),
        )
        .map_err(|source| DatapathError::AttachCgroup {
            name,
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Those that undo a translation before those that make one, so that no socket is translated only half.
fn order_of_attachment() -> impl Iterator<Item = (&'static str, AttachType)> {
    CGROUP_PROGRAMS.into_iter().rev()
}

/// The first address of a family; zero for none.
fn first(addresses: &[IpAddr], is_of_family: fn(&IpAddr) -> bool) -> Address {
    let found = addresses.iter().find(|address| is_of_family(address));
    found.map_or_else(Address::default, |address| Address::from_ip(*address))
}

fn flag(is: bool, bit: u32) -> u32 {
    if is { bit } else { 0 }
}

fn node_config(config: &DatapathConfig) -> NodeConfig {
    NodeConfig {
        abi_version: ABI_VERSION,
        tunnel_ifindex: config.tunnel_ifindex,
        uplink_ifindex: config.uplink_ifindex,
        flags: flag(config.masquerade, MASQUERADE)
            | flag(config.direct_return, DIRECT_RETURN)
            | flag(config.native_routing, NATIVE_ROUTING),
        node_address: first(&config.node_addresses, IpAddr::is_ipv4),
        router_address: first(&config.router_addresses, IpAddr::is_ipv4),
        node_address6: first(&config.node_addresses, IpAddr::is_ipv6),
        router_address6: first(&config.router_addresses, IpAddr::is_ipv6),
        tunnel_port_be: config.tunnel_port.to_be(),
        held_fragments: config.sizes.held_fragments,
        tunnel_id: config.tunnel_id,
    }
}

/// Takes over what the maps hold.
fn adopt(
    config: &DatapathConfig,
    maps: &PinnedMaps,
    readiness: ReadinessHandle,
    grace: Grace,
) -> Result<Services, MapsError> {
    let ids = maps.service_counters.len().saturating_sub(1);
    let mut sync = ServiceSync::new(maps.slots.len(), maps.backends.len(), ids, grace);
    let owners = (0..maps.backends.len()).filter_map(|index| Some((index, owner(&maps.backends.read(index)?)?)));
    readiness.adopt(owners.map(|(index, id)| (index, id.address)));
    let mut writer = PinnedWriter::open(PinnedMaps::open_any_version(&config.pin_dir)?, readiness)?;
    let services = writer.adopted_services()?;
    sync.adopt(adopted_backends(&maps.backends), services, Instant::now(), &mut writer);
    if config.direct_return && maps.node.get()?.flags & DIRECT_RETURN == 0 {
        sync.doubt_all(Instant::now(), &mut writer);
        writer.forget_all_flows();
    }
    Ok(Services { sync, writer })
}
