//! Whole clusters for tests: the same that `cargo xtask up` starts, under names and addresses of their own.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::Value;
use xtask::cluster::example::Pod;
use xtask::cluster::{Claimed, Cluster, Spec, Store, is_ready, remove};
use xtask::compile::{self, Binaries, Profile};
use xtask::image::{self, Image};
use xtask::lock;
use xtask::progress::Progress;

/// Number of replicas in `examples/web.yaml`.
pub const REPLICAS: usize = 3;

/// Bound for what a cluster does by itself, on a busy machine.
pub const SOON: Duration = Duration::from_mins(1);

/// Requests by which it is seen who answers: of three backends drawn at random, one is missed by all once in 10^10 times.
const ANSWERS: u64 = 60;

/// A running cluster, removed when this is dropped. At most one exists on a machine at any time, whatever the number of
/// test processes: two cores carry no more.
pub struct TestCluster {
    cluster: Cluster,
    progress: Progress,
    /// Held until everything is removed, so the last field: fields are dropped in order.
    _turn: File,
}

impl TestCluster {
    /// Starts a cluster and waits until its nodes are Ready.
    ///
    /// # Panics
    ///
    /// When it does not come up; removes what came up.
    pub fn start(nodes: usize, store: Store) -> Self {
        Self::start_with(nodes, store, |_| {})
    }

    /// Like [`TestCluster::start`], with changes to its description.
    ///
    /// # Panics
    ///
    /// When it does not come up; removes what came up.
    pub fn start_with(nodes: usize, store: Store, change: impl FnOnce(&mut Spec)) -> Self {
        let (binaries, image) = programs().expect("the programs under test do not build");
        let turn = wait_for_turn().expect("cannot lock the machine for one cluster");
        let mut spec = Spec::new(&unique_name(), nodes, store).expect("a good specification");
        // Unlike the development cluster's, so that no address can be hard-coded anywhere.
        spec.underlay = [172, 31, 7];
        "10.200.0.0/16".clone_into(&mut spec.cluster_cidr);
        "10.97.128.0/17".clone_into(&mut spec.service_cidr);
        change(&mut spec);
        let progress = Progress::silent();
        let claimed = Claimed::new(spec.clone()).expect("a cluster name that nobody has");
        match Cluster::start(&progress, claimed, binaries.clone(), image) {
            Ok(cluster) => Self {
                cluster,
                progress,
                _turn: turn,
            },
            Err(error) => {
                let logs = logs(&spec);
                remove::remove(&spec.name);
                panic!("the cluster does not come up: {error:#}\n{logs}");
            }
        }
    }

