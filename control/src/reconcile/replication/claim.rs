//! Which pods are a controller's: pure. Rules of Kubernetes' `ControllerRefManager`.

use causeway_proto::{
    Resource,
    v1::{Pod, ReplicationController},
};

use super::super::{objects::selects, pod_state};

/// What a controller finds among the pods of its namespace.
#[derive(Debug, Default)]
pub(super) struct Claims<'p> {
    /// Its replicas, those to adopt included.
    pub replicas: Vec<&'p Pod>,
    /// Match its selector and have no controller.
    pub adopt: Vec<&'p Pod>,
    /// Are its own, but do not match any more.
    pub release: Vec<&'p Pod>,
}

/// Sorts pods. Finished pods and such that are being deleted are nobody's replicas.
pub(super) fn claim<'p>(controller: &ReplicationController, pods: &[&'p Pod]) -> Claims<'p> {
    let mut claims = Claims::default();
    let meta = controller.meta();
    let Some(spec) = &controller.spec else { return claims };
    for pod in pods.iter().copied().filter(|pod| pod_state::is_active(pod)) {
        let matches = selects(&spec.selector, pod.meta());
        match pod.meta().controller() {
            Some(owner) if owner.uid == meta.uid => {
                if matches {
                    claims.replicas.push(pod);
                } else if !meta.is_terminating() {
                    claims.release.push(pod);
                }
            }
            None if matches && !meta.is_terminating() => {
                claims.replicas.push(pod);
                claims.adopt.push(pod);
            }
            Some(_) | None => {}
        }
    }
    claims
}
