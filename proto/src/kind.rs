//! The registry of kinds. A new kind is one message, one line in [`registry!`] below, one validation module.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::{
    resource::{Resource, no_meta},
    v1::{self, Object, ObjectMeta, object},
};

/// Takes the status of one object over into another of the same kind, where the kind has one.
macro_rules! copy_status {
    (status, $to:ident, $from:ident) => {
        $to.status.clone_from(&$from.status)
    };
    (no_status, $to:ident, $from:ident) => {{
        let _ = ($to, $from);
    }};
}

/// Compares two objects of one kind by all but metadata and status.
macro_rules! without_status {
    (status, $object:ident) => {
        $object.status = None
    };
    (no_status, $object:ident) => {{
        let _ = $object;
    }};
}

macro_rules! registry {
    ($($kind:ident, $plural:literal, [$($short:literal),*], $api_version:literal, $scope:ident, $status:ident;)*) => {
        /// A kind of object.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[expect(missing_docs, reason = "each is named as its message, which has the documentation")]
        pub enum Kind {
            $($kind),*
        }

        impl Kind {
            /// Every kind, in registry order.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// Name as in a manifest: "Pod".
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind)),*
                }
            }

            /// Plural, lower case: "pods".
            pub const fn plural(self) -> &'static str {
                match self {
                    $(Self::$kind => $plural),*
                }
            }

            /// Short names for typing: "po".
            pub const fn short_names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$kind => &[$($short),*]),*
                }
            }

            /// `apiVersion` as in a manifest: "v1".
            pub const fn api_version(self) -> &'static str {
                match self {
                    $(Self::$kind => $api_version),*
                }
            }

            /// True when objects of this kind live in a namespace, false when they belong to the cluster.
            pub const fn namespaced(self) -> bool {
                match self {
                    $(Self::$kind => registry!(@namespaced $scope)),*
                }
            }

            /// True when objects of this kind have a status of their own, written by `UpdateStatus`.
            pub const fn has_status(self) -> bool {
                match self {
                    $(Self::$kind => registry!(@has_status $status)),*
                }
            }
        }

        $(impl Resource for v1::$kind {
            const KIND: Kind = Kind::$kind;

            fn meta(&self) -> &ObjectMeta {
                self.metadata.as_ref().unwrap_or_else(|| no_meta())
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                self.metadata.get_or_insert_default()
            }

            fn into_object(self) -> Object {
                Object { kind: Some(object::Kind::$kind(self)) }
            }

            fn from_object(object: Object) -> Option<Self> {
                match object.kind {
                    Some(object::Kind::$kind(inner)) => Some(inner),
                    _ => None,
                }
            }

            fn from_object_ref(object: &Object) -> Option<&Self> {
                match &object.kind {
                    Some(object::Kind::$kind(inner)) => Some(inner),
                    _ => None,
                }
            }

            fn from_object_mut(object: &mut Object) -> Option<&mut Self> {
                match &mut object.kind {
                    Some(object::Kind::$kind(inner)) => Some(inner),
                    _ => None,
                }
            }
        })*

        impl Object {
            /// An empty object of a kind.
            pub fn empty(kind: Kind) -> Self {
                match kind {
                    $(Kind::$kind => v1::$kind::default().into_object()),*
                }
            }

            /// The kind, or `None` for a message in which no kind is set.
            pub fn kind(&self) -> Option<Kind> {
                match &self.kind {
                    $(Some(object::Kind::$kind(_)) => Some(Kind::$kind),)*
                    None => None,
                }
            }

            /// The metadata, or `None` when there is none (or no kind).
            pub fn meta(&self) -> Option<&ObjectMeta> {
                match &self.kind {
                    $(Some(object::Kind::$kind(inner)) => inner.metadata.as_ref(),)*
                    None => None,
                }
            }

            /// The metadata, made when absent; `None` only when no kind is set.
            pub fn meta_mut(&mut self) -> Option<&mut ObjectMeta> {
                match &mut self.kind {
                    $(Some(object::Kind::$kind(inner)) => Some(inner.meta_mut()),)*
                    None => None,
                }
            }

            /// Takes over the status of `other`, an object of the same kind. False when the kinds differ.
            pub fn copy_status(&mut self, other: &Self) -> bool {
                match (&mut self.kind, &other.kind) {
                    $((Some(object::Kind::$kind(to)), Some(object::Kind::$kind(from))) => {
                        copy_status!($status, to, from);
                        true
                    })*
                    _ => false,
                }
            }

            /// Removes the status, where the kind has one.
            pub fn clear_status(&mut self) {
                match &mut self.kind {
                    $(Some(object::Kind::$kind(inner)) => without_status!($status, inner),)*
                    None => {}
                }
            }

            /// The fields as JSON, without `apiVersion` and `kind`.
            pub(crate) fn fields_to_json(&self) -> serde_json::Result<serde_json::Value> {
                match &self.kind {
                    $(Some(object::Kind::$kind(inner)) => serde_json::to_value(inner),)*
                    None => Ok(serde_json::Value::Null),
                }
            }
        }

        /// Reads the fields of an object of `kind`; `apiVersion` and `kind` are not among them.
        pub(crate) fn deserialize_fields<'de, D: serde::Deserializer<'de>>(kind: Kind, from: D) -> Result<Object, D::Error> {
            match kind {
                $(Kind::$kind => <v1::$kind as serde::Deserialize>::deserialize(from).map(Resource::into_object)),*
            }
        }
    };
    (@namespaced namespaced) => { true };
    (@namespaced cluster) => { false };
    (@has_status status) => { true };
    (@has_status no_status) => { false };
}

