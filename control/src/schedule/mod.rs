//! Which node a pod runs on.
//!
//! [`schedule`] is pure: a pod and a [`Snapshot`] in, a node or the reasons against every node out. [`Scheduler`] runs it for the
//! pods that wait for `default-scheduler`; other schedulers bind through the API.

mod assumed;
mod filter;
mod resources;
mod scheduler;
mod score;
mod snapshot;
mod unschedulable;

pub use resources::Resources;
pub use scheduler::{SCHEDULER_NAME, Scheduler};
pub use snapshot::{NodeState, Snapshot};
pub use unschedulable::Unschedulable;

use causeway_proto::v1::Pod;

/// The best node for a pod: of those that pass every filter, the one with the best score. The same input gives the same answer.
pub fn schedule(pod: &Pod, snapshot: &Snapshot<'_>) -> Result<String, Unschedulable> {
    let requested = Resources::requested_by(pod);
    let spread = score::Spread::of(pod, snapshot);
    let mut unschedulable = Unschedulable::default();
    let mut best: Option<(score::Score<'_>, &str)> = None;
    for node in snapshot.nodes() {
        let reasons = filter::reasons_against(pod, &requested, node);
        if !reasons.is_empty() {
            unschedulable.add(reasons);
            continue;
        }
        let score = score::Score::of(pod, &requested, node, &spread);
        if best.as_ref().is_none_or(|(best, _)| score < *best) {
            best = Some((score, node.name()));
        }
    }
    best.map(|(_, name)| name.to_owned()).ok_or(unschedulable)
}

#[cfg(test)]
mod tests;
