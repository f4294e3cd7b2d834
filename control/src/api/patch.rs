//! Changing objects by JSON: patches, and apply's three-way merge.

use causeway_proto::{
    Kind,
    v1::{Object, Preconditions, apply_response::Outcome, patch_request},
};

use super::{ApiError, Registry};

impl Registry {
    /// Changes an object by a JSON patch (RFC 6902) or merge patch (RFC 7386).
    #[expect(clippy::too_many_arguments, reason = "the fields of PatchRequest")]
    pub async fn patch(
        &self,
        _: Kind,
        _: &str,
        _: &str,
        _: patch_request::Type,
        _: &str,
        _: &Preconditions,
        _: bool,
    ) -> Result<Object, ApiError> {
        Err(ApiError::Unavailable("patch".into()))
    }

    /// Creates, or three-way merges; `manifest` is one object as JSON text.
    pub async fn apply(&self, _: &str, _: bool) -> Result<(Object, Outcome), ApiError> {
        Err(ApiError::Unavailable("apply".into()))
    }
}

/// The kind that a manifest names, for counting.
pub(super) fn kind_of_manifest(_: &str) -> Option<Kind> {
    None
}
