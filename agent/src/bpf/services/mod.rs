//! Services into maps: the planner behind [`super::Datapath::sync_services`].
//!
//! Pure but for one trait, [`MapWriter`]. The order of writes is the invariant: backends, then slots, then the one update
//! of `SERVICES` that makes them visible; deletion in reverse, and what was freed rests before it is used again.

mod adopt;
mod apply;
pub mod arena;
pub mod backends;
mod claims;
mod entries;
mod groups;
mod holds;
mod ids;
pub mod maglev;
mod report;
mod settle;
mod sync;
mod tables;
#[cfg(test)]
mod tests;
mod unsettled;
mod wanted;
pub mod writer;

pub use report::{NotApplied, Reason, SyncReport};
pub use sync::{Grace, ServiceSync};
pub use writer::{AdoptedBackend, AdoptedService, Condition, MapWriter};
pub(super) use writer::{PinnedWriter, adopted_backends, owner};
