//! A running cluster.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{self, Launch, Process};
use super::{Spec, Store, host, remove, topology};
use crate::compile::Binaries;
use crate::http::{self, Answer};
use crate::image::{self, Image};
use crate::progress::Progress;
use crate::{command, interrupt, wait};

const ETCD: &str = "etcd";
const CONTROL: &str = "control";
/// Client port of the cluster's etcd, on the loopback of the underlay namespace.
const ETCD_CLIENT: &str = "http://127.0.0.1:2379";
/// Peer port, which nothing uses with one member.
const ETCD_PEER: &str = "http://127.0.0.1:2380";
/// Bound for a server to listen.
const LISTEN: Duration = Duration::from_mins(1);
/// Bound for a process told to stop.
const STOP: Duration = Duration::from_secs(30);
/// Timeout of one request to a pod.
const REQUEST: Duration = Duration::from_secs(10);

/// A cluster whose processes this process started. Dropping it leaves all running: see [`remove::run`].
pub struct Cluster {
    spec: Spec,
    binaries: Binaries,
    cgroup2: PathBuf,
    processes: BTreeMap<String, Process>,
    /// Those told to stop.
    stopped: BTreeMap<String, Process>,
}

/// The right to bring up a cluster of a name that nothing else has.
pub struct Claimed {
    spec: Spec,
    cgroup2: PathBuf,
}

impl Claimed {
    /// Takes the name; an error if a cluster of that name, or what remains of one, is here.
    pub fn new(spec: Spec) -> Result<Self> {
        host::check()?;
        let cgroup2 = host::cgroup2()?;
        remove::check_free(&spec.name)?;
        let directory = spec.run_dir();
        let parent = directory.parent().unwrap_or(&directory);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        // Of several that come this far, one makes the directory.
        fs::create_dir(&directory).with_context(|| {
            format!(
                "cannot take the name {}: cannot make {}",
                spec.name,
                directory.display()
            )
        })?;
        Ok(Self { spec, cgroup2 })
    }

    /// Names and addresses.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }
}

impl Cluster {
    /// Makes the network and starts every process. What a failure leaves behind is for [`remove::run`].
    pub fn start(progress: &Progress, claimed: Claimed, binaries: Binaries, image: &Image) -> Result<Self> {
        let Claimed { spec, cgroup2 } = claimed;
        let mut cluster = Self {
            spec,
            binaries,
            cgroup2,
            processes: BTreeMap::new(),
            stopped: BTreeMap::new(),
        };
        let system = cluster.cgroup2.join(cluster.spec.system_cgroup());
        for directory in [cluster.spec.logs_dir(), system] {
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }

        progress.begin("making the network between the nodes");
        topology::create(&cluster.spec)?;
        let nodes = cluster.spec.node_names();
        progress.done(&format!(
            "network: {} and {}",
            cluster.spec.underlay_netns(),
            nodes
                .iter()
                .map(|node| cluster.spec.netns(node))
                .collect::<Vec<_>>()
                .join(", ")
        ));

        progress.begin("starting the control plane");
        if cluster.spec.store == Store::Etcd {
            cluster.launch(cluster.etcd())?;
        }
        cluster.launch(cluster.control())?;
        // While that starts: images have to be there before an agent looks for them.
        progress.detail("importing the demo image on every node");
        cluster.import(&nodes, image)?;
        cluster.wait_for_control(progress)?;
        progress.done(&format!(
            "control plane: {} store, {} and {}",
            cluster.spec.store.argument(),
            cluster.spec.control_address(),
            cluster.spec.server()
        ));

        progress.begin("starting the nodes");
        for (number, node) in (1..).zip(&nodes) {
            cluster.launch(cluster.agent(number, node))?;
        }
        cluster.wait(progress, "all nodes to be Ready", Duration::from_mins(1), |cluster| {
            let ready = cluster.ready_nodes().map_err(|error| format!("{error:#}"))?;
            if ready.len() == cluster.spec.nodes {
                Ok(())
            } else {
                Err(format!("ready: {}", ready.join(", ")))
            }
        })?;
        progress.done(&format!("nodes: {} Ready", nodes.join(", ")));
        Ok(cluster)
    }

    /// Names and addresses.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The programs it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The control plane's process.
    pub fn control_process(&mut self) -> Result<&mut Process> {
        self.process(CONTROL)
    }

    /// The process of a node's agent.
    pub fn agent_process(&mut self, node: &str) -> Result<&mut Process> {
        self.process(node)
    }

