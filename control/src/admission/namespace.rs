//! Namespaces.

use causeway_proto::v1::{Namespace, NamespaceStatus};

use super::field::{Path, Violations};

/// Held in `spec.finalizers` until everything in the namespace is gone.
pub const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels the namespace with its name, so that selectors can name it.
pub fn default(namespace: &mut Namespace) {
    let meta = namespace.metadata.get_or_insert_default();
    if !meta.name.is_empty() {
        meta.labels.insert(NAME_LABEL.into(), meta.name.clone());
    }
}

/// A new namespace is active and holds its finalizer.
pub fn prepare_create(namespace: &mut Namespace) {
    default(namespace);
    let finalizers = &mut namespace.spec.get_or_insert_default().finalizers;
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    namespace.status = Some(NamespaceStatus { phase: "Active".into() });
}

/// Only who empties a namespace that is being deleted may take its finalizers off.
pub fn prepare_update(namespace: &mut Namespace, old: &Namespace) {
    default(namespace);
    let deleting = old
        .metadata
        .as_ref()
        .is_some_and(|meta| meta.deletion_timestamp.is_some());
    if !deleting {
        namespace.spec.clone_from(&old.spec);
    }
}

/// Checks a new or changed namespace.
pub fn validate(namespace: &Namespace, v: &mut Violations) {
    let path = Path::new("spec").child("finalizers");
    for (at, finalizer) in namespace.spec.iter().flat_map(|spec| &spec.finalizers).enumerate() {
        if finalizer != FINALIZER {
            v.invalid_each(&path.index(at), finalizer, super::names::qualified_name(finalizer));
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{NamespaceSpec, ObjectMeta};

    use super::*;

    fn namespace() -> Namespace {
        let mut ns = Namespace {
            metadata: Some(ObjectMeta {
                name: "a".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        prepare_create(&mut ns);
        ns
    }

    #[test]
    fn new_namespaces_are_active_and_labelled() {
        let ns = namespace();
        assert_eq!(ns.status.unwrap().phase, "Active");
        assert_eq!(ns.spec.unwrap().finalizers, ["kubernetes"]);
        assert_eq!(ns.metadata.unwrap().labels["kubernetes.io/metadata.name"], "a");
    }

    #[test]
    fn the_finalizer_comes_off_only_during_deletion() {
        let mut old = namespace();
        let mut new = old.clone();
        new.spec = Some(NamespaceSpec::default());
        prepare_update(&mut new, &old);
        assert_eq!(new.spec.as_ref().unwrap().finalizers, ["kubernetes"]);
        old.metadata.as_mut().unwrap().deletion_timestamp = Some(prost_types::Timestamp::default());
        new.spec = Some(NamespaceSpec::default());
        prepare_update(&mut new, &old);
        assert!(new.spec.unwrap().finalizers.is_empty());
    }
}
