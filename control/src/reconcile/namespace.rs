//! Namespaces: those that always exist, and the emptying of those that are being deleted.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    v1::{Namespace, ObjectMeta},
};
use futures::future::join_all;

use super::{
    NODE_LEASE_NAMESPACE,
    driver::{Pass, ReconcileError, Reconciler},
    live,
    objects::typed,
};
use crate::{
    admission::namespace::FINALIZER,
    api::{DeleteOptions, Registry},
};

/// Made when they are missing.
const ALWAYS: [&str; 2] = ["default", NODE_LEASE_NAMESPACE];

/// The reconciler.
pub struct NamespaceLifecycle {
    registry: Registry,
}

/// An object inside a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    kind: Kind,
    name: String,
    uid: String,
}

/// What to do with a namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Make it.
    Create(String),
    /// Delete what is in it.
    Empty {
        /// Its name.
        namespace: String,
        /// What is not yet being deleted.
        contents: Vec<Content>,
    },
    /// Nothing is in it: let it go.
    Finalize(Box<Namespace>),
}

/// One object of a namespace as the planner sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its metadata.
    pub meta: &'a ObjectMeta,
}

/// Plans for all namespaces.
pub fn plan<'a>(
    namespaces: impl IntoIterator<Item = &'a Namespace>,
    entries: impl IntoIterator<Item = Entry<'a>>,
) -> BTreeMap<String, Work> {
    let mut missing: BTreeSet<&str> = ALWAYS.into();
    let mut ending: BTreeMap<&str, (&Namespace, Vec<Entry<'_>>)> = BTreeMap::new();
    for namespace in namespaces {
        let meta = namespace.meta();
        missing.remove(meta.name.as_str());
        let held = namespace
            .spec
            .as_ref()
            .is_some_and(|spec| spec.finalizers.iter().any(|f| f == FINALIZER));
        if meta.is_terminating() && held {
            ending.insert(&meta.name, (namespace, Vec::new()));
        }
    }
    if !ending.is_empty() {
        for entry in entries {
            if let Some((_, found)) = ending.get_mut(entry.meta.namespace.as_str()) {
                found.push(entry);
            }
        }
    }
    let mut work: BTreeMap<String, Work> = missing
        .into_iter()
        .map(|name| (name.to_owned(), Work::Create(name.to_owned())))
        .collect();
    for (name, (namespace, found)) in ending {
        let contents: Vec<_> = found
            .iter()
            .filter(|entry| !entry.meta.is_terminating())
            .map(|entry| Content {
                kind: entry.kind,
                name: entry.meta.name.clone(),
                uid: entry.meta.uid.clone(),
            })
            .collect();
        if found.is_empty() {
            work.insert(name.to_owned(), Work::Finalize(Box::new(namespace.clone())));
        } else if !contents.is_empty() {
            work.insert(
                name.to_owned(),
                Work::Empty {
                    namespace: name.to_owned(),
                    contents,
                },
            );
        }
    }
    work
}

impl NamespaceLifecycle {
    /// Works through the registry.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }

    async fn create(&self, name: String) -> Result<(), ReconcileError> {
        let mut namespace = Namespace::default();
        namespace.meta_mut().name.clone_from(&name);
        match self.registry.create(namespace.into_object(), false).await {
            Err(error) if !error.is_already_exists() => {
                Err(ReconcileError::api(format!("creating namespace {name}"))(error))
            }
            _ => Ok(()),
        }
    }

    async fn delete(&self, namespace: &str, content: Content) -> Result<(), ReconcileError> {
        let Content { kind, name, uid } = content;
        let options = DeleteOptions::only_uid(uid);
        match self.registry.delete(kind, namespace, &name, &options).await {
            Err(error) if !error.is_not_found() => Err(ReconcileError::api(format!(
                "deleting {kind} {namespace}/{name}"
            ))(error)),
            _ => Ok(()),
        }
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), ReconcileError> {
        let name = namespace.meta().name.clone();
        // New objects are refused by now, but a cache may not show the last ones yet.
        for kind in Kind::ALL.iter().filter(|kind| kind.namespaced()) {
            let any = live::any_in(&self.registry, *kind, &name).await;
            if any.map_err(ReconcileError::api(format!(
                "looking for what is left in namespace {name}"
            )))? {
                return Err(ReconcileError::NotYet(format!("namespace {name} is not empty yet")));
            }
        }
        namespace
            .spec
            .get_or_insert_default()
            .finalizers
            .retain(|finalizer| finalizer != FINALIZER);
        let result = self.registry.update(namespace.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("finalizing namespace {name}")))
    }
}