    /// The process of the cluster's etcd.
    pub fn etcd_process(&mut self) -> Result<&mut Process> {
        self.process(ETCD)
    }

    /// Sends a signal to a process and waits for its end; until it is restarted its absence is no error.
    pub fn stop(&mut self, name: &str, signal: Signal) -> Result<()> {
        let process = self.process(name)?;
        process.signal(signal)?;
        wait::until(&format!("{name} to end after {signal}"), STOP, || {
            match process.ended() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("it still runs".to_owned()),
                Err(error) => Err(format!("{error:#}")),
            }
        })?;
        if let Some((name, process)) = self.processes.remove_entry(name) {
            self.stopped.insert(name, process);
        }
        Ok(())
    }

    /// Starts a stopped process again, as it was started first.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let stopped = self
            .stopped
            .remove(name)
            .with_context(|| format!("{name} was not stopped"))?;
        let process = stopped.start_again()?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Process names: `etcd`, `control`, and the agents by their nodes.
    pub fn process_names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// Which process has ended, if one has.
    pub fn ended(&mut self) -> Result<Option<process::Exited>> {
        for process in self.processes.values_mut() {
            if let Some(exited) = process.ended()? {
                return Ok(Some(exited));
            }
        }
        Ok(None)
    }

    /// Waits for a predicate; gives up early when a process ends or Ctrl-C is pressed. `look`'s `Err` says what is
    /// missing.
    pub fn wait<T>(
        &mut self,
        progress: &Progress,
        what: &str,
        bound: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T> {
        let mut fatal = None;
        let waited = wait::until(what, bound, || {
            match interrupt::check().and_then(|()| self.ended()) {
                Ok(None) => {}
                Ok(Some(exited)) => fatal = Some(anyhow!(exited)),
                Err(error) => fatal = Some(error),
            }
            if fatal.is_some() {
                return Ok(None);
            }
            look(self).map(Some).inspect_err(|missing| progress.detail(missing))
        });
        match (waited, fatal) {
            (_, Some(error)) => Err(error),
            (Ok(Some(value)), None) => Ok(value),
            (Ok(None), None) => bail!("waiting for {what} was given up"),
            (Err(timed_out), None) => Err(timed_out.into()),
        }
    }

    /// The `causeway` command, ready for arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binaries.cli);
        command.env("CAUSEWAY_SERVER", self.spec.server());
        command
    }

    /// Runs `causeway` with arguments.
    pub fn causeway(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command();
        command
            .args(args)
            .output()
            .with_context(|| format!("cannot run {}", command::text(&command)))
    }

    /// Runs `causeway` with arguments and answers its standard output; an error unless it succeeds.
    pub fn causeway_ok(&self, args: &[&str]) -> Result<String> {
        command::capture(self.command().args(args))
    }

    /// Runs `causeway … -o json`.
    pub fn causeway_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.causeway_ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("causeway {}: output is not JSON", args.join(" ")))
    }

    /// Items of a list.
    pub fn list(&self, args: &[&str]) -> Result<Vec<Value>> {
        let list = self.causeway_json(&[&["get"], args].concat())?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Names of the nodes whose Ready condition is True.
    pub fn ready_nodes(&self) -> Result<Vec<String>> {
        Ok(self
            .list(&["nodes"])?
            .iter()
            .filter(|node| is_ready(node))
            .map(name)
            .collect())
    }

    /// Sends one HTTP request from a node's network namespace. Socket-level balancing does not apply to it: use it for
    /// pod addresses.
    pub fn http(&self, node: &str, method: &str, to: SocketAddr, path: &str) -> Result<Answer> {
        self.http_within(node, method, to, path, REQUEST)
    }

    /// Like [`Cluster::http`], with a timeout of its own.
    pub fn http_within(
        &self,
        node: &str,
        method: &str,
        to: SocketAddr,
        path: &str,
        timeout: Duration,
    ) -> Result<Answer> {
        http::request(&self.spec.netns(node), method, to, path, timeout)
    }

    /// The demo program as a process of a node itself: in its network namespace and its cgroup.
    pub fn demo_on(&self, node: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.command_on(node, &self.binaries.demo)?;
        command.args(args);
        Ok(command)
    }

    /// Any program in the same way.
    pub fn command_on(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let cgroup = self.cgroup2.join(self.spec.cgroup(node)).join("host");
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        let mut command = Command::new(program);
        process::enter(&mut command, &self.spec.netns(node), &cgroup)?;
        Ok(command)
    }

    /// Ends of all logs, for an error report.
    pub fn log_tails(&self) -> String {
        let tails = self
            .processes
            .values()
            .map(|process| [process.name(), &process.log_tail()].join("\n"));
        tails.collect::<Vec<_>>().join("\n\n")
    }

    /// Waits until the control plane accepts connections on its socket.
    pub fn wait_for_control(&mut self, progress: &Progress) -> Result<()> {
        self.wait(progress, "the control plane to listen", LISTEN, |cluster| {
            let socket = cluster.spec.control_socket();
            UnixStream::connect(&socket)
                .map(drop)
                .map_err(|error| format!("{}: {error}", socket.display()))
        })
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes
            .get_mut(name)
            .with_context(|| format!("no process {name} in cluster {}", self.spec.name))
    }

    fn import(&self, nodes: &[String], image: &Image) -> Result<()> {
        thread::scope(|scope| {
            let imports: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let directory = self.spec.node_state_dir(node);
                    scope.spawn(move || {
                        command::capture(
                            Command::new(&self.binaries.agent)
                                .args(["image", "import", "--state-dir"])
                                .arg(&directory)
                                .args(["--ref", image::REFERENCE])
                                .arg(&image.path),
                        )
                    })
                })
                .collect();
            for import in imports {
                import.join().map_err(|_| anyhow!("an import panicked"))??;
            }
            Ok(())
        })
    }

    fn launch(&mut self, launch: Launch) -> Result<()> {
        let process = Process::start(launch)?;
        self.processes.insert(process.name().to_owned(), process);
        Ok(())
    }

    fn launch_of(&self, name: &str, program: &Path, netns: String, args: Vec<String>) -> Launch {
        Launch {
            name: name.to_owned(),
            program: program.to_owned(),
            args,
            netns,
            cgroup: self.cgroup2.join(self.spec.system_cgroup()),
            log: self.spec.logs_dir().join(format!("{name}.log")),
            pid_file: self.spec.run_dir().join(format!("{name}.pid")),
        }
    }

    fn etcd(&self) -> Launch {
        let data = self.spec.state_dir().join("etcd").display().to_string();
        let args = [
            ("--name", "causeway"),
            ("--data-dir", &data),
            ("--listen-client-urls", ETCD_CLIENT),
            ("--advertise-client-urls", ETCD_CLIENT),
            ("--listen-peer-urls", ETCD_PEER),
            ("--initial-advertise-peer-urls", ETCD_PEER),
            ("--initial-cluster", &format!("causeway={ETCD_PEER}")),
        ];
        self.launch_of(ETCD, Path::new("etcd"), self.spec.underlay_netns(), flatten(&args))
    }

    fn control(&self) -> Launch {
        let spec = &self.spec;
        let address = spec.control_address().to_string();
        let socket = spec.server();
        let data = spec.state_dir().join(CONTROL).display().to_string();
        let (cluster_cidrs, service_cidrs) = (spec.cluster_cidrs(), spec.service_cidrs());
        let mut args = vec![
            ("--listen", address.as_str()),
            ("--listen", &socket),
            ("--store", spec.store.argument()),
            ("--cluster-cidr", &cluster_cidrs),
            ("--service-cidr", &service_cidrs),
        ];
        match spec.store {
            Store::Embedded => args.push(("--data-dir", &data)),
            Store::Etcd => args.push(("--etcd-endpoints", ETCD_CLIENT)),
        }
        let mut args = flatten(&args);
        args.extend(spec.control_args.iter().cloned());
        self.launch_of(CONTROL, &self.binaries.control, spec.underlay_netns(), args)
    }

    fn agent(&self, number: usize, node: &str) -> Launch {
        let spec = &self.spec;
        let mut args = vec!["run".to_owned()];
        args.extend(flatten(&[
            ("--cluster", &spec.name),
            ("--node-name", node),
            ("--control", &format!("http://{}", spec.control_address())),
            ("--node-ip", &spec.node_ips(number)),
            ("--uplink", topology::UPLINK),
            ("--state-dir", &spec.node_state_dir(node).display().to_string()),
            ("--cgroup", &spec.cgroup(node)),
            ("--cluster-cidr", &spec.cluster_cidrs()),
            ("--routing", spec.routing.argument()),
        ]));
        self.launch_of(node, &self.binaries.agent, spec.netns(node), args)
    }
}

/// Whether an object's Ready condition is True.
pub fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"].as_array().is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// An object's name.
pub(super) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn flatten(args: &[(&str, &str)]) -> Vec<String> {
    args.iter()
        .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
        .collect()
}
