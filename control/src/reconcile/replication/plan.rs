//! What to do for one controller: pure.

use std::time::Duration;

use causeway_proto::{
    Resource,
    v1::{Condition, Pod, ReplicationController, ReplicationControllerStatus},
};
use prost_types::Timestamp;

use super::{claim::claim, rank::sort_for_deletion, status::status};

/// Pods created or deleted for one controller in one go.
pub(super) const BURST: usize = 500;

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to become its own.
    pub adopt: Vec<Pod>,
    /// Pods to be nobody's.
    pub release: Vec<Pod>,
    /// Pods to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<Pod>,
    /// The status to write; `None` if it is so already.
    pub status: Option<ReplicationControllerStatus>,
    /// The status will change after this time.
    pub again_in: Option<Duration>,
}

impl Plan {
    pub(super) fn has_work(&self) -> bool {
        !self.adopt.is_empty()
            || !self.release.is_empty()
            || self.create > 0
            || !self.delete.is_empty()
            || self.status.is_some()
    }
}

/// Plans for one controller and the pods of its namespace. Unless `settled`, what was done before is not yet seen, and pods are neither
/// created nor deleted.
pub(super) fn plan(
    controller: &ReplicationController,
    pods: &[&Pod],
    settled: bool,
    failure: Option<&Condition>,
    now: Timestamp,
) -> Plan {
    let claims = claim(controller, pods);
    let (status, again_in) = status(controller, &claims.replicas, failure, now);
    let owned = |pods: &[&Pod]| pods.iter().map(|pod| (*pod).clone()).collect::<Vec<_>>();
    let mut plan = Plan {
        adopt: owned(&claims.adopt),
        release: owned(&claims.release),
        status: (controller.status.as_ref() != Some(&status)).then_some(status),
        again_in,
        ..Plan::default()
    };
    if !settled || controller.meta().is_terminating() {
        return plan;
    }
    let wanted = controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let present = claims.replicas.len();
    if present < wanted {
        plan.create = (wanted - present).min(BURST);
    } else if present > wanted {
        let mut candidates = claims.replicas;
        sort_for_deletion(&mut candidates);
        candidates.truncate((present - wanted).min(BURST));
        // What is deleted anyway is not adopted or touched otherwise first.
        plan.adopt
            .retain(|pod| !candidates.iter().any(|gone| gone.meta().uid == pod.meta().uid));
        plan.delete = owned(&candidates);
    }
    plan
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
