//! The `causeway.v1` API: generated types and what every part needs to speak it.
//!
//! Here live the kinds and their registry ([`kind`], [`resource`]), Kubernetes' JSON and YAML ([`manifest`], [`json`]),
//! its small languages ([`selector`], [`quantity`]), what writers of [`event`]s agree on, and the gRPC [`client`] with its [`client::reflector`]. Nothing here
//! knows the store, a node or the kernel.

/// Generated messages and gRPC stubs.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes,
        reason = "generated code"
    )]
    tonic::include_proto!("causeway.v1");
}

/// Encoded descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/causeway.v1.bin"));

pub mod client;
pub mod event;
pub mod json;
pub mod kind;
pub mod manifest;
pub mod quantity;
pub mod resource;
pub mod selector;
pub mod time;

pub use kind::Kind;
pub use resource::Resource;
