//! The agent's start and end.
//!
//! Order of the start: what makes the machine unfit is reported first; then the data path is opened or adopted, if the node's
//! pod range is known from before, so that neither the control plane's absence nor a slow start of anything else touches
//! traffic; then remembered pods are taken over; the cluster's state comes last and in its own time.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::Context as _;
use causeway_proto::client::Client;
use nix::fcntl::{Flock, FlockArg};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{
        self,
        http::Served,
        inspect::{Inspection, Inspector},
    },
    bpf::{Datapath, DatapathConfig, TcAttachment, XdpAttachment},
    caps,
    config::{Config, LoadBalancerMode, Run, Xdp},
    image::ImageStore,
    metrics::{PodMetrics, SyncMetrics},
    net::{Network, NodeNetConfig, Ranges, Routing, Tunnel},
    reconcile::{
        datapath::Driver,
        events::Recorder,
        listings::Listings,
        node::{self, desired::Health, facts},
        pods::{
            adopt::addresses_of,
            chain,
            context::{Addresses, Context},
            manager::Manager,
            node_machine::NodeMachine,
            record::{Record, Records},
            spec::NodeSettings,
        },
        routes::{RouteSettings, pod_ranges},
    },
    runtime::{Runtime, RuntimeConfig, SandboxState},
    sockets::Resetter,
    watch::Watches,
};

/// A container's log file is rotated at this size.
const LOG_MAX_BYTES: u64 = 10 << 20;
/// Log files kept per container.
const LOG_MAX_FILES: u32 = 3;

/// Runs the agent of one node until `stop`. Pods and data path go on afterwards.
pub async fn run(options: &Run, config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    caps::require()?;
    let _lock = lock(&config.state_dir)?;
    caps::require_layers(&config.state_dir)?;
    let grpc = api::http::listen(options.listen, "--listen").await?;
    let http = api::http::listen(options.metrics_listen, "--metrics-listen").await?;
    tracing::info!(node = config.node_name, control = config.control, state = %config.state_dir.display(), "starting");

    let runtime = Runtime::new(RuntimeConfig {
        state_dir: config.state_dir.clone(),
        cgroup_parent: config.cgroup.clone(),
        holder_exe: PathBuf::from("/proc/self/exe"),
        log_max_bytes: LOG_MAX_BYTES,
        log_max_files: LOG_MAX_FILES,
    })
    .await
    .context("opening the pod sandboxes")?;
    let network = Network::new()?;
    // Needed only later, but a wrong name is better told at once.
    network
        .ifindex(&config.uplink)
        .await
        .context("looking for the uplink")?;
    let mut agent = Agent {
        options,
        config,
        runtime,
        network,
        tasks: JoinSet::new(),
        inspection: Inspection::default(),
        stop,
    };

    // With the range known from before, traffic is in order before anybody is asked anything.
    let remembered = read_range(&config.state_dir)?;
    if let Some(range) = &remembered {
        anyhow::ensure!(
            options.cluster_cidr.hold(range),
            "this node's pod range {range} is outside --cluster-cidr {}; to give it another, remove its pods and {}",
            options.cluster_cidr,
            config.state_dir.join(RANGE_FILE).display()
        );
    }
    let mut datapath = match &remembered {
        Some(range) => Some(agent.open_datapath(range).await?),
        None => None,
    };

    let client = Client::connect(&config.control)?;
    let watches = Watches::start(&client, &config.node_name);
    let (health, watch_health) = watch::channel(Health::NotReady {
        reason: "NetworkNotReady",
        message: "waiting for a pod range from the control plane".to_owned(),
    });
    let port = options.listen.port();
    let own_range = Arc::new(remembered.clone().map_or_else(OnceLock::new, OnceLock::from));
    agent.spawn_node(&client, &watches, Arc::clone(&own_range), watch_health.clone(), port);
    agent.spawn_grpc(grpc, watch_health.clone());

    let range = match remembered {
        Some(range) => range,
        None => match agent.wait_for_range(&watches).await {
            Some(range) => range,
            None => return Ok(()),
        },
    };
    let opened = if let Some(opened) = datapath.take() {
        opened
    } else {
        let opened = agent.open_datapath(&range).await?;
        write_range(&config.state_dir, &range)?;
        opened
    };
    // Already set when it was remembered.
    let _ = own_range.set(range.clone());
    let mut registry = Registry::with_prefix("causeway_agent");
    agent
        .spawn_pods(&client, &watches, &range, opened.clone(), &mut registry)
        .await?;
    let (datapath, _) = opened;
    registry
        .sub_registry_with_prefix("datapath")
        .register_collector(Box::new(api::datapath::DatapathMetrics::new(
            datapath,
            config.pin_dir.clone(),
        )));
    registry.register_collector(Box::new(api::cluster::ClusterMetrics::new(watches.clone())));
    let served = Served {
        registry: Arc::new(registry),
        health: watch_health,
    };
    agent.tasks.spawn(api::http::serve(http, served));
    tracing::info!(node = config.node_name, %range, "ready");
    agent.watch_range(&watches, range, health);

    let stop = agent.stop.clone();
    tokio::select! {
        // Parts end because of it: it comes first.
        biased;
        () = stop.cancelled() => tracing::info!("stopping; pods and data path go on"),
        Some(ended) = agent.tasks.join_next() => {
            ended.context("a part of the agent failed")?;
            anyhow::bail!("a part of the agent ended");
        }
    }
    Ok(())
}

