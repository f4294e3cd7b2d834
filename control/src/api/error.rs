//! What a request can end in, and how that looks in gRPC.

use causeway_proto::Kind;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::store::StoreError;

/// Why a request was refused or failed. `code` gives the gRPC code; `From<ApiError> for Status` adds google.rpc details.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No such object.
    #[error("{kind} \"{key}\" not found")]
    NotFound {
        /// Kind asked for.
        kind: Kind,
        /// `namespace/name`, or the name of a cluster-scoped object.
        key: String,
    },
    /// An object of that name exists.
    #[error("{kind} \"{key}\" already exists")]
    AlreadyExists {
        /// Kind to be created.
        kind: Kind,
        /// `namespace/name`, or the name of a cluster-scoped object.
        key: String,
    },
    /// A compare-and-swap on `resourceVersion` lost.
    #[error(
        "{kind} \"{key}\" was changed by someone else: the request is based on resourceVersion {expected}, the stored one \
         is {actual}; read it again and repeat the change"
    )]
    Conflict {
        /// Kind of the object.
        kind: Kind,
        /// `namespace/name`, or the name of a cluster-scoped object.
        key: String,
        /// The version that the request named.
        expected: String,
        /// The version in the store.
        actual: String,
    },
    /// The object breaks rules; every one of them is listed.
    #[error("{kind} \"{key}\" is invalid: {}", join(violations))]
    Invalid {
        /// Kind of the object.
        kind: Kind,
        /// `namespace/name`, or the name of a cluster-scoped object.
        key: String,
        /// Field path and description of each.
        violations: Vec<FieldViolation>,
    },
    /// The request itself cannot be understood (a selector, a patch, a token, a kind).
    #[error("{field}: {reason}")]
    BadRequest {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The state of the object forbids it.
    #[error("{kind} \"{key}\": {reason}")]
    FailedPrecondition {
        /// Kind of the object.
        kind: Kind,
        /// `namespace/name`, or the name of a cluster-scoped object.
        key: String,
        /// What would have to be different.
        reason: String,
    },
    /// A watch or a page asks for a revision that is no longer kept: list again.
    #[error("{kind}: revision {requested} is no longer kept, the oldest one is {oldest}; list again and watch from there")]
    Expired {
        /// Kind listed or watched.
        kind: Kind,
        /// The revision asked for.
        requested: u64,
        /// The oldest one that would have worked.
        oldest: u64,
    },
    /// Nothing is left of a bounded resource.
    #[error("{0}")]
    Exhausted(String),
    /// The server is stopping, or its cache has not been filled yet.
    #[error("{0}")]
    Unavailable(String),
    /// A stored object cannot be read back.
    #[error("stored object {key} cannot be decoded")]
    Corrupt {
        /// Store key.
        key: String,
        /// Decoder's error.
        #[source]
        source: prost::DecodeError,
    },
    /// The store failed.
    #[error("store")]
    Store(#[from] StoreError),
}

fn join(violations: &[FieldViolation]) -> String {
    let texts: Vec<_> = violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
    texts.join("; ")
}

impl ApiError {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Conflict { .. } => Code::Aborted,
            Self::Invalid { .. } | Self::BadRequest { .. } => Code::InvalidArgument,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::Expired { .. } => Code::OutOfRange,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::Unavailable(_) | Self::Store(_) => Code::Unavailable,
            Self::Corrupt { .. } => Code::DataLoss,
        }
    }

    /// True when nothing of that name exists.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// True when a compare-and-swap lost: read again and repeat.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// True when an object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }
}
