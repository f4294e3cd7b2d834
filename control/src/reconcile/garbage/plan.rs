//! Who owns whom, and what follows: pure.

use std::collections::HashMap;

use causeway_proto::{
    Kind,
    v1::{Object, ObjectMeta, OwnerReference},
};

use crate::admission::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};

/// What to do with an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Its owners are gone: delete it.
    Collect(Object),
    /// Its owner waits for it to go: delete it, and what it owns before.
    DeleteOwned(Object),
    /// Some owners are gone, others are not: forget those.
    Prune {
        /// The object.
        object: Object,
        /// Owner uids.
        gone: Vec<String>,
    },
    /// Its owner goes without it.
    Release {
        /// The object.
        object: Object,
        /// Owner uid.
        owner: String,
    },
    /// Nothing holds it any more.
    RemoveFinalizer {
        /// The object.
        object: Object,
        /// Which one.
        finalizer: &'static str,
    },
}

impl Action {
    pub(super) fn object(&self) -> &Object {
        match self {
            Self::Collect(object)
            | Self::DeleteOwned(object)
            | Self::Prune { object, .. }
            | Self::Release { object, .. }
            | Self::RemoveFinalizer { object, .. } => object,
        }
    }
}

/// The kind that an owner reference names, if it is one of ours.
pub(super) fn kind_of(owner: &OwnerReference) -> Option<Kind> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == owner.kind)
}

/// All objects by uid and by owner.
pub(super) struct Graph<'o> {
    objects: Vec<(&'o Object, &'o ObjectMeta)>,
    by_uid: HashMap<&'o str, &'o ObjectMeta>,
    owned: HashMap<&'o str, Vec<&'o Object>>,
}

impl<'o> Graph<'o> {
    pub(super) fn new(objects: impl IntoIterator<Item = &'o Object>) -> Self {
        let objects: Vec<_> = objects
            .into_iter()
            .filter_map(|object| Some((object, object.meta()?)))
            .collect();
        let by_uid = objects.iter().map(|(_, meta)| (meta.uid.as_str(), *meta)).collect();
        let mut owned: HashMap<&str, Vec<&Object>> = HashMap::new();
        for (object, meta) in &objects {
            for owner in &meta.owner_references {
                owned.entry(&owner.uid).or_default().push(object);
            }
        }
        Self { objects, by_uid, owned }
    }

