//! What the programs of a development build say through aya-log: in the agent's own log.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// Starts a task that hands on what the programs say, if they were built for that (`CAUSEWAY_BPF_LOG`); whether they were.
pub(super) fn relay(programs: &mut Ebpf) -> io::Result<bool> {
    // Fails when the object has no map for it, as those that run on nodes.
    let Ok(logger) = EbpfLogger::init(programs) else {
        return Ok(false);
    };
    // SAFETY: the logger's descriptor stays the same and open as long as the logger lives.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE)? };
    tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut said) => {
                    said.get_inner_mut().flush();
                    said.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "what the programs say is not heard any more");
                    return;
                }
            }
        }
    });
    Ok(true)
}
