//! Network namespaces.

use std::{
    fs::File,
    future::Future,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that exists as long as this value, or a process in it.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new one, with nothing in it but a loopback device that is down.
    pub fn new() -> Result<Self> {
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (this needs root)")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new network namespace")
        })?;
        Ok(Self { file })
    }

    /// Runs `work` in the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace of our own")?;
            work()
        })
    }

    /// Runs a future to its end in the namespace, on a runtime of its own.
    pub fn block_on<T: Send, F: Future<Output = Result<T>>>(&self, work: impl FnOnce() -> F + Send) -> Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot make a runtime")?;
            runtime.block_on(async { work().await })
        })
    }

    /// Makes a command's process start in the namespace.
    pub fn enter<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        let file = self.file.try_clone().context("cannot share a namespace")?;
        // SAFETY: between fork and exec only setns(2) is called, on a descriptor that the closure owns.
        Ok(unsafe { command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)) })
    }

    /// A path that others of this process can open it by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a thread in a namespace panicked")))
    })
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
