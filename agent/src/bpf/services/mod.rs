//! Services into maps: the planner behind [`super::Datapath::sync_services`].
//!
//! Pure but for one trait, [`MapWriter`]. The order of writes is the invariant: backends, then slots, then the one update
//! of `SERVICES` that makes them visible; deletion in reverse, and what was freed rests before it is used again.

pub mod arena;
pub mod backends;
mod ids;
pub mod maglev;
mod report;
mod sync;
#[cfg(test)]
mod sync_tests;
pub mod writer;

pub use report::{NotApplied, Reason, SyncReport};
pub use sync::{Grace, ServiceSync};
pub use writer::{AdoptedBackend, AdoptedService, Condition, MapWriter};
pub(super) use writer::{PinnedWriter, adopted_backends, owner};
