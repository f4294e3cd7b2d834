//! Netlink sockets in other network namespaces.

use std::{fs::File, path::Path};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::NetworkError;

/// A netlink handle whose socket lives in the namespace at `path`. A socket belongs to the namespace in which it was made,
/// so only its making happens there, on a thread of its own that ends with it: no other task ever runs in a foreign
/// namespace.
pub(super) async fn netlink_in(path: &Path) -> Result<rtnetlink::Handle, NetworkError> {
    let fail = |path: &Path, source| NetworkError::Namespace {
        path: path.to_owned(),
        source,
    };
    let (send, receive) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let owned = path.to_owned();
    std::thread::Builder::new()
        .name("cw-setns".to_owned())
        .spawn(move || {
            let make = || {
                let namespace = File::open(&owned).map_err(|source| fail(&owned, source))?;
                setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| fail(&owned, errno.into()))?;
                let _runtime = runtime.enter();
                rtnetlink::new_connection().map_err(NetworkError::Socket)
            };
            // The receiver is gone only when the whole operation was given up.
            let _ = send.send(make());
        })
        .map_err(|source| fail(path, source))?;
    let made = receive
        .await
        .map_err(|_| fail(path, std::io::Error::other("the helper thread died")))?;
    let (connection, handle, _) = made?;
    tokio::spawn(connection);
    Ok(handle)
}
