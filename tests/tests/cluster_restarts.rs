//! An agent that is killed again and again under load: nobody notices.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use causeway_tests::{cluster::TestCluster, netns::command_in};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::cluster::Store;

/// Agents, one a node.
const NODES: [&str; 2] = ["node-1", "node-2"];
/// How often all of them are killed: 50 kills.
const ROUNDS: usize = 25;
/// How long an agent may take to have everything in step, and an exchange, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two requests on a connection, and between two exchanges of datagrams: thousands a second altogether, and time left for
/// agents to start in.
const PAUSE: Duration = Duration::from_millis(2);
/// Where agents serve what they measure.
const METRICS: u16 = 6561;

/// wrk, under nice(1), which keeps its connections or makes one per request, and tells at its end what failed.
struct Wrk(Child);

impl Wrk {
    fn start(mut command: Command, url: &str, new_connections: bool, script: &Path) -> Self {
        // What the cluster's own processes leave of the processors, or agents would take long to start.
        command.args(["-n", "19", "wrk", "--threads", "1", "--connections", "2", "--script"]);
        command.arg(script);
        // Longer than the test: it is told when to end.
        command.args(["--duration", "60m", "--timeout", "60s"]);
        if new_connections {
            command.args(["--header", "Connection: close"]);
        }
        let child = command.arg(url).stdout(Stdio::piped()).spawn();
        Self(child.expect("nice(1)"))
    }

    /// Panics when it has ended.
    fn goes_on(&mut self) {
        let ended = self.0.try_wait().expect("a child of ours");
        assert!(
            ended.is_none(),
            "wrk ended before it was told (cargo xtask setup installs it): {ended:?}"
        );
    }

    /// What it has to say.
    fn finish(mut self) -> String {
        let id = Pid::from_raw(self.0.id().cast_signed());
        self.goes_on();
        kill(id, Signal::SIGINT).expect("a child of ours");
        let output = std::io::read_to_string(self.0.stdout.take().expect("its output")).expect("its output");
        self.0.wait().expect("a child of ours");
        output
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Datagrams to an echo, one after the other, each of which has to be answered.
#[derive(Default)]
struct Echo {
    stop: AtomicBool,
    answered: AtomicU64,
}

impl Echo {
    /// Asks from one socket and, every other time, from a new one; in the network namespace of a path.
    fn ask(&self, netns: &Path, to: SocketAddr) {
        let netns = fs::File::open(netns).expect("a pod's network namespace");
        setns(netns, CloneFlags::CLONE_NEWNET).expect("entering it");
        // As for wrk; here it is the thread's alone (sched(7)).
        // SAFETY: takes no pointer.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
        let open = || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(to).expect("a peer");
            socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            socket
        };
        let same = open();
        let exchange = |socket: &UdpSocket| {
            socket.send(b"whoami").expect("a datagram that is sent");
            let mut answer = [0; 4096];
            socket.recv(&mut answer).expect("an answer to every datagram");
            self.answered.fetch_add(1, Ordering::Relaxed);
        };
        while !self.stop.load(Ordering::Relaxed) {
            exchange(&same);
            exchange(&open());
            thread::sleep(PAUSE);
        }
    }
}

/// Ends the load also when the test panics.
struct Stop<'a>(&'a Echo);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// The network namespace of a pod, by one of the processes in its cgroup.
fn netns_of(cgroup: &Path) -> PathBuf {
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        if let Some(process) = processes.lines().next() {
            return PathBuf::from(format!("/proc/{process}/ns/net"));
        }
        let inside = fs::read_dir(&directory).expect("a cgroup").flatten();
        directories.extend(inside.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    panic!("no process in {}", cgroup.display())
}

/// How often an agent has brought its services in step, since it started.
fn passes(cluster: &xtask::cluster::Cluster, node: &str) -> Result<u64, String> {
    let metrics = SocketAddr::from(([127, 0, 0, 1], METRICS));
    let answer = cluster
        .http(node, "GET", metrics, "/metrics")
        .map_err(|error| format!("{error:#}"))?;
    let count = answer.body.lines().find_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        let is_count = name.starts_with("causeway_agent_sync_duration_seconds_count") && name.contains("services");
        is_count.then(|| value.parse().ok())?
    });
    count.ok_or_else(|| "no pass yet".to_owned())
}

#[test]
fn fifty_kills_of_agents_fail_no_request_and_lose_no_datagram() {
    // On a busy machine an agent takes long to start; its node must not be given up meanwhile.
    let mut cluster = TestCluster::start_with(2, Store::Embedded, |spec| {
        spec.control_args = ["--node-monitor-grace-period", "10m", "--pod-eviction-timeout", "20m"]
            .map(str::to_owned)
            .into();
    });
    let web = cluster.deploy_web();
    let echo_at = SocketAddr::new(cluster.virtual_ip("web").expect("a virtual IP").into(), 7);
    // In a pod's network, but not in its cgroup: balanced packet by packet.
    let uid = |name: &str| {
        let pod = cluster.causeway_json(&["get", "pod", name]).expect("the pod");
        pod["metadata"]["uid"].as_str().expect("a uid").to_owned()
    };
    let pods: Vec<PathBuf> = NODES
        .map(|node| {
            let pod = format!("pod-{}", uid(&web.client_on(node).name));
            let root = xtask::cluster::cgroup2().expect("a cgroup v2 tree");
            netns_of(&root.join(cluster.spec().cgroup(node)).join(pod))
        })
        .into();
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    let text = format!("function delay() return {} end", PAUSE.as_millis());
    script.write_all(text.as_bytes()).expect("a script for wrk");
    let mut wrks = Vec::new();
    for new_connections in [false, true] {
        // Balanced at the socket, as a process of the node.
        let node = cluster.command_on("node-1", "nice").expect("a command on a node");
        let pod = command_in(&pods[1], None, "nice");
        wrks.extend([node, pod].map(|command| Wrk::start(command, &web.url, new_connections, script.path())));
    }
    let echo = Echo::default();
    let begun = Instant::now();
    thread::scope(|scope| {
        let _stop = Stop(&echo);
        for pod in &pods {
            scope.spawn(|| echo.ask(pod, echo_at));
        }
        for _ in 0..ROUNDS {
            wrks.iter_mut().for_each(Wrk::goes_on);
            for node in NODES {
                cluster.stop(node, Signal::SIGKILL).expect("a process that ends");
            }
            let answered = echo.answered.load(Ordering::Relaxed);
            for node in NODES {
                cluster.restart(node).expect("a process that starts");
            }
            for node in NODES {
                let what = format!("the agent of {node} to have its services in step");
                cluster.eventually(&what, PATIENCE, |cluster| {
                    let passes = passes(cluster, node)?;
                    // Traffic went on meanwhile.
                    if passes > 0 && echo.answered.load(Ordering::Relaxed) > answered {
                        Ok(())
                    } else {
                        Err(format!("{passes} passes"))
                    }
                });
            }
        }
    });
    let took = begun.elapsed();
    for wrk in wrks {
        let said = wrk.finish();
        let requests = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        let requests = said
            .lines()
            .find(|line| line.contains("requests in"))
            .and_then(requests);
        assert!(
            requests.is_some_and(|requests| requests > 1_000),
            "hardly a load:\n{said}"
        );
        for failure in ["Socket errors", "Non-2xx"] {
            assert!(!said.contains(failure), "{said}");
        }
    }
    eprintln!(
        "{ROUNDS} times {} kills in {took:?}, {} datagrams answered",
        NODES.len(),
        echo.answered.load(Ordering::Relaxed)
    );
}
