//! The store's directory: made, checked for writing, locked against a second process.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::super::StoreError;

/// Held while the store is open. The kernel releases the lock when the process ends, however it ends.
pub(super) struct DirectoryLock {
    _file: File,
}

/// Says whether the place is read-only or something else is wrong with it.
pub(super) fn access_error(directory: &Path, source: io::Error) -> StoreError {
    let path = directory.to_owned();
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreError::ReadOnly { path, source },
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            StoreError::Directory { path, source }
        }
        _ => StoreError::Io {
            path,
            source: Box::new(source),
        },
    }
}

/// Makes the directory if only its last part is missing (a mistyped path should not become a new, empty cluster), and locks it.
pub(super) fn prepare(directory: &Path) -> Result<DirectoryLock, StoreError> {
    if !directory.is_dir() {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .map_err(|source| match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => access_error(directory, source),
                _ => StoreError::Directory {
                    path: directory.to_owned(),
                    source,
                },
            })?;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join("lock"))
        .map_err(|source| access_error(directory, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked {
                path: directory.to_owned(),
                pid: read_pid(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(access_error(directory, source)),
    }
    // The pid is for people and error messages; only the lock counts.
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()))
        .map_err(|source| access_error(directory, source))?;
    Ok(DirectoryLock { _file: file })
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Makes new directory entries durable.
pub(super) fn sync(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|source| access_error(directory, source))
}