/// What the start works with.
struct Agent<'a> {
    options: &'a Run,
    config: &'a Config,
    runtime: Runtime,
    network: Network,
    tasks: JoinSet<()>,
    inspection: Inspection,
    stop: CancellationToken,
}

impl Agent<'_> {
    /// Makes the node's network and opens the data path, or adopts both.
    async fn open_datapath(&self, range: &Ranges) -> anyhow::Result<(Datapath, Tunnel)> {
        let (options, config) = (self.options, self.config);
        let net = NodeNetConfig {
            uplink: config.uplink.clone(),
            vxlan_port: options.vxlan_port,
            ipv6_underlay: config.has_ipv6_underlay(),
            routing: options.routing,
            cluster_ranges: options.cluster_cidr.clone(),
            pod_ranges: range.clone(),
        };
        let tunnel = self
            .network
            .ensure_node(&net)
            .await
            .context("setting up the node's network")?;
        let path = DatapathConfig {
            bpffs: options.bpffs.clone(),
            pin_dir: config.pin_dir.clone(),
            cgroup_v2_dir: self.runtime.cgroup_v2_path(),
            tunnel_ifindex: tunnel.ifindex,
            uplink_ifindex: tunnel.uplink_ifindex,
            tunnel_port: options.vxlan_port,
            tunnel_id: options.vni,
            masquerade: options.masquerade,
            direct_return: options.load_balancer_mode == LoadBalancerMode::Dsr,
            native_routing: options.routing == Routing::Native,
            xdp: match options.xdp {
                Xdp::Off => None,
                Xdp::Native => Some(XdpAttachment::Native),
                Xdp::Generic => Some(XdpAttachment::Generic),
            },
            node_addresses: config.node_ips.clone(),
            router_addresses: range.routers(),
            sizes: options.map_sizes(),
            tc: TcAttachment::Probe,
        };
        let begun = std::time::Instant::now();
        let datapath = tokio::task::spawn_blocking(move || Datapath::open(&path))
            .await?
            .context("opening the data path")?;
        tracing::info!(took = ?begun.elapsed(), "data path open");
        if datapath.relay_log().context("hearing what the programs say")? {
            tracing::info!("the programs are of a development build: they say here what the kernel refuses them");
        }
        Ok((datapath, tunnel))
    }

    /// Starts registration and heartbeats.
    fn spawn_node(
        &mut self,
        client: &Client,
        watches: &Watches,
        range: Arc<OnceLock<Ranges>>,
        health: watch::Receiver<Health>,
        port: u16,
    ) {
        let facts = facts::Facts::gather(&facts::Given {
            name: &self.config.node_name,
            addresses: &self.config.node_ips,
            port,
            max_pods: self.options.max_pods,
            cpu_millis: self.options.cpu_millis,
            memory_bytes: self.options.memory_bytes,
        });
        self.tasks.spawn(node::run::run(
            client.clone(),
            watches.nodes.clone(),
            facts,
            range,
            health,
        ));
        let (name, interval) = (self.config.node_name.clone(), self.options.heartbeat_interval);
        self.tasks.spawn(node::lease::run(client.clone(), name, interval));
    }

    /// Starts the gRPC API, on TCP and on a socket in the state directory.
    fn spawn_grpc(&mut self, tcp: TcpListener, health: watch::Receiver<Health>) {
        let socket = api::grpc::listen(&self.config.state_dir)
            .inspect_err(|error| tracing::warn!(error = chain(error), "served over TCP only"))
            .ok();
        let inspection = self.inspection.clone();
        self.tasks.spawn(api::grpc::serve(tcp, socket, health, inspection));
    }

    /// Waits until the control plane has given this node a pod range; `None` when the agent is to stop first.
    async fn wait_for_range(&mut self, watches: &Watches) -> Option<Ranges> {
        let mut changes = watches.nodes.changes();
        loop {
            if let Some(range) = watches
                .nodes
                .get("", &self.config.node_name)
                .and_then(|node| pod_ranges(&node))
            {
                return Some(range);
            }
            tokio::select! {
                () = changes.changed() => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// Takes over the remembered pods and starts everything that keeps pods, services and routes in step.
    async fn spawn_pods(
        &mut self,
        client: &Client,
        watches: &Watches,
        range: &Ranges,
        (datapath, tunnel): (Datapath, Tunnel),
        registry: &mut Registry,
    ) -> anyhow::Result<()> {
        let (options, config) = (self.options, self.config);
        let recorder = Recorder::start(client.clone(), "causeway-agent", &config.node_name);
        let (pod_metrics, sync_metrics) = (PodMetrics::default(), SyncMetrics::default());
        pod_metrics.register(registry);
        sync_metrics.register(registry);

        let records = Records::open(&config.state_dir.join("records"))?;
        let (remembered, damaged) = records.load()?;
        for error in damaged {
            tracing::error!(error = crate::reconcile::pods::chain(&error), "pod record ignored");
        }
        let sandboxes = self.runtime.sandboxes().await.context("looking for pod sandboxes")?;
        let strays: Vec<_> = sandboxes
            .into_iter()
            .filter(|state| !remembered.iter().any(|record| record.uid() == state.id.0))
            .collect();
        let machine = NodeMachine {
            runtime: self.runtime.clone(),
            images: ImageStore::open(&config.state_dir).context("opening the image store")?,
            network: self.network.clone(),
            readiness: datapath.readiness(),
            datapath: datapath.clone(),
            routers: range.routers(),
            tunnel,
        };
        let listings = Listings::default();
        let context = Context {
            machine: Arc::new(machine),
            client: client.clone(),
            recorder: recorder.clone(),
            records,
            addresses: Addresses::new(range, &owned_addresses(&remembered, &strays), &config.state_dir),
            node: NodeSettings {
                name: config.node_name.clone(),
                host_ips: config.node_ips.clone(),
                memory_bytes: facts::memory_bytes(),
                resolv_conf: fs::read_to_string(&options.resolv_conf).unwrap_or_default(),
                pids_limit: Some(options.pod_pids),
            },
            listings: listings.clone(),
            delays: options.delays(),
            metrics: pod_metrics,
        };
        tracing::info!(pods = remembered.len(), strays = strays.len(), "taking over what runs");
        let changes = self.runtime.changes();
        let manager = Manager::new(Arc::new(context), watches.pods.clone(), remembered, strays);
        self.tasks.spawn(manager.run(changes, self.stop.clone()));
        let origins = datapath
            .socket_origins()
            .context("the sockets' origins cannot be read")?;
        let sockets = Resetter::start(self.runtime.clone(), origins, sync_metrics.clone());
        let driver = Driver {
            datapath,
            watches: watches.clone(),
            recorder,
            metrics: sync_metrics,
            node_name: config.node_name.clone(),
            node_addresses: config.node_ips.iter().copied().chain(range.routers()).collect(),
            routes: RouteSettings {
                routing: options.routing,
                uplink: config.uplink.clone(),
                cluster: options.cluster_cidr.clone(),
                own: range.clone(),
                vni: options.vni,
                native: options.native_cidrs.clone(),
            },
            network: self.network.clone(),
            listings,
            sockets,
        };
        self.inspection.open(Inspector {
            pin_dir: config.pin_dir.clone(),
            driver: driver.clone(),
        });
        self.tasks.spawn(driver.clone().run_services(self.stop.clone()));
        self.tasks.spawn(driver.clone().run_collection(self.stop.clone()));
        self.tasks.spawn(driver.run_routes(self.stop.clone()));
        Ok(())
    }

    /// Declares the node ready as long as the control plane gives it the range it uses.
    fn watch_range(&mut self, watches: &Watches, range: Ranges, health: watch::Sender<Health>) {
        let (nodes, name) = (watches.nodes.clone(), self.config.node_name.clone());
        let state_dir = self.config.state_dir.clone();
        self.tasks.spawn(async move {
            let mut changes = nodes.changes();
            let mut remembered = range.clone();
            loop {
                let given = nodes.get("", &name).and_then(|node| pod_ranges(&node));
                if let Some(given) = given.as_ref().filter(|given| given.extend(&range) && **given != remembered) {
                    remember_more(&state_dir, given);
                    remembered = given.clone();
                }
                let now = match given {
                    Some(given) if !given.extend(&range) => Health::NotReady {
                        reason: "PodRangeChanged",
                        message: format!(
                            "the control plane gives this node {given}, its pods use {range}: delete the pods, stop the \
                             agent, remove {}, and start it again",
                            state_dir.join(RANGE_FILE).display()
                        ),
                    },
                    _ => Health::Ready,
                };
                health.send_if_modified(|health| {
                    let differs = *health != now;
                    *health = now;
                    differs
                });
                changes.changed().await;
            }
        });
    }
}

/// Addresses that remembered pods and unexplained sandboxes use.
fn owned_addresses(records: &[Record], strays: &[SandboxState]) -> BTreeMap<String, Vec<IpAddr>> {
    let of_records = records
        .iter()
        .map(|record| (record.uid().to_owned(), record.addresses.clone()));
    let of_strays = strays.iter().map(|state| (state.id.0.clone(), addresses_of(state)));
    of_records.chain(of_strays).collect()
}

/// Makes sure that no other agent works on this state directory.
fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    fs::create_dir_all(state_dir).with_context(|| format!("making the state directory {}", state_dir.display()))?;
    let path = state_dir.join("agent.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        anyhow::Error::new(error).context(format!(
            "another agent uses the state directory {}",
            state_dir.display()
        ))
    })
}

