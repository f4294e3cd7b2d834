//! What the agent serves: metrics and health over HTTP, health and inspection over gRPC. Nothing here is needed for pods or packets.

pub mod cluster;
pub mod datapath;
pub mod grpc;
pub mod http;
pub mod inspect;
pub mod service_health;
