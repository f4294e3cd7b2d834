//! Rules of metadata, common to all kinds.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::v1::ObjectMeta;

use super::{
    field::{Path, Violations},
    names,
};

/// Bytes of all annotations of an object together, as in Kubernetes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Rule for an object's name; one per kind.
pub type NameRule = fn(&str) -> Vec<String>;

/// Checks metadata of an object that is about to be stored; its name has been generated already.
pub fn validate(meta: &ObjectMeta, namespaced: bool, name_rule: NameRule, v: &mut Violations) {
    let path = Path::new("metadata");
    if meta.name.is_empty() {
        v.required(&path.child("name"), "name or generateName is required");
    } else {
        v.invalid_each(&path.child("name"), &meta.name, name_rule(&meta.name));
    }
    if namespaced {
        if meta.namespace.is_empty() {
            v.required(&path.child("namespace"), "");
        } else {
            v.invalid_each(
                &path.child("namespace"),
                &meta.namespace,
                names::dns1123_label(&meta.namespace),
            );
        }
    } else if !meta.namespace.is_empty() {
        v.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    labels(&meta.labels, &path.child("labels"), v);
    annotations(&meta.annotations, &path.child("annotations"), v);
    finalizers(&meta.finalizers, &path.child("finalizers"), v);
    owners(meta, &path.child("ownerReferences"), v);
}

/// Checks that nothing of metadata changed that may not.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, v: &mut Violations) {
    let path = Path::new("metadata");
    v.immutable(&path.child("name"), &new.name, &old.name);
    v.immutable(&path.child("namespace"), &new.namespace, &old.namespace);
    v.immutable(&path.child("uid"), &new.uid, &old.uid);
    if old.deletion_timestamp.is_some() {
        let added: Vec<_> = new.finalizers.iter().filter(|f| !old.finalizers.contains(f)).collect();
        if !added.is_empty() {
            v.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                ),
            );
        }
    }
}

/// Checks keys and values of labels.
pub fn labels(labels: &BTreeMap<String, String>, path: &Path, v: &mut Violations) {
    for (key, value) in labels {
        v.invalid_each(path, key, names::qualified_name(key));
        v.invalid_each(path, value, names::label_value(value));
    }
}

fn annotations(annotations: &BTreeMap<String, String>, path: &Path, v: &mut Violations) {
    for key in annotations.keys() {
        // As in Kubernetes, upper case is tolerated in the prefix.
        v.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_MAX {
        v.too_long(path, ANNOTATIONS_MAX);
    }
}

fn finalizers(finalizers: &[String], path: &Path, v: &mut Violations) {
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    for (at, finalizer) in finalizers.iter().enumerate() {
        v.invalid_each(&path.index(at), finalizer, names::qualified_name(finalizer));
    }
    if has(super::FINALIZER_FOREGROUND) && has(super::FINALIZER_ORPHAN) {
        v.invalid(
            path,
            finalizers,
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn owners(meta: &ObjectMeta, path: &Path, v: &mut Violations) {
    let mut controller: Option<&str> = None;
    let mut uids = BTreeSet::new();
    for (at, owner) in meta.owner_references.iter().enumerate() {
        let path = path.index(at);
        for (field, value) in [
            ("apiVersion", &owner.api_version),
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ] {
            if value.is_empty() {
                v.required(&path.child(field), "must not be empty");
            }
        }
        if !owner.uid.is_empty() && !uids.insert(&owner.uid) {
            v.duplicate(&path.child("uid"), &owner.uid);
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                let both = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    owner.name
                );
                v.invalid(&path.child("controller"), true, &both);
            }
            controller = Some(&owner.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::OwnerReference;

    use super::{super::field::texts, *};

    fn meta(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: name.into(),
            namespace: "default".into(),
            ..Default::default()
        }
    }

    fn check(meta: &ObjectMeta) -> Vec<String> {
        let mut v = Violations::default();
        validate(meta, true, names::dns1123_subdomain, &mut v);
        texts(v)
    }

    #[test]
    fn a_plain_object_is_valid() {
        assert_eq!(check(&meta("web")), Vec::<String>::new());
    }

    #[test]
    fn every_violation_is_told() {
        let mut m = meta("Web");
        m.namespace = String::new();
        m.labels.insert("a b".into(), "-".into());
        m.annotations.insert("/x".into(), String::new());
        m.finalizers = vec!["foregroundDeletion".into(), "orphan".into()];
        m.owner_references = vec![
            OwnerReference {
                uid: "1".into(),
                ..Default::default()
            };
            2
        ];
        let found = check(&m);
        for part in [
            "metadata.name: Invalid value: \"Web\"",
            "metadata.namespace: Required value",
            "metadata.labels: Invalid value: \"a b\"",
            "metadata.labels: Invalid value: \"-\"",
            "metadata.annotations: Invalid value: \"/x\": prefix part must be non-empty",
            "metadata.finalizers: Invalid value",
            "metadata.ownerReferences[0].kind: Required value",
            "metadata.ownerReferences[1].uid: Duplicate value: \"1\"",
        ] {
            assert!(found.iter().any(|text| text.starts_with(part)), "{part} in {found:#?}");
        }
    }

    #[test]
    fn only_one_owner_controls() {
        let owner = |name: &str| OwnerReference {
            api_version: "v1".into(),
            kind: "ReplicationController".into(),
            name: name.into(),
            uid: name.into(),
            controller: Some(true),
            ..Default::default()
        };
        let mut m = meta("web");
        m.owner_references = vec![owner("a")];
        assert!(check(&m).is_empty());
        m.owner_references.push(owner("b"));
        assert!(check(&m)[0].contains("Only one reference can have Controller set to true"));
    }

    #[test]
    fn finalizers_are_not_added_during_deletion() {
        let mut old = meta("web");
        let mut new = old.clone();
        new.finalizers = vec!["x.y/z".into()];
        let mut v = Violations::default();
        validate_update(&new, &old, &mut v);
        assert!(texts(v).is_empty());
        old.deletion_timestamp = Some(prost_types::Timestamp::default());
        let mut v = Violations::default();
        validate_update(&new, &old, &mut v);
        assert!(texts(v)[0].starts_with("metadata.finalizers: Forbidden: no new finalizers"));
    }
}
