//! One after the other: locks on files. The kernel lets go of them when their holder ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Context, Result};

use crate::root;

/// Waits until nobody else has the lock on a file, which is made if it is not there; held until what is answered is dropped.
/// `waiting` is called first if somebody has it.
pub fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    root::give_to_invoker(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;
    use std::{env, fs, process, thread};

    use super::*;

    /// Longest wait for another thread.
    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn the_second_is_told_and_waits_for_the_first() {
        let path = env::temp_dir().join(format!("causeway-xtask-{}.lock", process::id()));
        let first = acquire(&path, || panic!("nobody has it")).unwrap();
        let (told, tells) = mpsc::channel();
        thread::scope(|scope| {
            let path = &path;
            scope.spawn(move || {
                let _second = acquire(path, || told.send("waits").unwrap()).unwrap();
                told.send("has it").unwrap();
            });
            assert_eq!(tells.recv_timeout(PATIENCE), Ok("waits"));
            assert_eq!(tells.try_recv(), Err(mpsc::TryRecvError::Empty));
            drop(first);
            assert_eq!(tells.recv_timeout(PATIENCE), Ok("has it"));
        });
        fs::remove_file(&path).unwrap();
    }
}
