//! The holder: the process that is a pod.
//!
//! It owns the pod's network, IPC and UTS namespaces, is parent of every container, writes their output to disk and records
//! how they end. It is the agent's executable under another name, but knows nothing of the agent: everything it needs is in
//! the sandbox's directory (its working directory), and whoever connects to the socket there may ask it for things
//! (`protocol`).
//!
//! Invariants: one thread and no async runtime, so that forked children may run ordinary code; an exit is on disk before anybody
//! is told of it; containers die with it.

mod caps;
mod child;
mod container;
mod daemon;
mod exec;
mod log;
mod pipe;
pub(crate) mod protocol;
mod rootfs;
mod seccomp;
mod serve;
mod spawn;
mod user;

use std::path::PathBuf;

/// Name (`argv[0]`) under which the agent's executable is a holder; also understood: the hidden subcommand `pod-holder`.
pub const ARGV0: &str = "causeway-pod";

/// The hidden subcommand.
const SUBCOMMAND: &str = "pod-holder";

/// Word behind the directory that tells a holder started anew from its own read-only executable.
const SEALED: &str = "sealed";

/// Whether this process was started as a holder: asked first thing in `main`.
pub fn requested() -> bool {
    arguments().is_some()
}

/// Runs the holder; never returns. Must be called before any thread is started.
pub fn main() -> ! {
    let mut arguments = arguments().unwrap_or_default().into_iter();
    let Some(dir) = arguments.next() else {
        eprintln!("usage: {SUBCOMMAND} SANDBOX-DIRECTORY");
        std::process::exit(2);
    };
    let sealed = arguments.next().is_some_and(|word| word == SEALED);
    daemon::run(&PathBuf::from(dir), sealed)
}

/// What follows the holder's name on the command line; `None` when this is no holder.
fn arguments() -> Option<Vec<std::ffi::OsString>> {
    let mut args = std::env::args_os();
    if args.next()? == ARGV0 || args.next()? == SUBCOMMAND {
        Some(args.collect())
    } else {
        None
    }
}
