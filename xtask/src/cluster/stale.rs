//! What tests leave behind when they are killed. Everything that they make is named after their process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::remove::{self, GONE, Report};
use super::{host, process};
use crate::progress::Progress;
use crate::wait;

/// What stands before and behind the process id in names of clusters, and of what stands for one, in tests.
const CLUSTERS: [(&str, char); 4] = [("t", 'x'), ("cwt", '-'), ("agent-", '-'), ("test-", '-')];
/// The same for cgroups at the root of the v2 tree.
const CGROUPS: [(&str, char); 2] = [("causeway-test-", '-'), ("cw-test-", '-')];

/// Removes what killed tests have left, and says so if there was something.
pub fn run(progress: &Progress) {
    let mut report = Report::default();
    let clusters: BTreeSet<String> = remove::clusters()
        .into_iter()
        .filter(|name| is_stale(name, &CLUSTERS))
        .collect();
    for cluster in &clusters {
        report.left.extend(remove::remove(cluster).left);
    }
    let mut names: Vec<_> = clusters.into_iter().collect();
    if let Ok(root) = host::cgroup2() {
        for group in remove::entries(&root) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_stale(&name, &CGROUPS) {
                remove_cgroup(&group, &mut report);
                names.push(name);
            }
        }
    }
    if !names.is_empty() {
        progress.note(&format!(
            "Removed what tests left that were killed: {}",
            names.join(", ")
        ));
    }
    if !report.left.is_empty() {
        progress.note(&format!("could not remove:\n  {}", report.left.join("\n  ")));
    }
}

/// Whether a name was made by a test process that is no more.
fn is_stale(name: &str, patterns: &[(&str, char)]) -> bool {
    let maker = patterns.iter().find_map(|(before, behind)| {
        let (id, _) = name.strip_prefix(before)?.split_once(*behind)?;
        id.parse().ok()
    });
    maker.is_some_and(|id| !process::is_alive(id))
}

fn remove_cgroup(group: &Path, report: &mut Report) {
    let gone = wait::until("its processes to be gone", GONE, || {
        let mut groups = Vec::new();
        remove::descend(group, &mut groups);
        for group in &groups {
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for id in processes.lines().filter_map(|line| line.parse().ok()) {
                // Its absence is what is wanted.
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        let removed = groups.iter().try_for_each(fs::remove_dir);
        removed.map_err(|error| error.to_string())
    });
    if let Err(error) = gone {
        report.left.push(format!("{}: {}", group.display(), error.missing));
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_dead_processes_made_goes() {
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let (dead, own) = (dead.id(), std::process::id());
        for (cluster, stale) in [
            (format!("t{dead}x7"), true),
            (format!("cwt{dead}-7"), true),
            (format!("agent-{dead}-7"), true),
            (format!("t{own}x7"), false),
            // People's.
            (format!("t{dead}"), false),
            (format!("team{dead}"), false),
            ("dev".to_owned(), false),
            ("tx".to_owned(), false),
        ] {
            assert_eq!(is_stale(&cluster, &CLUSTERS), stale, "{cluster}");
        }

        let root = host::cgroup2().unwrap();
        let name = |id| format!("causeway-test-{id}-stale");
        let (left, kept) = (root.join(name(dead)), root.join(name(own)));
        fs::create_dir_all(left.join("pod")).unwrap();
        fs::create_dir(&kept).unwrap();
        let mut orphan = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(left.join("pod/cgroup.procs"), orphan.id().to_string()).unwrap();
        run(&Progress::silent());
        let found = (left.exists(), kept.exists());
        fs::remove_dir(&kept).unwrap();
        assert_eq!(found, (false, true));
        orphan.wait().unwrap();
    }
}
