//! The agent's gRPC API: health (`grpc.health.v1`) and inspection, on a TCP port for other machines and on a socket in the
//! node's state directory for this one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use causeway_proto::v1::inspection_service_server::InspectionServiceServer;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;
use tonic_health::{ServingStatus, server::health_reporter};

use super::inspect::Inspection;
use crate::reconcile::node::desired::Health;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "agent.sock";

/// Longest path of a socket, in bytes (`sockaddr_un`, unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel takes no path of that length.
    #[error("{path} is longer than the {SOCKET_PATH_BYTES} bytes that a socket's path may have")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Making it failed.
    #[error("cannot make the socket {path}")]
    Make {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens the socket in the state directory, which this agent has to itself: one that is there is left over.
pub fn listen(state_dir: &Path) -> Result<UnixListener, SocketError> {
    let path = state_dir.join(SOCKET);
    if path.as_os_str().len() > SOCKET_PATH_BYTES {
        return Err(SocketError::TooLong { path });
    }
    let make = || {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    make().map_err(|source| SocketError::Make { path, source })
}

/// Serves until dropped; the whole server's status follows `health`.
pub async fn serve(
    tcp: TcpListener,
    socket: Option<UnixListener>,
    mut health: watch::Receiver<Health>,
    inspection: Inspection,
) {
    let (reporter, service) = health_reporter();
    let follow = async {
        loop {
            let status = match &*health.borrow_and_update() {
                Health::Ready => ServingStatus::Serving,
                Health::NotReady { .. } => ServingStatus::NotServing,
            };
            reporter.set_service_status("", status).await;
            if health.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let router = || -> Router {
        tonic::transport::Server::builder()
            .add_service(service.clone())
            .add_service(InspectionServiceServer::new(inspection.clone()))
    };
    let on_tcp = router().serve_with_incoming(TcpListenerStream::new(tcp));
    let on_socket = async {
        match socket {
            Some(socket) => router().serve_with_incoming(UnixListenerStream::new(socket)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = on_tcp => if let Err(error) = ended {
            tracing::error!(%error, "gRPC server ended");
        },
        ended = on_socket => if let Err(error) = ended {
            tracing::error!(%error, "gRPC server on the socket ended");
        },
        () = follow => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_over_socket_is_replaced_and_private() {
        let directory = tempfile::tempdir().unwrap();
        drop(listen(directory.path()).unwrap());
        let _again = listen(directory.path()).unwrap();
        let mode = fs::metadata(directory.path().join(SOCKET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(listen(&long), Err(SocketError::TooLong { .. })));
    }
}
