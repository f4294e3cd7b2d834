//! What a verb can be told beside the object.

use crate::v1::Preconditions;

/// Which objects to list or watch. The default is all of the kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListOptions {
    /// Only of this namespace; empty for all.
    pub namespace: String,
    /// Label selector in its text form; empty for all.
    pub label_selector: String,
    /// Field selector in its text form; empty for all.
    pub field_selector: String,
}

impl ListOptions {
    /// All objects of a namespace.
    pub fn namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..Self::default()
        }
    }

    /// Narrows to a label selector.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = selector.into();
        self
    }

    /// Narrows to a field selector.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = selector.into();
        self
    }
}

/// How to delete. The default asks for the object's own grace period and background collection.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds to end gracefully, instead of the object's own; 0 removes at once.
    pub grace_period_seconds: Option<i64>,
    /// What happens to the objects this one owns.
    pub propagation: Propagation,
    /// Refused unless these hold.
    pub preconditions: Option<Preconditions>,
}

impl DeleteOptions {
    /// Removes at once: what a node's agent asks for when a pod has ended.
    pub fn now() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }

    /// Refused when the object of that name has another uid.
    #[must_use]
    pub fn only_uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.preconditions.get_or_insert_default().uid);
        self
    }
}

/// What happens to the objects that a deleted one owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay and have no owner.
    Orphan,
}

impl Propagation {
    /// Name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}
