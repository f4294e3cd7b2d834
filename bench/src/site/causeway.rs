//! The data path of a node.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use causeway_agent::{
    bpf::{
        Datapath, DatapathConfig, DesiredPod, DesiredRoute, MapSizes, RouteMode, TcAttachment, XdpAttachment,
        remove_pins,
    },
    net::Tunnel,
};
use causeway_maps::{PinnedMaps, pins, view};

use super::{
    Cgroup, Netns, leftovers,
    machine::{Machine, VXLAN_PORT},
};

/// VXLAN network identifier of the pods' tunnel.
const TUNNEL_ID: u32 = 1;

/// How a node's data path is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// Whether XDP runs on the uplink.
    pub xdp: bool,
    /// Whether backends on other nodes answer clients directly.
    pub direct_return: bool,
}

/// The data path of a node.
pub struct Causeway {
    /// Programs and maps.
    pub datapath: Datapath,
    /// Processes in here are balanced at `connect`.
    pub cgroup: Cgroup,
    /// Directory of the pins.
    pub pin_dir: PathBuf,
}

impl Causeway {
    /// Loads programs and attaches them to a node's links and a cgroup of its own.
    pub(super) fn open(
        name: &str,
        settings: &Settings,
        machine: Machine,
        (node, tunnel): (&Netns, &Tunnel),
    ) -> Result<Self> {
        let cgroup = Cgroup::new(name)?;
        let pin_dir = leftovers::pin_dir(name);
        let config = DatapathConfig {
            bpffs: PathBuf::from(pins::BPFFS),
            pin_dir: pin_dir.clone(),
            cgroup_v2_dir: cgroup.path().to_owned(),
            tunnel_ifindex: tunnel.ifindex,
            uplink_ifindex: tunnel.uplink_ifindex,
            tunnel_port: VXLAN_PORT,
            tunnel_id: TUNNEL_ID,
            // Clients outside call pods by their own addresses too, and are to be answered from there.
            masquerade: false,
            direct_return: settings.direct_return,
            native_routing: false,
            xdp: settings.xdp.then_some(XdpAttachment::Native),
            node_addresses: vec![machine.address().into()],
            router_addresses: vec![machine.router().into()],
            sizes: settings.sizes,
            tc: TcAttachment::Probe,
        };
        match node.run(|| Datapath::open(&config).context("cannot open the data path")) {
            Ok(datapath) => Ok(Self {
                datapath,
                cgroup,
                pin_dir,
            }),
            Err(error) => {
                remove(&pin_dir);
                Err(error)
            }
        }
    }

    /// Takes in the node's pods.
    pub(super) fn enter_pods(&self, node: &Netns, pods: &[DesiredPod]) -> Result<()> {
        node.run(|| {
            for pod in pods {
                self.datapath
                    .attach_pod(pod.ifindex)
                    .context("cannot attach a pod's program")?;
            }
            self.datapath.sync_pods(pods).context("cannot enter the pods")?;
            Ok(())
        })
    }

    /// Tells where another node's pods are.
    pub(super) fn enter_route(&self, to: Machine) -> Result<()> {
        let route = DesiredRoute {
            address: to.pods().into(),
            prefix_len: 24,
            node: to.address().into(),
            mode: RouteMode::Vxlan { vni: TUNNEL_ID },
        };
        self.datapath
            .sync_routes(&[route])
            .context("cannot enter the route to another node's pods")?;
        Ok(())
    }

    /// The kernel's id of one of its programs; the last one loaded, should an older one not be gone yet.
    pub fn program(&self, name: &str) -> Result<u32> {
        // The kernel keeps 15 characters of a name.
        let known: String = name.chars().take(15).collect();
        let maps = PinnedMaps::open(&self.pin_dir).context("cannot open the pinned maps")?;
        let programs = view::programs(&maps, None).context("cannot list the programs")?;
        let ids = programs
            .iter()
            .filter(|program| program.name == known)
            .map(|program| program.id);
        ids.max().with_context(|| format!("the program {name} is not loaded"))
    }
}

fn remove(pin_dir: &Path) {
    for error in remove_pins(Path::new(pins::BPFFS), pin_dir) {
        eprintln!("pins stay behind: {error}");
    }
}

impl std::fmt::Debug for Causeway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Causeway")
            .field("pin_dir", &self.pin_dir)
            .finish_non_exhaustive()
    }
}

impl Drop for Causeway {
    fn drop(&mut self) {
        remove(&self.pin_dir);
    }
}
