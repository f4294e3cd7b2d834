//! What every kind's message has in common.

use std::{
    fmt::{self, Debug},
    sync::LazyLock,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    kind::Kind,
    v1::{Object, ObjectMeta},
};

/// The message of one kind. Implemented by the registry in [`crate::kind`] alone.
pub trait Resource: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;

    /// The metadata; empty when the message has none.
    fn meta(&self) -> &ObjectMeta;

    /// The metadata, made when absent.
    fn meta_mut(&mut self) -> &mut ObjectMeta;

    /// This message as an object of any kind.
    fn into_object(self) -> Object;

    /// The message inside, when the object is of this kind.
    fn from_object(object: Object) -> Option<Self>;

    /// The message inside, when the object is of this kind.
    fn from_object_ref(object: &Object) -> Option<&Self>;

    /// The message inside, when the object is of this kind.
    fn from_object_mut(object: &mut Object) -> Option<&mut Self>;

    /// "namespace/name", or "name" for kinds of the cluster.
    fn key(&self) -> String {
        self.meta().key()
    }
}

/// Stands in for absent metadata.
pub(crate) fn no_meta() -> &'static ObjectMeta {
    static NO_META: LazyLock<ObjectMeta> = LazyLock::new(ObjectMeta::default);
    &NO_META
}

impl ObjectMeta {
    /// "namespace/name", or "name" without a namespace.
    pub fn key(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    /// True once deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that is the managing controller, if any.
    pub fn controller(&self) -> Option<&crate::v1::OwnerReference> {
        self.owner_references
            .iter()
            .find(|owner| owner.controller == Some(true))
    }
}

impl Object {
    /// "namespace/name", or "name" for kinds of the cluster; empty without metadata.
    pub fn key(&self) -> String {
        self.meta().map(ObjectMeta::key).unwrap_or_default()
    }

    /// Name for people: "pod/web".
    pub fn title(&self) -> String {
        let name = self.meta().map_or("", |meta| {
            if meta.name.is_empty() {
                &meta.generate_name
            } else {
                &meta.name
            }
        });
        match self.kind() {
            Some(kind) => format!("{}/{name}", kind.singular()),
            None => format!("?/{name}"),
        }
    }
}

/// Kind, namespace and name: what identifies an object in a cluster.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace; empty for kinds of the cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Key of a named object.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Key of an object; `None` when it has no kind or no metadata.
    pub fn of(object: &Object) -> Option<Self> {
        let meta = object.meta()?;
        Some(Self::new(object.kind()?, &meta.namespace, &meta.name))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}
