//! gRPC health (`grpc.health.v1`).

use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::{ServingStatus, server::health_reporter};

use crate::reconcile::node::desired::Health;

/// Serves until dropped; the whole server's status follows `health`.
pub async fn serve(listener: TcpListener, mut health: watch::Receiver<Health>) {
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
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::select! {
        ended = server => if let Err(error) = ended {
            tracing::error!(%error, "gRPC server ended");
        },
        () = follow => {}
    }
}
