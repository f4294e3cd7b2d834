//! What requests say besides the object.

use std::sync::Arc;

use causeway_proto::{
    Kind,
    v1::{Object, ObjectMeta, Preconditions},
};

use super::ApiError;
use crate::{cache::Name, store::Revision};

/// Which objects of a kind, and how many at once.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    /// "app=web,tier in (a, b)"; empty: all.
    pub label_selector: String,
    /// "spec.nodeName=n1"; empty: all.
    pub field_selector: String,
    /// Objects per page; 0: all.
    pub limit: usize,
    /// `continue_token` of the page before; empty: first page.
    pub continue_token: String,
}

/// One page; all pages of a list are of one revision.
#[derive(Clone, Debug)]
pub struct ObjectList {
    /// Revision of the list; a watch continues from here.
    pub revision: Revision,
    /// For the next page; empty on the last.
    pub continue_token: String,
    /// In order of namespace and name.
    pub items: Vec<Arc<Object>>,
}

/// Where a watch begins and what it shows.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    /// As in [`ListOptions`].
    pub label_selector: String,
    /// As in [`ListOptions`].
    pub field_selector: String,
    /// Changes after this one; `None` or 0: the present objects as ADDED, a BOOKMARK, then changes.
    pub revision: Option<Revision>,
}

/// What becomes of objects owned by a deleted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes at once, the garbage collector takes the rest.
    #[default]
    Background,
    /// The owner stays (finalizer `foregroundDeletion`) until what it owns is gone.
    Foreground,
    /// The owned stay, without owner (finalizer `orphan` until they are released).
    Orphan,
}

impl Propagation {
    /// Reads the text of a request; empty is the default.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(ApiError::BadRequest {
                field: "propagation_policy",
                reason: format!("{other:?} is none of Background, Foreground, Orphan"),
            }),
        }
    }
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Empty fields are not checked.
    pub preconditions: Preconditions,
    /// Seconds; `None`: the object's own; 0: at once.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of owned objects.
    pub propagation: Propagation,
}

impl DeleteOptions {
    /// Refuses to delete an object with another uid.
    pub fn only_uid(uid: impl Into<String>) -> Self {
        Self {
            preconditions: Preconditions {
                uid: uid.into(),
                ..Preconditions::default()
            },
            ..Self::default()
        }
    }
}

/// Refuses when a given uid or version is not the object's.
pub fn check_preconditions(wanted: &Preconditions, kind: Kind, actual: &ObjectMeta) -> Result<(), ApiError> {
    if !wanted.uid.is_empty() && wanted.uid != actual.uid {
        return Err(ApiError::FailedPrecondition {
            kind,
            key: actual.key(),
            reason: format!(
                "the uid in the precondition is {}, that of the object is {}",
                wanted.uid, actual.uid
            ),
        });
    }
    if !wanted.resource_version.is_empty() && wanted.resource_version != actual.resource_version {
        return Err(ApiError::Conflict {
            kind,
            key: actual.key(),
            expected: wanted.resource_version.clone(),
            actual: actual.resource_version.clone(),
        });
    }
    Ok(())
}

/// Reads a `resource_version`; empty is `None`.
pub fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    match text {
        "" => Ok(None),
        text => match text.parse() {
            Ok(revision) if revision >= 0 => Ok(Some(revision)),
            _ => Err(ApiError::BadRequest {
                field: "resource_version",
                reason: format!("{text:?} is not a revision of this control plane"),
            }),
        },
    }
}

/// The token of a page that begins after `name`, of a list at `revision`.
pub fn continue_token(revision: Revision, (namespace, name): &Name) -> String {
    format!("1/{revision}/{namespace}/{name}")
}

/// Reads [`continue_token`]'s text.
pub fn parse_continue_token(text: &str) -> Result<(Revision, Name), ApiError> {
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let parsed = match parts.as_slice() {
        ["1", revision, namespace, name] => revision
            .parse()
            .ok()
            .map(|r| (r, ((*namespace).to_owned(), (*name).to_owned()))),
        _ => None,
    };
    parsed.ok_or_else(|| ApiError::BadRequest {
        field: "continue",
        reason: format!("{text:?} is not a token that a list answered"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        let name = ("default".to_owned(), "web.1".to_owned());
        assert_eq!(parse_continue_token(&continue_token(42, &name)).unwrap(), (42, name));
        for text in ["x", "1/a/b/c", "2/1/b/c", "1/2/b"] {
            assert!(
                matches!(
                    parse_continue_token(text),
                    Err(ApiError::BadRequest { field: "continue", .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn revisions_are_numbers() {
        assert_eq!(parse_revision("").unwrap(), None);
        assert_eq!(parse_revision("7").unwrap(), Some(7));
        assert!(parse_revision("-1").is_err());
        assert!(parse_revision("new").is_err());
    }
}
