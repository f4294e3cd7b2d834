//! Netlink sockets and kernel parameters in other network namespaces.

use std::{fs::File, path::Path};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::NetworkError;

/// A netlink handle whose socket lives in the namespace at `path`. A socket belongs to the namespace in which it was made,
/// so only its making happens there, on a thread of its own that ends with it: no other task ever runs in a foreign
/// namespace.
pub(super) async fn netlink_in(path: &Path) -> Result<rtnetlink::Handle, NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let (connection, handle, _) = run_in(path, move || {
        let _runtime = runtime.enter();
        rtnetlink::new_connection().map_err(NetworkError::Socket)
    })
    .await?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Runs `work` in the namespace at `path`, on a thread of its own that ends with it. Files below `/proc/sys/net` are those of
/// the namespace of the thread that opens them.
pub(super) async fn run_in<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let fail = |path: &Path, source| NetworkError::Namespace {
        path: path.to_owned(),
        source,
    };
    let (send, receive) = oneshot::channel();
    let owned = path.to_owned();
    std::thread::Builder::new()
        .name("cw-setns".to_owned())
        .spawn(move || {
            let inside = || {
                let namespace = File::open(&owned).map_err(|source| fail(&owned, source))?;
                setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| fail(&owned, errno.into()))?;
                work()
            };
            // The receiver is gone only when the whole operation was given up.
            let _ = send.send(inside());
        })
        .map_err(|source| fail(path, source))?;
    receive
        .await
        .map_err(|_| fail(path, std::io::Error::other("the helper thread died")))?
}
