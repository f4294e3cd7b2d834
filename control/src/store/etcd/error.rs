//! etcd's errors in our terms. etcd tells some of them apart by text only (etcd `api/v3rpc/rpctypes/error.go`).

use std::error::Error;

use etcd_client::Error as EtcdError;
use tonic::Code;

use super::super::{LeaseId, StoreError};

/// Names the endpoints in errors.
pub(super) struct ErrorContext {
    endpoints: String,
}

impl ErrorContext {
    pub(super) fn new(endpoints: &[String]) -> Self {
        Self {
            endpoints: endpoints.join(","),
        }
    }

    pub(super) fn endpoints(&self) -> &str {
        &self.endpoints
    }

    pub(super) fn unavailable(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
        StoreError::Unavailable {
            endpoints: self.endpoints.clone(),
            source: source.into(),
        }
    }

    pub(super) fn refused(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
        StoreError::Refused {
            endpoints: self.endpoints.clone(),
            source: source.into(),
        }
    }

    /// Revisions and lease identifiers are not in etcd's texts; callers that know them fill them in.
    pub(super) fn translate(&self, error: EtcdError) -> StoreError {
        match &error {
            EtcdError::GRpcStatus(status) => match status.code() {
                Code::OutOfRange if status.message().contains("has been compacted") => StoreError::Compacted {
                    requested: 0,
                    oldest: 0,
                },
                Code::OutOfRange if status.message().contains("future revision") => {
                    StoreError::FutureRevision { requested: 0, last: 0 }
                }
                Code::NotFound if status.message().contains("lease not found") => {
                    StoreError::LeaseNotFound { id: LeaseId(0) }
                }
                // The client library reports broken connections as Unknown or Internal.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => {
                    self.unavailable(error)
                }
                _ => self.refused(error),
            },
            EtcdError::LeaseKeepAliveError(text) if text.contains("lease not found") => {
                StoreError::LeaseNotFound { id: LeaseId(0) }
            }
            EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) | EtcdError::EndpointError(_) => self.refused(error),
            _ => self.unavailable(error),
        }
    }
}
