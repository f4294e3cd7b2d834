//! Trying a packet out without the node's agent.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    thread,
};

use causeway_maps::{
    PinnedMaps,
    dry_run::{self, DryRunError, Probe},
    view::ExplainView,
};

/// Where named network namespaces are (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// Runs the node's program from here. The kernel looks the packet's interface up in the caller's network namespace, so this
/// one is tried, then the named ones, those first whose name ends in the node's.
pub fn explain(node: &str, dir: &Path, probe: &Probe) -> Result<ExplainView, DryRunError> {
    let mut maps = PinnedMaps::open(dir)?;
    let first = dry_run::explain(&mut maps, probe);
    let Err(DryRunError::Namespace { .. }) = first else {
        return first;
    };
    for namespace in namespaces(node) {
        let Ok(file) = File::open(&namespace) else { continue };
        let maps = &mut maps;
        // A thread of its own, which ends with the namespace it entered.
        let tried = thread::scope(|scope| {
            let run = scope.spawn(move || enter(&file).then(|| dry_run::explain(maps, probe)));
            run.join().ok().flatten()
        });
        match tried {
            None | Some(Err(DryRunError::Namespace { .. })) => {}
            Some(result) => return result,
        }
    }
    first
}

fn enter(namespace: &File) -> bool {
    // SAFETY: the descriptor is open; only the calling thread changes its namespace.
    unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) == 0 }
}

fn namespaces(node: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(NAMESPACES).map(|entries| entries.flatten().collect::<Vec<_>>());
    let mut paths: Vec<PathBuf> = entries.unwrap_or_default().iter().map(fs::DirEntry::path).collect();
    paths.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (!name.ends_with(node), name)
    });
    paths
}
