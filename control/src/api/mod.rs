//! The API of the control plane: what reading and writing objects means, and its gRPC face.
//!
//! `registry` is the one door to objects, for gRPC clients and reconcilers alike: nothing else writes object keys to the
//! store. `service` translates gRPC and holds no rules of its own, `version` tells the version; `server` listens.

pub mod allocation;
mod claims;
mod delete;
pub mod error;
mod merge;
mod options;
mod patch;
pub mod pools;
pub mod registry;
pub mod server;
mod service;
pub mod stored;
mod subresource;
mod version;
mod write;

pub use error::ApiError;
pub use options::{DeleteOptions, ListOptions, ObjectList, Propagation, WatchOptions};
pub use registry::{Registry, RegistryOptions};
pub use service::ObjectApi;
