//! The pod's status as the API shows it: a pure function of what the node sees and of the status before.

use std::time::SystemTime;

use causeway_proto::v1::{
    Condition, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PodIp, PodStatus,
};
use prost_types::Timestamp;

use super::{
    backoff::Policy,
    model::{ContainerView, Finished, PodView, RestartPolicy, Run, succeeded},
};
use crate::runtime::Exit;

/// Computes the status. Times of conditions that did not change are taken from `before`, and so is what others own.
pub fn status(view: &PodView<'_>, before: &PodStatus, restart: &Policy, now: SystemTime) -> PodStatus {
    let finished = view.finished();
    let phase = phase(view, finished);
    let init: Vec<_> = view
        .init
        .iter()
        .map(|c| container_status(view, c, true, restart, now))
        .collect();
    let containers: Vec<_> = view
        .containers
        .iter()
        .map(|c| container_status(view, c, false, restart, now))
        .collect();
    let (reason, message) = match (&view.trouble, finished) {
        (Some(trouble), None) => (trouble.reason.clone(), trouble.message.clone()),
        _ => (String::new(), String::new()),
    };
    let pod_ips: Vec<_> = view.addresses.iter().map(|ip| PodIp { ip: ip.to_string() }).collect();
    PodStatus {
        phase: phase.to_owned(),
        conditions: conditions(view, finished, &containers, &before.conditions, now),
        message,
        reason,
        host_ip: view.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        pod_ip: pod_ips.first().map(|first| first.ip.clone()).unwrap_or_default(),
        pod_ips,
        start_time: Some(before.start_time.unwrap_or_else(|| stamp(view.start_time))),
        container_statuses: containers,
        init_container_statuses: init,
        qos_class: before.qos_class.clone(),
    }
}