#[async_trait]
impl Reconciler for NamespaceLifecycle {
    type Work = Work;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn sources(&self) -> &'static [Kind] {
        // All: anything may be what a namespace still waits for.
        Kind::ALL
    }

    fn plan(&self) -> Pass<Work> {
        let namespaces = self.registry.cache(Kind::Namespace).snapshot();
        let ending = typed::<Namespace>(&namespaces).any(|namespace| namespace.meta().is_terminating());
        let kinds = Kind::ALL.iter().copied().filter(|kind| ending && kind.namespaced());
        let snapshots: Vec<_> = kinds.map(|kind| (kind, self.registry.cache(kind).snapshot())).collect();
        let entries = snapshots.iter().flat_map(|(kind, objects)| {
            objects.iter().filter_map(|object| {
                Some(Entry {
                    kind: *kind,
                    meta: object.meta()?,
                })
            })
        });
        Pass {
            work: plan(typed::<Namespace>(&namespaces), entries),
            again_in: None,
        }
    }

    async fn execute(&self, _key: &str, work: Work) -> Result<(), ReconcileError> {
        match work {
            Work::Create(name) => self.create(name).await,
            Work::Empty { namespace, contents } => {
                let deletions = join_all(contents.into_iter().map(|content| self.delete(&namespace, content))).await;
                deletions.into_iter().collect()
            }
            Work::Finalize(namespace) => self.finalize(*namespace).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::NamespaceSpec;

    use super::*;

    fn namespace(name: &str, ending: bool) -> Namespace {
        let mut namespace = Namespace {
            spec: Some(NamespaceSpec {
                finalizers: vec![FINALIZER.into()],
            }),
            ..Namespace::default()
        };
        namespace.meta_mut().name = name.into();
        namespace.meta_mut().deletion_timestamp = ending.then(prost_types::Timestamp::default);
        namespace
    }

    fn standard() -> Vec<Namespace> {
        ALWAYS.map(|name| namespace(name, false)).into()
    }

    fn meta(namespace: &str, name: &str, ending: bool) -> ObjectMeta {
        ObjectMeta {
            name: name.into(),
            namespace: namespace.into(),
            deletion_timestamp: ending.then(prost_types::Timestamp::default),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_must_exist_is_made() {
        assert_eq!(
            plan(&[], []).into_keys().collect::<Vec<_>>(),
            [NODE_LEASE_NAMESPACE, "default"]
        );
        assert!(plan(&standard(), []).is_empty());
    }

    #[test]
    fn an_ending_namespace_is_emptied_and_then_let_go() {
        let mut namespaces = standard();
        namespaces.push(namespace("a", true));
        let (here, going, elsewhere) = (meta("a", "x", false), meta("a", "y", true), meta("default", "z", false));
        let entry = |meta| Entry { kind: Kind::Pod, meta };
        let work = plan(&namespaces, [entry(&here), entry(&going), entry(&elsewhere)]);
        let Some(Work::Empty { contents, .. }) = work.get("a") else {
            panic!("{work:?}")
        };
        assert_eq!(
            contents.iter().map(|content| content.name.as_str()).collect::<Vec<_>>(),
            ["x"]
        );
        assert!(
            plan(&namespaces, [entry(&going)]).is_empty(),
            "waits for what is being deleted"
        );
        assert!(matches!(plan(&namespaces, [entry(&elsewhere)])["a"], Work::Finalize(_)));
    }
}
