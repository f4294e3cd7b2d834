//! Deleting: at once, or marked and held by finalizers or by a pod's graceful end.

use causeway_proto::{
    Kind, Resource,
    v1::{self, Object, ObjectMeta},
};

use super::{
    ApiError, DeleteOptions, Propagation, Registry,
    registry::DEFAULT_NAMESPACE,
    write::{Decision, is_finished, meta_of},
};
use crate::admission::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};

impl Registry {
    /// Deletes, or marks as being deleted; answers the object as it was last seen (with `deletionTimestamp` if it stays).
    pub async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Object, ApiError> {
        if kind == Kind::Namespace && name == DEFAULT_NAMESPACE {
            let reason = "this namespace may not be deleted".to_owned();
            return Err(ApiError::FailedPrecondition {
                kind,
                key: name.to_owned(),
                reason,
            });
        }
        self.mutate(kind, namespace, name, &options.preconditions, false, |old| {
            Ok(decide(old, options))
        })
        .await
    }
}

/// What a request to delete makes of an object.
fn decide(old: &Object, options: &DeleteOptions) -> Decision {
    let mut new = old.clone();
    let grace = grace_period(old, options.grace_period_seconds);
    let meta = meta_of(&mut new);
    set_propagation(meta, options.propagation);
    if !meta.is_terminating() {
        mark(meta, grace.unwrap_or(0));
    } else if let Some(grace) = grace {
        // A second request may only shorten the time.
        let pending = meta.deletion_grace_period_seconds.unwrap_or(0);
        if grace < pending {
            shorten(meta, pending, grace);
        }
    }
    if let Some(namespace) = v1::Namespace::from_object_mut(&mut new) {
        namespace.status.get_or_insert_default().phase = "Terminating".into();
    }
    if is_finished(&new) {
        Decision::Remove
    } else {
        Decision::put(new)
    }
}

/// Seconds that the object may live on; `None` when a pod is being deleted already and the request names no other time.
fn grace_period(old: &Object, requested: Option<i64>) -> Option<i64> {
    let Some(pod) = v1::Pod::from_object_ref(old) else {
        return Some(0);
    };
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.as_ref());
    // Nothing runs anywhere, or nothing runs any more.
    let ended = status.is_some_and(|status| matches!(status.phase.as_str(), "Succeeded" | "Failed"));
    if spec.node_name.is_empty() || ended {
        return Some(0);
    }
    match requested {
        None if pod.meta().is_terminating() => None,
        None => Some(spec.termination_grace_period_seconds.unwrap_or(30)),
        // As in Kubernetes, negative means as soon as possible.
        Some(seconds) if seconds < 0 => Some(1),
        Some(seconds) => Some(seconds),
    }
}

/// Begins deletion: the timestamp is when the object may be removed by force.
fn mark(meta: &mut ObjectMeta, grace: i64) {
    let mut deadline = causeway_proto::time::now();
    deadline.seconds += grace;
    meta.deletion_timestamp = Some(deadline);
    meta.deletion_grace_period_seconds = Some(grace);
    if meta.generation > 0 {
        meta.generation += 1;
    }
}

fn shorten(meta: &mut ObjectMeta, pending: i64, grace: i64) {
    if let Some(deadline) = &mut meta.deletion_timestamp {
        deadline.seconds -= pending - grace;
    }
    meta.deletion_grace_period_seconds = Some(grace);
}

