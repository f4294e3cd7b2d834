//! The whole benchmark in its smallest form: does it run, does it tell what it measured, is nothing left. No test here
//! judges a time.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longer than any of this takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A directory that goes with the value.
struct Output(PathBuf);

impl Output {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cwbench-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bench(output: &Output, rounds: u32, milliseconds: u32) -> Child {
    run(output, ["causeway-socket", "local"], rounds, milliseconds)
}

fn run(output: &Output, [modes, backends]: [&str; 2], rounds: u32, milliseconds: u32) -> Child {
    Command::new(env!("CARGO_BIN_EXE_causeway-bench"))
        .args([
            "vip",
            "--modes",
            modes,
            "--backends",
            backends,
            "--services",
            "1",
            "--output",
        ])
        .arg(&output.0)
        .args([
            "--rounds",
            &rounds.to_string(),
            "--milliseconds",
            &milliseconds.to_string(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn datapath(output: &Output, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_causeway-bench"))
        .args(["datapath", "--quick", "--services", "20", "--rounds", "2", "--output"])
        .arg(&output.0)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end, with everything said on standard error.
fn wait(mut child: Child) -> String {
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said.push_str(&line.unwrap());
        said.push('\n');
    }
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not end: {said}");
        std::thread::sleep(Duration::from_millis(10));
    }
    said
}

/// Cgroups and pins of the process.
fn traces(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts
        .lines()
        .filter(|line| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup")));
    let roots = cgroups.filter_map(|line| line.split(' ').nth(1).map(PathBuf::from));
    let entries = roots
        .chain([Path::new("/sys/fs/bpf/causeway").to_owned()])
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .flatten();
    let names = [format!("causeway-bench-{pid}-"), format!("cwbench-{pid}")];
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect()
}

#[test]
fn the_smallest_run_tells_what_it_measured_and_leaves_nothing() {
    let output = Output::new("smallest");
    let child = bench(&output, 1, 20);
    let pid = child.id();
    let said = wait(child);
    let text = fs::read_to_string(output.0.join("vip.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let value = |mode: &str, measure: &str| {
        let entry = entries
            .iter()
            .find(|entry| entry["mode"] == mode && entry["measure"] == measure);
        entry
            .and_then(|entry| entry["value"].as_f64())
            .unwrap_or_else(|| panic!("no {measure} of {mode}: {said}"))
    };
    for mode in ["direct", "causeway-socket"] {
        for measure in [
            "connect_latency_p50",
            "connections_per_second",
            "throughput",
            "udp_per_second",
        ] {
            assert!(value(mode, measure) > 0.0, "{measure} of {mode}");
        }
    }
    assert!(value("causeway-socket", "programming_time") > 0.0);
    assert!(value("causeway-socket", "memory") > 0.0);
    assert!(
        fs::read_to_string(output.0.join("vip.html"))
            .unwrap()
            .contains("</html>")
    );
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn backends_on_another_node_are_reached_by_every_way_there_is() {
    let output = Output::new("remote");
    let child = run(
        &output,
        ["causeway-tc,causeway-xdp,causeway-xdp-direct,nftables", "remote"],
        1,
        20,
    );
    let pid = child.id();
    let said = wait(child);
    let text = fs::read_to_string(output.0.join("vip.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    for mode in [
        "direct",
        "direct-routed",
        "causeway-tc",
        "causeway-xdp",
        "causeway-xdp-direct",
        "nftables",
    ] {
        for measure in ["connect_latency_p50", "throughput", "udp_per_second"] {
            let is_there = entries
                .iter()
                .any(|entry| entry["mode"] == mode && entry["measure"] == measure && entry["backends"] == "remote");
            assert!(is_there, "no {measure} of {mode}: {said}");
        }
    }
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let output = Output::new("interrupt");
    // Would take hours.
    let child = bench(&output, 1_000, 1_000);
    let pid = child.id();
    let begun = Instant::now();
    while traces(pid).len() < 2 {
        assert!(begun.elapsed() < PATIENCE, "neither cgroup nor pins");
        std::thread::sleep(Duration::from_millis(5));
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.cast_signed()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let said = wait(child);
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}

#[test]
fn the_smallest_datapath_run_tells_what_it_measured_and_leaves_nothing() {
    let output = Output::new("datapath");
    let child = datapath(&output, &["--parts", "packets,programming"]);
    let pid = child.id();
    let said = wait(child);
    let text = fs::read_to_string(output.0.join("datapath.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let find = |name: &str| {
        let entry = entries.iter().find(|entry| entry["name"] == name);
        entry.unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    for case in ["known", "answer", "new", "not_vip"] {
        assert!(find(&format!("tc_{case}"))["value"].as_f64().unwrap() > 0.0, "{case}");
        let among = find(&format!("tc_{case}_20_services"));
        assert!(
            among["ratio"].as_f64().unwrap() > 0.0 && among["met"].is_boolean(),
            "{case}"
        );
    }
    for case in ["known", "new", "not_vip", "nat_known"] {
        assert!(find(&format!("xdp_{case}"))["met"].is_boolean(), "{case}");
    }
    for name in [
        "programming_20_services_cpu",
        "endpoint_change_20_services",
        "readiness_flip",
    ] {
        assert!(find(name)["goal"].is_number(), "{name}");
    }
    assert_eq!(traces(pid), Vec::<PathBuf>::new());
}
