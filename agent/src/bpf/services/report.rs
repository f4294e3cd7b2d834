//! What a pass over the services did.

use std::fmt;

use causeway_maps::MapsError;

use super::super::desired::{BackendId, VipId, owner_of};

/// What one pass wrote, and what it could not.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// Entries of `SERVICES` written.
    pub services_written: usize,
    /// Entries of `SERVICES` removed.
    pub services_removed: usize,
    /// Elements of `SLOTS` written.
    pub slots_written: usize,
    /// Elements of `BACKENDS` changed.
    pub backends_written: usize,
    /// Backends whose connections are over: of TCP a grace period after the last service let go, of UDP, which has no end to wait
    /// for, at once.
    pub gone: Vec<BackendId>,
    /// Services that are not as desired; they stay as they were.
    pub not_applied: Vec<NotApplied>,
}

impl SyncReport {
    /// Whether everything was as desired already.
    pub fn is_unchanged(&self) -> bool {
        self.services_written + self.services_removed + self.slots_written + self.backends_written == 0
            && self.not_applied.is_empty()
    }
}

/// A service that could not be brought into the maps.
#[derive(Debug)]
pub struct NotApplied {
    /// "namespace/name:port".
    pub name: String,
    /// Its virtual address.
    pub vip: VipId,
    /// Why.
    pub reason: Reason,
}

impl NotApplied {
    /// "namespace/name".
    pub fn owner(&self) -> &str {
        owner_of(&self.name)
    }
}

impl fmt::Display for NotApplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vip, reason } = self;
        write!(
            f,
            "service {name} ({}/{}) not applied: {reason}",
            vip.address, vip.protocol
        )
    }
}

/// Why a service could not be brought into the maps.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// `SLOTS` has no free range, not even for the coarsest table.
    #[error("map SLOTS has no free range for {backends} backends ({free} slots free; --map-slots makes it larger)")]
    SlotsFull {
        /// Backends of the service.
        backends: usize,
        /// Free slots, perhaps in smaller pieces.
        free: u32,
    },
    /// More backends than the largest table has slots.
    #[error("{backends} backends are more than a table can hold")]
    TooManyBackends {
        /// Backends of the service.
        backends: usize,
    },
    /// `BACKENDS` has no free element.
    #[error("map BACKENDS is full (--map-backends makes it larger)")]
    BackendsFull,
    /// There is no free service id.
    #[error("map SERVICE_COUNTERS has no free element (--map-services makes it larger)")]
    IdsFull,
    /// A map refused the write; `SERVICES` or `SERVICE_NAMES` full among them.
    #[error("{0}{remedy}", remedy = remedy(.0))]
    Map(#[from] MapsError),
}

/// The option that makes a full map larger.
fn remedy(error: &MapsError) -> &'static str {
    match error {
        MapsError::Full {
            map: "SOURCE_RANGES", ..
        } => "; --map-source-ranges makes it larger",
        MapsError::Full { .. } => "; --map-services makes it larger",
        _ => "",
    }
}
