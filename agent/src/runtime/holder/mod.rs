//! The holder process of a pod.

/// Name (`argv[0]`) under which the agent's executable is a holder; also the hidden subcommand `pod-holder`.
pub const ARGV0: &str = "causeway-pod";

/// Whether this process was started as a holder: asked first thing in `main`.
pub fn requested() -> bool {
    let mut args = std::env::args_os();
    args.next().is_some_and(|name| name == ARGV0) || args.next().is_some_and(|arg| arg == "pod-holder")
}

/// Runs the holder; never returns. Must be called before any thread is started.
pub fn main() -> ! {
    todo!()
}
