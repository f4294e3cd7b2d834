//! Removing sandboxes, whatever state they are in. Blocking.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::files::PodDir;
use crate::cgroup::tree::Cgroups;

/// Kills everything in the sandbox, removes its cgroups, then its files. Goes on after errors; answers all of them.
///
/// Order matters for a crash in between: the directory, by which the sandbox is found again, goes last and at once (it is moved to
/// `trash` first).
pub(super) fn remove(cgroups: &Cgroups, uid: &str, dir: &PodDir, trash: &Path) -> Vec<String> {
    let mut failures = Vec::new();
    // The holder is in the pod's cgroup too. One that is just starting finds its cgroup gone and gives up.
    if let Err(error) = cgroups.kill_pod(uid) {
        failures.push(chain(&error));
    }
    failures.extend(cgroups.remove_pod(uid).iter().map(|error| chain(error)));
    if !failures.is_empty() {
        // With processes left, their files stay: they are what a later try goes by.
        return failures;
    }
    if let Err(error) = discard(&dir.0, trash) {
        failures.push(format!("cannot remove {}: {error}", dir.0.display()));
    }
    failures
}

/// Moves a directory to `trash` and deletes it there, so that it is never seen in part. None there: nothing to do.
fn discard(dir: &Path, trash: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    fs::create_dir_all(trash)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let grave = trash.join(format!("{name}-{now}"));
    fs::rename(dir, &grave)?;
    fs::remove_dir_all(&grave)
}

/// Deletes what removals cut short by a crash left in `trash`.
pub(super) fn empty_trash(trash: &Path) -> io::Result<()> {
    match fs::remove_dir_all(trash) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the root file systems of attempts before `attempt`, and everything of those before the last but one.
pub(super) fn prune(dir: &PodDir, name: &str, attempt: u32, log_files: u32) -> io::Result<()> {
    let present = dir
        .records()
        .into_iter()
        .filter(|state| state.name == name && state.attempt < attempt);
    for old in present.map(|state| state.attempt) {
        let attempt_dir = dir.attempt(name, old);
        if old + 1 == attempt {
            for part in [attempt_dir.upper(), attempt_dir.work(), attempt_dir.merged()] {
                remove_dir(&part)?;
            }
            continue;
        }
        let log = dir.log(name, old);
        for n in 0..log_files {
            let suffix = if n == 0 { String::new() } else { format!(".{n}") };
            let mut file = log.clone().into_os_string();
            file.push(suffix);
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        remove_dir(&attempt_dir.0)?;
    }
    Ok(())
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