    /// Deploys the example, waits until it serves, and answers what there is to talk to.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn deploy_web(&mut self) -> Web {
        self.cluster.deploy_example().expect("the example is applied");
        let pods = self.wait_for_web(REPLICAS);
        let clients = self.wait_for_pods("app=client", self.spec().nodes);
        let url = format!(
            "http://{}/",
            self.virtual_ip("web").expect("the service has a virtual IP")
        );
        for node in self.spec().node_names() {
            self.cluster
                .wait_for_answer(&self.progress, &node, &url)
                .expect("the virtual IP answers");
        }
        Web { url, pods, clients }
    }

    /// Waits until exactly `count` pods of the example are Ready and in the endpoints.
    ///
    /// # Panics
    ///
    /// When they are not in time.
    pub fn wait_for_web(&mut self, count: usize) -> Vec<Pod> {
        let pods = self.wait_for_pods("app=web,env=demo", count);
        self.cluster
            .wait_for_endpoints(&self.progress, "web", count)
            .expect("endpoints of the example");
        pods
    }

    /// Waits until exactly `count` pods match and all are Ready.
    ///
    /// # Panics
    ///
    /// When they are not in time.
    pub fn wait_for_pods(&mut self, selector: &str, count: usize) -> Vec<Pod> {
        self.cluster
            .wait_for_pods(&self.progress, selector, count)
            .expect("Ready pods")
    }

    /// Waits until pods of these names are Ready.
    ///
    /// # Panics
    ///
    /// When they are not in time.
    #[track_caller]
    pub fn wait_for_ready(&mut self, names: &[&str]) {
        for name in names {
            self.eventually(&format!("{name} to be Ready"), SOON, |cluster| {
                let pod = pod(cluster, name)?;
                if is_ready(&pod) {
                    Ok(())
                } else {
                    Err(pod["status"].to_string())
                }
            });
        }
    }

    /// Waits until every node, and a client pod on every node, is answered at `url` by pods of exactly these names and by nothing
    /// else.
    ///
    /// # Panics
    ///
    /// When they are not in time.
    #[track_caller]
    pub fn wait_for_answers(&mut self, url: &str, wanted: &[&str]) {
        let nodes = self.spec().node_names();
        let clients = self.wait_for_pods("app=client", nodes.len());
        self.eventually(&format!("{wanted:?} to answer at {url}"), SOON, |cluster| {
            let from_nodes = nodes
                .iter()
                .map(|node| (node, cluster.fetch_from_node(node, url, ANSWERS)));
            let from_pods = clients
                .iter()
                .map(|client| (&client.name, cluster.fetch_from_pod(client, url, ANSWERS)));
            for (from, tally) in from_nodes.chain(from_pods) {
                let tally = tally.map_err(|error| format!("from {from}: {error:#}"))?;
                let names: BTreeSet<_> = tally.by_pod.keys().map(String::as_str).collect();
                if tally.errors > 0 || names != wanted.iter().copied().collect() {
                    return Err(format!("from {from}: {tally:?}"));
                }
            }
            Ok(())
        });
    }

    /// Waits until every node's maps hold what the cluster wants.
    ///
    /// # Panics
    ///
    /// When they do not in time.
    #[track_caller]
    pub fn wait_for_kernel_to_agree(&mut self) {
        for node in self.spec().node_names() {
            self.eventually(&format!("no difference on {node}"), SOON, |cluster| {
                let check = ["bpf", "check", "--cluster", &cluster.spec().name, "--node", &node];
                cluster
                    .causeway_ok(&check)
                    .map(drop)
                    .map_err(|error| format!("{error:#}"))
            });
        }
    }

    /// Waits for a predicate; fails early when a process of the cluster ends. The `Err` of `look` says what is missing.
    ///
    /// # Panics
    ///
    /// When it does not hold in time.
    #[track_caller]
    pub fn eventually<T>(&mut self, what: &str, bound: Duration, look: impl FnMut(&Cluster) -> Result<T, String>) -> T {
        match self.cluster.wait(&self.progress, what, bound, look) {
            Ok(value) => value,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Tells a pod something over HTTP (`/unready`, `/crash`…).
    ///
    /// # Panics
    ///
    /// When it does not obey.
    pub fn tell(&self, pod: &Pod, path: &str) {
        let answer = self
            .http(&pod.node, "POST", pod.address(), path)
            .expect("the pod answers");
        assert_eq!(answer.status, 200, "{} to {path}: {}", pod.name, answer.body);
    }
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let name = self.spec().name.clone();
        if thread::panicking() {
            for args in [
                &["get", "nodes,pods,svc,endpoints", "-o", "wide", "--all-namespaces"][..],
                &["get", "events"],
            ] {
                match self.causeway_ok(args) {
                    Ok(text) => eprintln!("--- causeway {}\n{text}", args.join(" ")),
                    Err(error) => eprintln!("--- {error:#}"),
                }
            }
            eprintln!("{}", logs(self.spec()));
        }
        let report = remove::remove(&name);
        let traces: Vec<_> = remove::traces()
            .into_iter()
            .filter(|trace| trace.contains(&name))
            .collect();
        if thread::panicking() {
            eprintln!(
                "cluster {name}: removed {:?}, left {:?} {traces:?}",
                report.removed, report.left
            );
        } else {
            assert!(
                report.left.is_empty() && traces.is_empty(),
                "left behind: {:?} {traces:?}",
                report.left
            );
        }
    }
}

/// The deployed example.
#[derive(Debug, Clone)]
pub struct Web {
    /// `http://<virtual IP>/`.
    pub url: String,
    /// Its replicas.
    pub pods: Vec<Pod>,
    /// A client pod per node.
    pub clients: Vec<Pod>,
}

impl Web {
    /// The client pod on a node.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn client_on(&self, node: &str) -> &Pod {
        self.clients
            .iter()
            .find(|client| client.node == node)
            .expect("a client pod on every node")
    }
}

/// A pod as JSON; the reason in words if there is none.
pub fn pod(cluster: &Cluster, name: &str) -> Result<Value, String> {
    cluster
        .causeway_json(&["get", "pod", name])
        .map_err(|error| format!("{error:#}"))
}

/// Now, in milliseconds since the epoch, as in the demo program's tallies.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Set to anything, it keeps cluster tests from building the programs they run: what was built before is taken.
const NO_BUILD: &str = "CAUSEWAY_TEST_NO_BUILD";

/// Builds what clusters run, once per test process.
fn programs() -> Result<&'static (Binaries, Image)> {
    static PROGRAMS: OnceLock<Result<(Binaries, Image), String>> = OnceLock::new();
    let built = PROGRAMS.get_or_init(|| {
        let build = || -> Result<_> {
            let profile = Profile::Dev;
            let built = env::var_os(NO_BUILD).map(|_| compile::built(profile));
            let binaries = built.unwrap_or_else(|| compile::build(profile))?;
            let image = image::build(&binaries.demo)?;
            Ok((binaries, image))
        };
        build().map_err(|error| format!("{error:#}"))
    });
    built.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Waits until no other test, of this process or another, has a cluster.
fn wait_for_turn() -> Result<File> {
    lock::acquire(&compile::target_dir().join("cluster-tests.lock"), || {})
}

fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Ends of all logs.
fn logs(spec: &Spec) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(spec.logs_dir()).into_iter().flatten().flatten() {
        let log = std::fs::read(entry.path()).unwrap_or_default();
        let tail = xtask::command::tail(&String::from_utf8_lossy(&log), 40);
        text += &["--- ", &entry.file_name().to_string_lossy(), "\n", &tail, "\n"].concat();
    }
    text
}
