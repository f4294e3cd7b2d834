//! Columns of pods.

use causeway_proto::{
    Resource as _,
    time::age_at,
    v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
};
use prost_types::Timestamp;

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
pub const WIDE: &[&str] = &["IP", "NODE"];

pub fn row(pod: &Pod, view: &View) -> Vec<String> {
    let meta = pod.meta();
    let statuses = pod.status.as_ref().map_or(&[][..], |status| &status.container_statuses);
    let ready = statuses.iter().filter(|status| status.ready).count();
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let mut cells = vec![
        meta.name.clone(),
        format!("{ready}/{containers}"),
        status(pod),
        restarts(pod, &view.now),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        cells.push(or_none(pod.status.as_ref().map_or("", |status| &status.pod_ip)));
        cells.push(or_none(pod.spec.as_ref().map_or("", |spec| &spec.node_name)));
    }
    cells
}

/// The pod's state in a word, as kubectl tells it: the reason of the first init container that holds it up, else of the
/// last container that waits or ended, else the phase; "Terminating" once its deletion was asked for.
pub fn status(pod: &Pod) -> String {
    let none = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&none);
    let ended = matches!(&*status.phase, "Succeeded" | "Failed");
    if pod.meta().is_terminating() && !ended {
        return if status.reason == "NodeLost" {
            "Unknown"
        } else {
            "Terminating"
        }
        .to_owned();
    }
    if let Some(reason) = init_reason(pod, status) {
        return reason;
    }
    let phase = if status.phase.is_empty() {
        "Pending"
    } else {
        &status.phase
    };
    let phase = if status.reason.is_empty() {
        phase
    } else {
        &status.reason
    };
    let reason = status
        .container_statuses
        .iter()
        .find_map(container_reason)
        .unwrap_or_else(|| phase.to_owned());
    // Some containers are done and others run.
    let runs = status
        .container_statuses
        .iter()
        .any(|container| container.ready && container.state.as_ref().is_some_and(|state| state.running.is_some()));
    if reason == "Completed" && runs {
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "Ready" && condition.status == "True");
        return if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

/// Why the pod is still initialising, if it is.
fn init_reason(pod: &Pod, status: &PodStatus) -> Option<String> {
    let total = pod.spec.as_ref().map_or(0, |spec| spec.init_containers.len());
    let initialised = status
        .conditions
        .iter()
        .any(|condition| condition.r#type == "Initialized" && condition.status == "True");
    if initialised {
        return None;
    }
    let done = |container: &ContainerStatus| terminated(container).is_some_and(|ended| ended.exit_code == 0);
    let (index, container) = status
        .init_container_statuses
        .iter()
        .enumerate()
        .find(|(_, container)| !done(container))?;
    let reason = container_reason(container).filter(|reason| reason != "PodInitializing");
    Some(reason.map_or_else(|| format!("Init:{index}/{total}"), |reason| format!("Init:{reason}")))
}

/// Why a container waits or how it ended; `None` while it runs or nothing is known.
pub fn container_reason(container: &ContainerStatus) -> Option<String> {
    let ContainerState {
        waiting, terminated, ..
    } = container.state.as_ref()?;
    if let Some(waiting) = waiting {
        return (!waiting.reason.is_empty()).then(|| waiting.reason.clone());
    }
    terminated.as_ref().map(|ended| {
        if !ended.reason.is_empty() {
            ended.reason.clone()
        } else if ended.signal != 0 {
            format!("Signal:{}", ended.signal)
        } else {
            format!("ExitCode:{}", ended.exit_code)
        }
    })
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

/// "3 (5m ago)": how often its containers were restarted, and when last.
fn restarts(pod: &Pod, now: &Timestamp) -> String {
    let statuses = pod.status.as_ref().map_or(&[][..], |status| &status.container_statuses);
    let count: i32 = statuses.iter().map(|status| status.restart_count).sum();
    let ends = statuses
        .iter()
        .filter_map(|status| status.last_state.as_ref()?.terminated.as_ref()?.finished_at);
    match ends.max_by_key(|time| (time.seconds, time.nanos)) {
        Some(last) if count > 0 => format!("{count} ({} ago)", age_at(Some(&last), now)),
        _ => count.to_string(),
    }
}
