//! Network namespaces.

use std::{
    fs::File,
    future::Future,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::PathBuf,
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that exists as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one, with nothing in it but a loopback device that is down.
    ///
    /// # Panics
    ///
    /// Without the right to make one.
    pub fn new() -> Self {
        let made = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (run as root)");
                File::open("/proc/thread-self/ns/net").expect("the thread's own network namespace")
            });
            thread.join()
        });
        Self {
            file: made.expect("a thread that makes a namespace"),
        }
    }

    /// Runs `work` in the namespace, on a thread of its own.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future to its end in the namespace, on a runtime of its own.
    ///
    /// # Panics
    ///
    /// When the future does.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime");
            runtime.block_on(async { work().await })
        })
    }

    /// A path that others of this process can open it by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
