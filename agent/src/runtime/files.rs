//! Where everything about a sandbox is on disk, and how it gets there.
//!
//! ```text
//! pods/<uid>/  sandbox.json  holder.json  holder.lock  holder.sock  holder.log
//!              etc/{hostname,hosts,resolv.conf}  shm/
//!              containers/<name>/<attempt>/{spec.json,state.json,upper,work,merged}
//!              logs/<name>/<attempt>.log[.1…]
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{RuntimeError, state::ContainerState};

/// Directory of one sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodDir(pub PathBuf);

impl PodDir {
    /// What the sandbox is made from: its presence makes the directory a sandbox.
    pub fn spec(&self) -> PathBuf {
        self.0.join("sandbox.json")
    }

    pub fn holder_config(&self) -> PathBuf {
        self.0.join("holder.json")
    }

    /// Locked by the holder as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("holder.lock")
    }

    pub fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }

    /// Mount point of the pod's shared memory, in the holder's mount namespace.
    pub fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub fn attempt(&self, name: &str, attempt: u32) -> AttemptDir {
        AttemptDir(self.containers().join(name).join(attempt.to_string()))
    }

    pub fn log(&self, name: &str, attempt: u32) -> PathBuf {
        self.0.join("logs").join(name).join(format!("{attempt}.log"))
    }

    /// Process id of the living holder.
    pub fn holder(&self) -> Option<u32> {
        let file = File::open(self.lock()).ok()?;
        lock_owner(&file).ok().flatten()
    }

    /// Every record of a container, by name and attempt. Records that cannot be read are taken as not there: they are
    /// written whole or not at all.
    pub fn records(&self) -> Vec<ContainerState> {
        let mut states: Vec<ContainerState> = entries(&self.containers())
            .iter()
            .flat_map(|name| entries(name))
            .filter_map(|attempt| read_json(&AttemptDir(attempt).state()).ok().flatten())
            .collect();
        states.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        states
    }
}

/// The holder's socket, in its working directory.
pub(crate) const SOCKET: &str = "holder.sock";

/// Directory of one attempt at running a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AttemptDir(pub PathBuf);

impl AttemptDir {
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    pub fn merged(&self) -> PathBuf {
        self.0.join("merged")
    }
}

/// Makes a directory that only root may enter: inside are the environments of pods, and set-uid programs of images.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Entries of a directory; none when it is not there.
pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Whether a record must outlive the machine's power supply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Of use only while the processes it speaks of live.
    Boot,
    /// To be found after a power failure.
    Disk,
}

/// Writes a file so that a reader sees the old or the new text, never a part.
pub(crate) fn write_atomic(path: &Path, text: &[u8], durability: Durability) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text)?;
    if durability == Durability::Disk {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if durability == Durability::Disk
        && let Some(parent) = path.parent()
    {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// [`write_atomic`] of a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize, durability: Durability) -> io::Result<()> {
    write_atomic(path, &serde_json::to_vec(value)?, durability)
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Locks a whole file for this process (not its children) until it ends or closes any descriptor of the file. False when
/// another process has the lock.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Which process has the lock of a file.
fn lock_owner(file: &File) -> io::Result<Option<u32>> {
    let mut query = whole_file();
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETLK(&mut query))?;
    let held = i32::from(query.l_type) != libc::F_UNLCK;
    Ok(held.then_some(query.l_pid).and_then(|pid| u32::try_from(pid).ok()))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Whether `name` may be a part of a path: a pod uid or a container name.
pub(crate) fn safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with(['.', '_'])
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Makes an I/O error of something done to a path a [`RuntimeError`].
pub(crate) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RuntimeError + 'a {
    move |source| RuntimeError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        for good in ["web", "a-b.c", "0f8c2d34-5b1e-4c09-9d5a-3b2f9b7e6a10"] {
            assert!(safe_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "_holder", ".hidden", "a b", "ä", "a\0"] {
            assert!(!safe_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_lock_names_its_owner_only_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let pod = PodDir(dir.path().to_owned());
        assert_eq!(pod.holder(), None);
        let file = File::create(pod.lock()).unwrap();
        assert!(lock(&file).unwrap());
        // A process does not see its own lock as another's.
        assert_eq!(lock_owner(&file).unwrap(), None);
    }
}
