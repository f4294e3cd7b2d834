//! How objects lie in the store: keys and values. `<plural>/<namespace>/<name>`, or `<plural>/<name>` for cluster-scoped kinds;
//! the value is the encoded [`Object`] without `resourceVersion`, which is the revision of the key.

use causeway_proto::{Kind, v1::Object};
use prost::Message;

use super::ApiError;
use crate::{cache::Name, store::Revision};

/// Prefix of all keys of a kind, and of no others.
pub fn prefix(kind: Kind) -> String {
    format!("{}/", kind.plural())
}

/// Key of one object.
pub fn key(kind: Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() {
        format!("{}/{namespace}/{name}", kind.plural())
    } else {
        format!("{}/{name}", kind.plural())
    }
}

/// Namespace and name in a key, or `None` if it is not one of that kind.
pub fn name_of(kind: Kind, key: &str) -> Option<Name> {
    let rest = key.strip_prefix(kind.plural())?.strip_prefix('/')?;
    if !kind.namespaced() {
        return Some((String::new(), rest.to_owned()));
    }
    let (namespace, name) = rest.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// The value of an object.
pub fn encode(object: &Object) -> Vec<u8> {
    let has_version = object.meta().is_some_and(|meta| !meta.resource_version.is_empty());
    if !has_version {
        return object.encode_to_vec();
    }
    let mut bare = object.clone();
    if let Some(meta) = bare.meta_mut() {
        meta.resource_version.clear();
    }
    bare.encode_to_vec()
}

/// The object of a value, with the revision of its key as `resourceVersion`.
pub fn decode(key: &str, value: &[u8], revision: Revision) -> Result<Object, ApiError> {
    let mut object = Object::decode(value).map_err(|source| ApiError::Corrupt {
        key: key.to_owned(),
        source,
    })?;
    if let Some(meta) = object.meta_mut() {
        meta.resource_version = revision.to_string();
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use causeway_proto::{Resource, v1::Pod};

    use super::*;

    #[test]
    fn keys_are_read_back() {
        assert_eq!(key(Kind::Pod, "default", "web"), "pods/default/web");
        assert_eq!(
            name_of(Kind::Pod, "pods/default/web"),
            Some(("default".into(), "web".into()))
        );
        assert_eq!(key(Kind::Node, "", "n1"), "nodes/n1");
        assert_eq!(name_of(Kind::Node, "nodes/n1"), Some((String::new(), "n1".into())));
        assert_eq!(name_of(Kind::Pod, "nodes/n1"), None);
        for a in Kind::ALL {
            for b in Kind::ALL.iter().filter(|b| *b != a) {
                assert!(!prefix(*a).starts_with(&prefix(*b)), "{a} {b}");
            }
        }
    }

    #[test]
    fn the_version_is_that_of_the_key() {
        let mut pod = Pod::default();
        pod.meta_mut().name = "web".into();
        pod.meta_mut().resource_version = "7".into();
        let value = encode(&pod.clone().into_object());
        let read = decode("pods/default/web", &value, 9).unwrap();
        assert_eq!(read.meta().unwrap().resource_version, "9");
        pod.meta_mut().resource_version.clear();
        assert_eq!(
            encode(&pod.into_object()),
            value,
            "two writes of the same object are the same"
        );
    }
}