/// The finalizer by which the garbage collector is told what to do with what the object owns.
fn set_propagation(meta: &mut ObjectMeta, propagation: Propagation) {
    if meta.is_terminating() && propagation == Propagation::Background {
        return;
    }
    meta.finalizers
        .retain(|f| f != FINALIZER_FOREGROUND && f != FINALIZER_ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => meta.finalizers.push(FINALIZER_FOREGROUND.into()),
        Propagation::Orphan => meta.finalizers.push(FINALIZER_ORPHAN.into()),
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{Namespace, NamespaceSpec, NamespaceStatus, Pod, PodSpec, PodStatus};

    use super::*;

    fn pod(node: &str, phase: &str) -> Object {
        let spec = PodSpec {
            node_name: node.into(),
            termination_grace_period_seconds: Some(30),
            ..Default::default()
        };
        let status = PodStatus {
            phase: phase.into(),
            ..Default::default()
        };
        let mut pod = Pod {
            spec: Some(spec),
            status: Some(status),
            ..Default::default()
        };
        pod.meta_mut().name = "web".into();
        pod.into_object()
    }

    fn options(grace_period_seconds: Option<i64>, propagation: Propagation) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds,
            propagation,
            ..Default::default()
        }
    }

    fn stays(old: &Object, options: &DeleteOptions) -> Object {
        match decide(old, options) {
            Decision::Put(new) => *new,
            _ => panic!("removed"),
        }
    }

    fn goes(old: &Object, options: &DeleteOptions) -> bool {
        matches!(decide(old, options), Decision::Remove)
    }

    #[test]
    fn a_bound_pod_gets_its_grace_period() {
        let marked = stays(&pod("n1", "Running"), &options(None, Propagation::Background));
        assert_eq!(marked.meta().unwrap().deletion_grace_period_seconds, Some(30));
        assert!(marked.meta().unwrap().is_terminating());
        assert!(
            goes(&marked, &options(Some(0), Propagation::Background)),
            "the agent's end of it"
        );
        let again = stays(&marked, &options(None, Propagation::Background));
        assert_eq!(again, marked, "a second request changes nothing");
        let later = stays(&marked, &options(Some(60), Propagation::Background));
        assert_eq!(later, marked, "time is never added");
        let sooner = stays(&marked, &options(Some(5), Propagation::Background));
        assert_eq!(sooner.meta().unwrap().deletion_grace_period_seconds, Some(5));
        let (a, b) = (
            marked.meta().unwrap().deletion_timestamp,
            sooner.meta().unwrap().deletion_timestamp,
        );
        assert_eq!(a.unwrap().seconds - b.unwrap().seconds, 25);
    }

    #[test]
    fn pods_that_run_nowhere_go_at_once() {
        assert!(goes(&pod("", "Pending"), &options(None, Propagation::Background)));
        assert!(goes(&pod("n1", "Succeeded"), &options(None, Propagation::Background)));
        assert!(goes(&pod("n1", "Running"), &options(Some(0), Propagation::Background)));
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let foreground = stays(&pod("", "Pending"), &options(None, Propagation::Foreground));
        assert_eq!(foreground.meta().unwrap().finalizers, ["foregroundDeletion"]);
        let orphan = stays(&foreground, &options(None, Propagation::Orphan));
        assert_eq!(orphan.meta().unwrap().finalizers, ["orphan"]);
        let mut held = pod("", "Pending");
        meta_of(&mut held).finalizers = vec!["x.y/z".into()];
        let held = stays(&held, &options(None, Propagation::Background));
        assert_eq!(held.meta().unwrap().finalizers, ["x.y/z"]);
    }

    #[test]
    fn a_namespace_stays_until_it_is_finalized() {
        let namespace = Namespace {
            metadata: Some(ObjectMeta {
                name: "a".into(),
                generation: 1,
                ..Default::default()
            }),
            spec: Some(NamespaceSpec {
                finalizers: vec!["kubernetes".into()],
            }),
            status: Some(NamespaceStatus { phase: "Active".into() }),
        };
        let marked = stays(&namespace.into_object(), &DeleteOptions::default());
        assert_eq!(
            Namespace::from_object_ref(&marked)
                .unwrap()
                .status
                .as_ref()
                .unwrap()
                .phase,
            "Terminating"
        );
        let mut emptied = marked.clone();
        Namespace::from_object_mut(&mut emptied).unwrap().spec = None;
        assert!(goes(&emptied, &DeleteOptions::default()));
    }
}
