//! The gRPC client of the control plane.
//!
//! [`Client`] speaks the verbs, typed by kind or over any [`Object`]; [`watcher`] turns list and watch into a stream of
//! changes that never ends; [`reflector`] keeps a local copy by it. A `Client` connects when it is first used and again
//! whenever the connection broke, so it can be made while the control plane is away.

mod backoff;
mod connect;
mod dirty;
pub mod error;
mod options;
pub mod reflector;
#[cfg(test)]
mod tests;
mod typed;
mod verbs;
pub mod watcher;

pub use backoff::Backoff;
pub use connect::{Client, ConnectError};
pub use dirty::DirtyKeys;
pub use error::{ClientError, Violation};
pub use options::{DeleteOptions, ListOptions, Propagation};
pub use reflector::{Changes, Reflector, Store};
pub use typed::TypedList;
pub use verbs::{Applied, WatchStream};
pub use watcher::{Change, Watcher};

#[cfg(doc)]
use crate::v1::Object;
