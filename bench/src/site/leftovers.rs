//! What a benchmark that was killed has left: cgroups and pins, named after its process id.

use std::{
    fs,
    path::{Path, PathBuf},
};

use causeway_agent::bpf::remove_pins;
use causeway_maps::pins;

use super::cgroup;

/// First part of the cluster names under which the benchmark pins its maps; the process id follows.
const CLUSTER_PREFIX: &str = "cwbench-";

/// Directory of the pins of one of this process's nodes.
pub(super) fn pin_dir(name: &str) -> PathBuf {
    let cluster = format!("{CLUSTER_PREFIX}{}", std::process::id());
    pins::node_dir(Path::new(pins::BPFFS), &cluster, name)
}

/// Removes what was left by processes that are no more.
pub fn remove() {
    for node in pins::discover(Path::new(pins::BPFFS)).unwrap_or_default() {
        if is_dead(&node.cluster, CLUSTER_PREFIX) {
            for error in remove_pins(Path::new(pins::BPFFS), &node.dir) {
                eprintln!("pins stay behind: {error}");
            }
        }
    }
    let directories = cgroup::roots().into_iter().map(|(_, root)| root);
    for entry in directories
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .flatten()
    {
        if is_dead(&entry.file_name().to_string_lossy(), cgroup::PREFIX) {
            cgroup::remove(&entry.path());
        }
    }
}

/// Whether a name is a prefix and the id of a process that is no more.
fn is_dead(name: &str, prefix: &str) -> bool {
    let digits = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
    digits
        .and_then(|digits| digits.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_taken() {
        assert!(!is_dead(&format!("cwbench-{}", std::process::id()), "cwbench-"));
        assert!(
            is_dead("cwbench-4194305-node", "cwbench-"),
            "beyond the largest process id"
        );
        assert!(!is_dead("dev", "cwbench-") && !is_dead("cwbench-", "cwbench-") && !is_dead("cwbench-x", "cwbench-"));
    }
}
