//! The `causeway.v1` API: generated types and what every part needs to speak it.

/// Generated messages and gRPC stubs.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("causeway.v1");
}

/// Encoded descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/causeway.v1.bin"));

pub mod json;