    fn owned_by(&self, meta: &ObjectMeta) -> &[&'o Object] {
        self.owned.get(meta.uid.as_str()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn plan(&self) -> Vec<Action> {
        self.objects
            .iter()
            .filter_map(|(object, meta)| self.consider(object, meta))
            .collect()
    }

    fn consider(&self, object: &Object, meta: &ObjectMeta) -> Option<Action> {
        let holds = |finalizer: &str| meta.is_terminating() && meta.finalizers.iter().any(|held| held == finalizer);
        // What the object is as an owner comes first: it holds nothing else up.
        for finalizer in [FINALIZER_ORPHAN, FINALIZER_FOREGROUND] {
            if holds(finalizer) && self.is_released(object, finalizer) {
                return Some(Action::RemoveFinalizer {
                    object: object.clone(),
                    finalizer,
                });
            }
        }
        if meta.owner_references.is_empty() {
            return None;
        }
        let owner_of = |reference: &OwnerReference| self.by_uid.get(reference.uid.as_str()).copied();
        let orphaner = meta
            .owner_references
            .iter()
            .find(|reference| owner_of(reference).is_some_and(|owner| is_held(owner, FINALIZER_ORPHAN)));
        if let Some(owner) = orphaner {
            return Some(Action::Release {
                object: object.clone(),
                owner: owner.uid.clone(),
            });
        }
        let gone = |reference: &&OwnerReference| kind_of(reference).is_some() && owner_of(reference).is_none();
        let gone: Vec<_> = meta
            .owner_references
            .iter()
            .filter(gone)
            .map(|owner| owner.uid.clone())
            .collect();
        if meta.is_terminating() {
            return None;
        }
        if gone.len() == meta.owner_references.len() {
            return Some(Action::Collect(object.clone()));
        }
        let waits =
            |reference: &OwnerReference| owner_of(reference).is_some_and(|owner| is_held(owner, FINALIZER_FOREGROUND));
        let solid = meta
            .owner_references
            .iter()
            .filter(|owner| !gone.contains(&owner.uid) && !waits(owner))
            .count();
        if solid == 0 {
            return Some(Action::DeleteOwned(object.clone()));
        }
        (!gone.is_empty()).then(|| Action::Prune {
            object: object.clone(),
            gone,
        })
    }

    /// Whether nothing that this finalizer waits for is left.
    pub(super) fn is_released(&self, object: &Object, finalizer: &str) -> bool {
        let Some(meta) = object.meta() else { return false };
        let owned = self.owned_by(meta);
        if finalizer == FINALIZER_ORPHAN {
            return owned.is_empty();
        }
        // What has another owner that stays is not deleted, and not waited for.
        owned.iter().filter_map(|object| object.meta()).all(|owned| {
            owned.owner_references.iter().any(|reference| {
                reference.uid != meta.uid
                    && self
                        .by_uid
                        .get(reference.uid.as_str())
                        .is_some_and(|owner| !owner.is_terminating())
            })
        })
    }
}

fn is_held(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.is_terminating() && meta.finalizers.iter().any(|held| held == finalizer)
}

#[cfg(test)]
mod tests {
    use causeway_proto::{
        Resource,
        v1::{Pod, ReplicationController},
    };

    use super::*;

    fn owner(uid: &str, finalizer: &str) -> Object {
        let mut owner = ReplicationController::default();
        let meta = owner.meta_mut();
        (meta.name, meta.uid) = (uid.into(), uid.into());
        if !finalizer.is_empty() {
            meta.finalizers = vec![finalizer.into()];
            meta.deletion_timestamp = Some(prost_types::Timestamp::default());
        }
        owner.into_object()
    }

    fn owned(uid: &str, owners: &[&str]) -> Object {
        let mut pod = Pod::default();
        let meta = pod.meta_mut();
        (meta.name, meta.uid) = (uid.into(), uid.into());
        meta.owner_references = owners
            .iter()
            .map(|uid| OwnerReference {
                kind: if *uid == "foreign" {
                    "Widget"
                } else {
                    "ReplicationController"
                }
                .into(),
                name: (*uid).into(),
                uid: (*uid).into(),
                ..OwnerReference::default()
            })
            .collect();
        pod.into_object()
    }

    fn planned(objects: &[Object]) -> Vec<(&'static str, String)> {
        let actions = Graph::new(objects).plan();
        let name = |action: &Action| match action {
            Action::Collect(_) => "collect",
            Action::DeleteOwned(_) => "delete owned",
            Action::Prune { .. } => "prune",
            Action::Release { .. } => "release",
            Action::RemoveFinalizer { .. } => "finalizer",
        };
        actions
            .iter()
            .map(|action| (name(action), action.object().key()))
            .collect()
    }

    #[test]
    fn what_has_no_owner_left_is_collected() {
        assert_eq!(
            planned(&[owned("a", &["gone"]), owned("b", &[]), owned("c", &["gone", "too"])]),
            [("collect", "a".into()), ("collect", "c".into())]
        );
        assert_eq!(planned(&[owner("rc", ""), owned("a", &["rc"])]), []);
    }

    #[test]
    fn owners_of_unknown_kinds_may_exist() {
        assert_eq!(planned(&[owned("a", &["foreign"])]), []);
    }

    #[test]
    fn one_owner_is_enough_and_the_others_are_forgotten() {
        let objects = [owner("rc", ""), owned("a", &["rc", "gone"])];
        assert_eq!(planned(&objects), [("prune", "a".into())]);
    }

    #[test]
    fn an_owner_with_the_same_name_but_another_uid_is_another() {
        let mut renamed = owner("new", "");
        renamed.meta_mut().expect("meta").name = "rc".into();
        assert_eq!(planned(&[renamed, owned("a", &["rc"])]), [("collect", "a".into())]);
    }

    #[test]
    fn orphans_are_released_before_their_owner_goes() {
        let objects = [owner("rc", FINALIZER_ORPHAN), owned("a", &["rc"])];
        assert_eq!(planned(&objects), [("release", "a".into())]);
        assert_eq!(planned(&objects[..1]), [("finalizer", "rc".into())]);
    }

    #[test]
    fn foreground_deletion_waits_for_what_is_owned() {
        let mut objects = vec![
            owner("rc", FINALIZER_FOREGROUND),
            owned("a", &["rc"]),
            owned("b", &["rc", "other"]),
            owner("other", ""),
        ];
        assert_eq!(planned(&objects), [("delete owned", "a".into())]);
        objects[1].meta_mut().expect("meta").deletion_timestamp = Some(prost_types::Timestamp::default());
        assert_eq!(planned(&objects), [], "waits for a; b stays with its other owner");
        objects.remove(1);
        assert_eq!(planned(&objects), [("finalizer", "rc".into())]);
    }

    #[test]
    fn what_is_being_deleted_is_not_deleted_again() {
        let mut going = owned("a", &["gone"]);
        going.meta_mut().expect("meta").deletion_timestamp = Some(prost_types::Timestamp::default());
        assert_eq!(planned(&[going]), []);
    }
}
