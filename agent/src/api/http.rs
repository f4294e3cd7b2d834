//! `/metrics` and `/healthz`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::reconcile::node::desired::Health;

/// The `OpenMetrics` text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({option})")]
pub struct ListenError {
    /// Address.
    pub address: SocketAddr,
    /// The option that says so.
    pub option: &'static str,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}

/// Opens a listening socket; `option` names the flag in the error.
pub async fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError {
        address,
        option,
        source,
    })
}

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// All metrics.
    pub registry: Arc<Registry>,
    /// Whether pods can run.
    pub health: tokio::sync::watch::Receiver<Health>,
}

/// The routes.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .with_state(served)
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, served: Served) {
    if let Err(error) = axum::serve(listener, router(served)).await {
        tracing::error!(%error, "metrics server ended");
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    // Collectors read BPF maps, which takes system calls.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        encode(&mut text, &served.registry).map(|()| text)
    });
    match encoded.await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n").into_response(),
    }
}

async fn healthz(State(served): State<Served>) -> Response {
    match &*served.health.borrow() {
        Health::Ready => "ok\n".into_response(),
        Health::NotReady { reason, message } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}: {message}\n")).into_response()
        }
    }
}
