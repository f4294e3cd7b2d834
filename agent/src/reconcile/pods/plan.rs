//! What to do next for one pod: a pure function from what is seen to a list of actions.
//!
//! The planner is called again after every wake-up and after every plan; it remembers nothing. Actions are in the order in
//! which they have to happen; the executor stops at the first that fails, notes the failure, and plans again later.

use std::time::{Duration, SystemTime};

use super::{
    backoff::{Backoff, Policy},
    model::{ContainerView, Delays, PodView, RestartPolicy, Run, Sandbox, Termination, succeeded},
};

/// One step. Containers are named; names are unique in a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Pick an address and write it down.
    AllocateAddress,
    /// Make namespaces and holder.
    CreateSandbox,
    /// Veth pair, routes, data path.
    AttachNetwork,
    /// Start a container.
    Start(String),
    /// Ask a container to end.
    Terminate(String, Cause),
    /// End a container at once.
    Kill(String),
    /// Take the pod's backends out of balancing.
    MarkTerminating,
    /// Tear down data path, network, containers and holder.
    RemoveSandbox,
    /// Give the address back.
    ReleaseAddress,
    /// Delete the object at the API server.
    ConfirmDeletion,
    /// Drop the record: nothing of the pod is left.
    Forget,
}

/// Why a container is stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A probe gave up; it will be started again.
    Unhealthy(String),
    /// Its pod goes.
    PodDeleted,
}

/// What to do now, and when to look again even if nothing happens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// Time until the next thing falls due.
    pub wake_in: Option<Duration>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, delay: Duration) {
        self.wake_in = Some(self.wake_in.map_or(delay, |other| other.min(delay)));
    }

    /// True when a failed attempt may be repeated now; otherwise sees to it that it is.
    fn due(&mut self, backoff: &Backoff, policy: &Policy, now: SystemTime) -> bool {
        match backoff.remaining(policy, now) {
            None => true,
            Some(left) => {
                self.wake(left);
                false
            }
        }
    }
}

/// How often it is looked whether the endpoints know that a pod ends.
const LISTED_AGAIN: Duration = Duration::from_millis(50);

/// Plans the next steps for a pod.
pub fn plan(view: &PodView<'_>, delays: &Delays, now: SystemTime) -> Plan {
    let mut plan = Plan::default();
    match &view.termination {
        Some(termination) => terminate(&mut plan, view, *termination, delays, now),
        None if view.finished().is_some() => release(&mut plan, view),
        None => run(&mut plan, view, delays, now),
    }
    plan
}

fn run(plan: &mut Plan, view: &PodView<'_>, delays: &Delays, now: SystemTime) {
    if view.sandbox == Sandbox::Broken {
        plan.act(Action::RemoveSandbox);
    }
    if view.sandbox != Sandbox::Alive || !view.attached {
        // Remains are removed at once; only making anew is held back.
        if !plan.due(&view.sandbox_failures, &delays.retry, now) {
            return;
        }
        if view.addresses.is_empty() {
            plan.act(Action::AllocateAddress);
        }
        if view.sandbox != Sandbox::Alive {
            plan.act(Action::CreateSandbox);
        }
        plan.act(Action::AttachNetwork);
        if view.sandbox != Sandbox::Alive && !view.init.is_empty() {
            // In a new sandbox the pod begins at its beginning; the executor resets the init containers, then asks again.
            return;
        }
    }
    if let Some(container) = view
        .init
        .iter()
        .find(|container| !container.exit().is_some_and(succeeded))
    {
        // One after the other; the next begins when this one has succeeded.
        let policy = RestartPolicy::of_container(view.pod, true);
        keep_running(plan, view, container, policy, delays, now);
        return;
    }
    let policy = view.restart_policy();
    for container in &view.containers {
        keep_running(plan, view, container, policy, delays, now);
    }
}

fn keep_running(
    plan: &mut Plan,
    view: &PodView<'_>,
    container: &ContainerView<'_>,
    policy: RestartPolicy,
    delays: &Delays,
    now: SystemTime,
) {
    let start = Action::Start(container.spec.name.clone());
    match &container.run {
        Run::Never => {
            if plan.due(&container.start_failures, &delays.retry, now) {
                plan.act(start);
            }
        }
        Run::Exited(exit) if policy.restarts(exit) => {
            if plan.due(&container.crashes, &delays.restart, now)
                && plan.due(&container.start_failures, &delays.retry, now)
            {
                plan.act(start);
            }
        }
        Run::Exited(_) => {}
        Run::Running { .. } => match (&container.stopping, &container.verdict.unhealthy) {
            (None, Some(why)) => {
                plan.act(Action::Terminate(
                    container.spec.name.clone(),
                    Cause::Unhealthy(why.clone()),
                ));
                plan.wake(grace(view));
            }
            (Some(stopping), _) if !stopping.killed => match left(stopping.since, grace(view), now) {
                Some(left) => plan.wake(left),
                None => plan.act(Action::Kill(container.spec.name.clone())),
            },
            (None, None) | (Some(_), _) => {}
        },
    }
}

fn terminate(plan: &mut Plan, view: &PodView<'_>, termination: Termination, delays: &Delays, now: SystemTime) {
    let running: Vec<_> = view
        .all_containers()
        .filter(|container| container.is_running())
        .collect();
    // Out of the data path first: no new connection may reach a process that was told to end.
    if !termination.marked && view.attached {
        plan.act(Action::MarkTerminating);
    }
    if running.is_empty() {
        release(plan, view);
        if termination.confirm {
            plan.act(Action::ConfirmDeletion);
        }
        plan.act(Action::Forget);
        return;
    }
    let overdue = left(termination.since, termination.grace, now);
    let was_serving = view.attached && view.containers.iter().all(ContainerView::is_ready);
    // Never so long that too little is left for the process to end by itself.
    let drain = match (was_serving, termination.listed) {
        (false, _) => Duration::ZERO,
        (true, false) => delays.drain,
        (true, true) => delays.drain.max(delays.drain_limit),
    };
    let drain = drain.min(termination.grace / 2);
    for container in running {
        let name = container.spec.name.clone();
        match (overdue, container.stopping) {
            (None, Some(stopping)) if stopping.killed => {}
            (None, _) => plan.act(Action::Kill(name)),
            (Some(until_kill), Some(_)) => plan.wake(until_kill),
            (Some(until_kill), None) => {
                if let Some(draining) = left(termination.since, drain, now) {
                    plan.wake(if termination.listed {
                        draining.min(LISTED_AGAIN)
                    } else {
                        draining
                    });
                } else {
                    plan.act(Action::Terminate(name, Cause::PodDeleted));
                    plan.wake(until_kill);
                }
            }
        }
    }
}

/// Gives back whatever the pod holds on the node.
fn release(plan: &mut Plan, view: &PodView<'_>) {
    if view.sandbox != Sandbox::Absent || view.attached {
        plan.act(Action::RemoveSandbox);
    }
    if !view.addresses.is_empty() {
        plan.act(Action::ReleaseAddress);
    }
}

/// Time from SIGTERM to SIGKILL for a container that is stopped while its pod stays.
fn grace(view: &PodView<'_>) -> Duration {
    let seconds = view
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(seconds.try_into().unwrap_or(0))
}

/// What is left at `now` of `span` from `since`; `None` when it is over. A clock set back starts the span anew, once.
fn left(since: SystemTime, span: Duration, now: SystemTime) -> Option<Duration> {
    let gone = now.duration_since(since).unwrap_or_default();
    span.checked_sub(gone).filter(|left| !left.is_zero())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
