//! What a request can end in, and how that looks in gRPC.

use std::error::Error;

use causeway_proto::Kind;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::store::{Revision, StoreError};

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
    /// A manifest or a patched object is not in the shape of its kind; every field that does not fit is listed.
    #[error("{what} cannot be read: {}", join(violations))]
    Malformed {
        /// "pod/web", as far as it could be read.
        what: String,
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
    #[error(
        "{kind}: revision {requested} is no longer kept, the oldest one is {oldest}; list again and watch from there"
    )]
    Expired {
        /// Kind listed or watched.
        kind: Kind,
        /// The revision asked for.
        requested: Revision,
        /// The oldest one that would have worked.
        oldest: Revision,
    },
    /// A status update of a kind that has none, a scale of one that cannot be scaled.
    #[error("{kind} has no {subresource}")]
    NoSubresource {
        /// The kind.
        kind: Kind,
        /// "status" or "scale".
        subresource: &'static str,
    },
    /// Every address or port of a range is taken.
    #[error("{range} is exhausted: all of its {size} {unit} are allocated")]
    RangeExhausted {
        /// "service range 10.96.0.0/16".
        range: String,
        /// As many can be allocated.
        size: u64,
        /// Of what it is a range.
        unit: &'static str,
    },
    /// A watch asks for a revision that the store has not reached: it is from another store. List again.
    #[error("{kind}: revision {requested} is in the future, the last one is {last}; list again and watch from there")]
    FutureRevision {
        /// Kind watched.
        kind: Kind,
        /// The revision asked for.
        requested: Revision,
        /// The store's last one.
        last: Revision,
    },
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
    /// The store failed; what was to be written may or may not have been.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

fn join(violations: &[FieldViolation]) -> String {
    let texts: Vec<_> = violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect();
    texts.join("; ")
}

impl ApiError {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Conflict { .. } => Code::Aborted,
            Self::Invalid { .. } | Self::Malformed { .. } | Self::BadRequest { .. } => Code::InvalidArgument,
            Self::FailedPrecondition { .. } => Code::FailedPrecondition,
            Self::Expired { .. } | Self::FutureRevision { .. } => Code::OutOfRange,
            Self::NoSubresource { .. } => Code::Unimplemented,
            Self::RangeExhausted { .. } => Code::ResourceExhausted,
            Self::Corrupt { .. } | Self::Store(StoreError::Corrupt { .. }) => Code::DataLoss,
            Self::Unavailable(_) | Self::Store(_) => Code::Unavailable,
        }
    }

    /// The error with its sources, as one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    /// Whether trying the same again can help without anyone doing something.
    pub fn is_transient(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::Aborted)
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

impl From<&ApiError> for Status {
    fn from(error: &ApiError) -> Self {
        let mut details = ErrorDetails::new();
        let message = match error {
            // The violations go into the details, one by one.
            ApiError::Invalid { kind, key, violations } => {
                details.set_bad_request(violations.clone());
                format!("{kind} \"{key}\" is invalid")
            }
            ApiError::Malformed { what, violations } => {
                details.set_bad_request(violations.clone());
                format!("{what} cannot be read")
            }
            ApiError::BadRequest { field, reason } => {
                details.add_bad_request_violation(*field, reason.clone());
                "the request is invalid".to_owned()
            }
            ApiError::NotFound { kind, key }
            | ApiError::AlreadyExists { kind, key }
            | ApiError::Conflict { kind, key, .. }
            | ApiError::FailedPrecondition { kind, key, .. } => {
                details.set_resource_info(kind.name(), key.clone(), "", "");
                error.to_string()
            }
            _ => error.chain(),
        };
        Status::with_error_details(error.code(), message, details)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_travel_in_the_details() {
        let error = ApiError::Invalid {
            kind: Kind::Pod,
            key: "default/web".into(),
            violations: vec![
                FieldViolation::new("spec.a", "Required value"),
                FieldViolation::new("spec.b", "Forbidden: no"),
            ],
        };
        assert_eq!(
            error.to_string(),
            "Pod \"default/web\" is invalid: spec.a: Required value; spec.b: Forbidden: no"
        );
        let status = Status::from(error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "Pod \"default/web\" is invalid")
        );
        let details = status.get_error_details();
        let fields: Vec<_> = details
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|v| v.field.as_str())
            .collect();
        assert_eq!(fields, ["spec.a", "spec.b"]);
    }

    #[test]
    fn conflicts_name_both_versions() {
        let error = ApiError::Conflict {
            kind: Kind::Pod,
            key: "default/web".into(),
            expected: "4".into(),
            actual: "9".into(),
        };
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Aborted);
        assert!(
            status.message().contains("resourceVersion 4") && status.message().contains("is 9"),
            "{}",
            status.message()
        );
    }

    #[test]
    fn a_failed_store_is_named_with_its_cause() {
        let source = std::io::Error::other("connection refused").into();
        let store = StoreError::Unavailable {
            endpoints: "127.0.0.1:2379".into(),
            source,
        };
        let status = Status::from(ApiError::from(store));
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            "the store failed: store at 127.0.0.1:2379 is unavailable: connection refused"
        );
    }
}
