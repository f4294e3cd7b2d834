//! The BPF file system: mounted when it is not, and unmounted again only by those who mounted it.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: libc::__fsword_t = 0xcafe_4a11;

/// A directory in the root of a bpffs that says: this project mounted it. It goes with the mount.
const MARKER: &str = "causeway-mounted";

/// What the kernel itself puts into the root of a bpffs (`kernel/bpf/preload`).
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

/// bpffs could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// A path has no parent, a zero byte, or cannot be looked at.
    #[error("cannot examine {path}")]
    Examine {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// mount(2) failed.
    #[error("cannot mount bpffs at {path}: the kernel needs CONFIG_BPF_SYSCALL, the process CAP_SYS_ADMIN")]
    Mount {
        /// Mount point.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// umount(2) failed.
    #[error("cannot unmount the bpffs at {path}")]
    Unmount {
        /// Mount point.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {path} in bpffs")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a directory for pins below `bpffs`, which is mounted if it is not.
///
/// Several agents may do so at the same time, and [`release`] may run beside them: a lock on the directory above
/// the mount point orders them.
pub fn prepare(bpffs: &Path, dir: &Path) -> Result<(), BpffsError> {
    let _lock = lock(bpffs)?;
    if !is_mounted(bpffs)? {
        mount(bpffs).map_err(|source| BpffsError::Mount {
            path: bpffs.to_owned(),
            source,
        })?;
        let marker = bpffs.join(MARKER);
        fs::create_dir(&marker).map_err(|source| BpffsError::Directory { path: marker, source })?;
    }
    fs::create_dir_all(dir).map_err(|source| BpffsError::Directory {
        path: dir.to_owned(),
        source,
    })
}

/// The reverse of [`prepare`]: removes `dir` and the directories above it as far as they are empty, and unmounts `bpffs` if
/// this project mounted it and nothing is left in it. Tells whether it unmounted.
pub fn release(bpffs: &Path, dir: &Path) -> Result<bool, BpffsError> {
    let _lock = lock(bpffs)?;
    if !is_mounted(bpffs)? {
        return Ok(false);
    }
    for dir in dir
        .ancestors()
        .take_while(|dir| *dir != bpffs && dir.starts_with(bpffs))
    {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => break,
            _ => {}
        }
    }
    let entries = fs::read_dir(bpffs).map_err(|source| BpffsError::Examine {
        path: bpffs.to_owned(),
        source,
    })?;
    let expected = |name: &OsStr| name == MARKER || KERNELS_OWN.iter().any(|own| name == *own);
    if !bpffs.join(MARKER).is_dir() || entries.flatten().any(|entry| !expected(&entry.file_name())) {
        return Ok(false);
    }
    let path = c_path(bpffs)?;
    // SAFETY: `path` is a C string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), 0) } != 0 {
        let source = io::Error::last_os_error();
        return Err(BpffsError::Unmount {
            path: bpffs.to_owned(),
            source,
        });
    }
    Ok(true)
}

/// Whether a bpffs is mounted at the path.
pub fn is_mounted(bpffs: &Path) -> Result<bool, BpffsError> {
    let path = c_path(bpffs)?;
    // SAFETY: all-zero is a valid `statfs`.
    let mut buffer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut buffer) } != 0 {
        let source = io::Error::last_os_error();
        if source.kind() == io::ErrorKind::NotFound {
            return Ok(false);
        }
        return Err(BpffsError::Examine {
            path: bpffs.to_owned(),
            source,
        });
    }
    Ok(buffer.f_type == BPF_FS_MAGIC)
}

fn mount(bpffs: &Path) -> io::Result<()> {
    if !bpffs.exists() {
        fs::create_dir(bpffs)?;
    }
    let target = CString::new(bpffs.as_os_str().as_bytes())?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: the strings live through the call; bpffs takes the options as a C string.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            flags,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An exclusive lock, held until the file is dropped.
fn lock(bpffs: &Path) -> Result<File, BpffsError> {
    let parent = bpffs.parent().unwrap_or(Path::new("/"));
    let examine = |source| BpffsError::Examine {
        path: parent.to_owned(),
        source,
    };
    let file = File::open(parent).map_err(examine)?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        return Err(examine(io::Error::last_os_error()));
    }
    Ok(file)
}

fn c_path(path: &Path) -> Result<CString, BpffsError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|error| BpffsError::Examine {
        path: path.to_owned(),
        source: error.into(),
    })
}
