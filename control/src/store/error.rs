//! What can go wrong in a store.

use std::{error::Error, io, path::PathBuf};

use super::{LeaseId, Revision};

/// Why a store refused or failed. `Clone` is not offered: sources are kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No server answers. It may or may not have carried out the request.
    #[error("store at {endpoints} is unavailable")]
    Unavailable {
        /// The endpoints that were tried, or the directory of an embedded store that is closing.
        endpoints: String,
        /// What the client library says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server answered, but with an error that is not one of the others.
    #[error("store at {endpoints} refused the request")]
    Refused {
        /// The endpoints.
        endpoints: String,
        /// What the client library says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The revision is no longer kept.
    #[error("revision {requested} is compacted; the oldest one kept is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: Revision,
        /// The oldest one that a list may be pinned to, or a watch begin after.
        oldest: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} is in the future; the last one is {last}")]
    FutureRevision {
        /// The revision asked for.
        requested: Revision,
        /// The last one; 0 when the store does not say.
        last: Revision,
    },
    /// A transaction changes a key more than once.
    #[error("key {key} is changed twice in one transaction")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The lease has ended or never was.
    #[error("lease {id} does not exist")]
    LeaseNotFound {
        /// The lease.
        id: LeaseId,
    },
    /// The directory cannot be created or opened.
    #[error("cannot open store directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error("store directory {} is read-only", path.display())]
    ReadOnly {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("store directory {} is in use by another process{}", path.display(), holder(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The other process, if it could be told.
        pid: Option<u32>,
    },
    /// Reading or writing failed. After a failed write the store refuses further ones.
    #[error("input or output in store directory {} failed", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// What is stored cannot be understood.
    #[error("store {location} is corrupt: {detail}")]
    Corrupt {
        /// Directory or endpoints, and the key if there is one.
        location: String,
        /// What is wrong.
        detail: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl StoreError {
    /// True when trying again later can help without anyone doing something.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// True when the revision asked for is no longer kept: list again.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Self::Compacted { .. })
    }
}