fn phase(view: &PodView<'_>, finished: Option<Finished>) -> &'static str {
    match finished {
        Some(Finished::Succeeded) => "Succeeded",
        Some(Finished::Failed) => "Failed",
        // A pod that was deleted before it came up ends as it began.
        None if !view.initialized() => "Pending",
        None if view
            .containers
            .iter()
            .any(|c| c.run == Run::Never && c.last_exit.is_none()) =>
        {
            "Pending"
        }
        None => "Running",
    }
}

fn conditions(
    view: &PodView<'_>,
    finished: Option<Finished>,
    containers: &[ContainerStatus],
    before: &[Condition],
    now: SystemTime,
) -> Vec<Condition> {
    let names = |list: Vec<&str>| format!("[{}]", list.join(" "));
    let initialized = match (view.initialized(), finished) {
        (true, Some(Finished::Succeeded)) => (true, "PodCompleted", String::new()),
        (true, _) => (true, "", String::new()),
        (false, _) => {
            let waiting = view.init.iter().filter(|c| !c.exit().is_some_and(succeeded));
            let list = names(waiting.map(|c| c.spec.name.as_str()).collect());
            (
                false,
                "ContainersNotInitialized",
                format!("containers with incomplete status: {list}"),
            )
        }
    };
    let unready: Vec<_> = containers
        .iter()
        .filter(|c| !c.ready)
        .map(|c| c.name.as_str())
        .collect();
    let ready = match finished {
        Some(Finished::Succeeded) => (false, "PodCompleted", String::new()),
        Some(Finished::Failed) => (false, "PodFailed", String::new()),
        None if unready.is_empty() && view.initialized() => (true, "", String::new()),
        None => (
            false,
            "ContainersNotReady",
            format!("containers with unready status: {}", names(unready)),
        ),
    };
    let scheduled = (true, "", String::new());
    [
        ("Initialized", initialized),
        ("Ready", ready.clone()),
        ("ContainersReady", ready),
        ("PodScheduled", scheduled),
    ]
    .into_iter()
    .map(|(kind, (holds, reason, message))| condition(kind, holds, reason, message, before, now))
    .chain(
        before
            .iter()
            .filter(|c| !OWN_CONDITIONS.contains(&c.r#type.as_str()))
            .cloned(),
    )
    .collect()
}

const OWN_CONDITIONS: [&str; 4] = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];

fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
    before: &[Condition],
    now: SystemTime,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let same = before.iter().find(|c| c.r#type == kind && c.status == status);
    Condition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        last_heartbeat_time: None,
        last_transition_time: same.and_then(|c| c.last_transition_time).or_else(|| Some(stamp(now))),
        reason: reason.to_owned(),
        message,
    }
}

fn container_status(
    view: &PodView<'_>,
    container: &ContainerView<'_>,
    init: bool,
    restart: &Policy,
    now: SystemTime,
) -> ContainerStatus {
    let (state, last_state) = states(view, container, init, restart, now);
    let done = container.exit().is_some_and(succeeded);
    ContainerStatus {
        name: container.spec.name.clone(),
        state: Some(state),
        last_state,
        // An init container is ready when its work is done.
        ready: if init { done } else { container.is_ready() },
        restart_count: i32::try_from(container.restart_count).unwrap_or(i32::MAX),
        image: container.spec.image.clone(),
        image_id: container.image_id.clone(),
        container_id: container.container_id.clone(),
        started: Some(container.is_running() && container.verdict.started),
    }
}

/// `state` and `lastState`: an ended run is the present state until its restart is being waited for.
fn states(
    view: &PodView<'_>,
    container: &ContainerView<'_>,
    init: bool,
    restart: &Policy,
    now: SystemTime,
) -> (ContainerState, Option<ContainerState>) {
    let last = container.last_exit.as_ref().map(terminated);
    match &container.run {
        Run::Running { started_at } => {
            let running = Some(ContainerStateRunning {
                started_at: Some(stamp(*started_at)),
            });
            (
                ContainerState {
                    running,
                    ..ContainerState::default()
                },
                last,
            )
        }
        Run::Never => {
            let (reason, message) = match &container.trouble {
                Some(trouble) => (trouble.reason.as_str(), trouble.message.clone()),
                None if !init && !view.initialized() => ("PodInitializing", String::new()),
                None => ("ContainerCreating", String::new()),
            };
            (waiting(reason, message), last)
        }
        Run::Exited(exit) => {
            let policy = RestartPolicy::of_container(view.pod, init);
            let again = policy.restarts(exit) && view.termination.is_none();
            if let Some(trouble) = container.trouble.as_ref().filter(|_| again) {
                return (
                    waiting(&trouble.reason, trouble.message.clone()),
                    Some(terminated(exit)),
                );
            }
            if again && container.crashes.remaining(restart, now).is_some() {
                let meta = view.pod.metadata.clone().unwrap_or_default();
                let message = format!(
                    "back-off {:?} restarting failed container={} pod={}_{}({})",
                    restart.delay(container.crashes.failures),
                    container.spec.name,
                    meta.name,
                    meta.namespace,
                    meta.uid,
                );
                return (waiting("CrashLoopBackOff", message), Some(terminated(exit)));
            }
            (terminated(exit), last)
        }
    }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    let waiting = Some(ContainerStateWaiting {
        reason: reason.to_owned(),
        message,
    });
    ContainerState {
        waiting,
        ..ContainerState::default()
    }
}

fn terminated(exit: &Exit) -> ContainerState {
    let terminated = Some(ContainerStateTerminated {
        exit_code: exit.exit_code,
        signal: exit.signal,
        reason: exit.reason.as_str().to_owned(),
        message: exit.message.clone(),
        started_at: Some(stamp(exit.started_at)),
        finished_at: Some(stamp(exit.finished_at)),
    });
    ContainerState {
        terminated,
        ..ContainerState::default()
    }
}

/// Whole seconds, as Kubernetes stamps its objects.
fn stamp(time: SystemTime) -> Timestamp {
    Timestamp {
        nanos: 0,
        ..time.into()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