/// The node's pod range, as the last agent had it.
const RANGE_FILE: &str = "pod-range";

fn read_range(state_dir: &Path) -> anyhow::Result<Option<Ranges>> {
    let path = state_dir.join(RANGE_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(
            text.trim()
                .parse()
                .with_context(|| format!("reading {}", path.display()))?,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// A second family is not for an agent that runs, whose pods and programs know of one; the next one begins with both.
fn remember_more(state_dir: &Path, ranges: &Ranges) {
    match write_range(state_dir, ranges) {
        Ok(()) => {
            tracing::warn!(%ranges, "this node has got a range of another family: used from the agent's next start on");
        }
        Err(error) => tracing::error!(error = format!("{error:#}"), %ranges, "a further range is not remembered"),
    }
}

fn write_range(state_dir: &Path, range: &Ranges) -> anyhow::Result<()> {
    let (path, temporary) = (state_dir.join(RANGE_FILE), state_dir.join("pod-range.new"));
    let write = || -> io::Result<()> {
        fs::write(&temporary, format!("{range}\n"))?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_takes_one_agent() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let error = lock(directory.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("another agent uses the state directory"),
            "{error}"
        );
        drop(first);
        lock(directory.path()).unwrap();
    }

    #[test]
    fn the_pod_range_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_range(directory.path()).unwrap(), None);
        for text in ["10.244.3.0/24", "10.244.3.0/24,fd00:244:0:3::/64"] {
            let range = text.parse().unwrap();
            write_range(directory.path(), &range).unwrap();
            assert_eq!(read_range(directory.path()).unwrap(), Some(range));
        }
        fs::write(directory.path().join(RANGE_FILE), "nonsense").unwrap();
        assert!(read_range(directory.path()).is_err());
    }
}