registry! {
    Namespace, "namespaces", ["ns"], "v1", cluster, status;
    Node, "nodes", ["no"], "v1", cluster, status;
    Lease, "leases", [], "coordination.k8s.io/v1", namespaced, no_status;
    Pod, "pods", ["po"], "v1", namespaced, status;
    ReplicationController, "replicationcontrollers", ["rc"], "v1", namespaced, status;
    Service, "services", ["svc"], "v1", namespaced, status;
    Endpoints, "endpoints", ["ep"], "v1", namespaced, no_status;
    Event, "events", ["ev"], "v1", namespaced, no_status;
}

impl Kind {
    /// Lower-case singular, as before the slash of "pod/web".
    pub fn singular(self) -> String {
        self.name().to_ascii_lowercase()
    }

    /// The kind of a manifest's `apiVersion` and `kind`, both exactly as written there.
    pub fn from_manifest(api_version: &str, name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name && kind.api_version() == api_version)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no kind.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown kind \"{text}\"; known kinds: {}", known())]
pub struct UnknownKind {
    /// The text.
    pub text: String,
}

fn known() -> String {
    let names: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| match kind.short_names() {
            [] => kind.plural().to_owned(),
            short => format!("{} ({})", kind.plural(), short.join(", ")),
        })
        .collect();
    names.join(", ")
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Reads a name, plural or short name, in any case.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let is = |name: &str| name.eq_ignore_ascii_case(text);
        let names = |kind: Self| is(kind.name()) || is(kind.plural()) || kind.short_names().iter().any(|name| is(name));
        let found = Self::ALL.iter().copied().find(|kind| names(*kind));
        found.ok_or_else(|| UnknownKind { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_every_kind_is_read_in_any_case() {
        for &kind in Kind::ALL {
            let spellings = [kind.name(), kind.plural()]
                .into_iter()
                .chain(kind.short_names().iter().copied());
            for spelling in spellings {
                assert_eq!(spelling.parse(), Ok(kind));
                assert_eq!(spelling.to_uppercase().parse(), Ok(kind));
            }
        }
    }

    #[test]
    fn no_two_kinds_share_a_spelling() {
        let mut all: Vec<String> = Vec::new();
        for kind in Kind::ALL {
            all.push(kind.plural().to_owned());
            all.extend(kind.short_names().iter().map(ToString::to_string));
            if kind.singular() != kind.plural() {
                all.push(kind.singular());
            }
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_known_ones() {
        let error = "deploy".parse::<Kind>().expect_err("no such kind").to_string();
        assert!(
            error.starts_with("unknown kind \"deploy\"; known kinds: namespaces (ns), nodes (no), leases,"),
            "{error}"
        );
    }

    #[test]
    fn status_is_copied_between_objects_of_one_kind_only() {
        let status = v1::PodStatus {
            phase: "Running".into(),
            ..Default::default()
        };
        let from = v1::Pod {
            status: Some(status.clone()),
            ..Default::default()
        }
        .into_object();
        let mut to = Object::empty(Kind::Pod);
        assert!(to.copy_status(&from));
        assert_eq!(
            v1::Pod::from_object_ref(&to).and_then(|pod| pod.status.clone()),
            Some(status)
        );
        assert!(!Object::empty(Kind::Node).copy_status(&from));
    }
}
