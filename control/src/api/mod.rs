//! The API of the control plane: what reading and writing objects means, and its gRPC face.
//!
//! `registry` is the one door to objects, for gRPC clients and reconcilers alike: nothing else writes object keys to the
//! store. `service` translates gRPC; it holds no rules of its own.

pub mod error;
pub mod registry;

pub use error::ApiError;
pub use registry::{DeleteOptions, ListOptions, ObjectList, Propagation, Registry};
