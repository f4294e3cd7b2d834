use std::time::Duration;

use super::{
    super::{
        backoff::Backoff,
        fixture::{at, attached, exited, fresh, pod, running},
        model::{Termination, Trouble, Verdict},
    },
    *,
};
use crate::runtime::ExitReason;

const RESTART: Policy = Policy {
    base: Duration::from_secs(10),
    max: Duration::from_mins(5),
    reset_after: Duration::from_mins(10),
};

fn compute(view: &PodView<'_>) -> PodStatus {
    status(view, &PodStatus::default(), &RESTART, at(6))
}

fn holds(status: &PodStatus, kind: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|c| c.r#type == kind).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

fn waiting_reason(status: &PodStatus) -> String {
    let state = status.container_statuses[0].state.clone().unwrap();
    state.waiting.map(|waiting| waiting.reason).unwrap_or_default()
}

#[test]
fn phases_follow_containers_and_restart_policy() {
    let (never, run) = (Run::Never, Run::Running { started_at: at(1) });
    for (policy, first, second, want) in [
        ("Always", &never, &never, "Pending"),
        ("Always", &run, &never, "Pending"),
        ("Always", &run, &run, "Running"),
        ("Always", &exited(1), &run, "Running"),
        ("Always", &exited(0), &exited(0), "Running"),
        ("OnFailure", &exited(0), &exited(1), "Running"),
        ("OnFailure", &exited(0), &exited(0), "Succeeded"),
        ("Never", &exited(0), &run, "Running"),
        ("Never", &exited(0), &exited(0), "Succeeded"),
        ("Never", &exited(0), &exited(1), "Failed"),
    ] {
        let pod = pod(policy, &[], &["web", "log"]);
        let mut view = attached(&pod);
        view.containers[0].run = first.clone();
        view.containers[1].run = second.clone();
        assert_eq!(compute(&view).phase, want, "{policy} {first:?} {second:?}");
    }
}

#[test]
fn a_pod_stays_pending_until_it_is_initialized() {
    let pod = pod("Always", &["setup"], &["web"]);
    let mut view = attached(&pod);
    view.init[0].run = Run::Running { started_at: at(1) };
    let status = compute(&view);
    assert_eq!(status.phase, "Pending");
    assert_eq!(
        holds(&status, "Initialized"),
        ("False".into(), "ContainersNotInitialized".into())
    );
    assert_eq!(waiting_reason(&status), "PodInitializing");
    view.init[0].run = exited(0);
    let status = compute(&view);
    assert_eq!(holds(&status, "Initialized"), ("True".into(), String::new()));
    assert!(status.init_container_statuses[0].ready);
    assert_eq!(waiting_reason(&status), "ContainerCreating");
}

#[test]
fn a_failed_init_container_that_is_not_repeated_fails_the_pod() {
    let pod = pod("Never", &["setup"], &["web"]);
    let mut view = attached(&pod);
    view.init[0].run = exited(3);
    let status = compute(&view);
    assert_eq!(status.phase, "Failed");
    assert_eq!(holds(&status, "Ready"), ("False".into(), "PodFailed".into()));
}

#[test]
fn readiness_needs_every_container() {
    let pod = pod("Always", &[], &["web", "log"]);
    let mut view = running(&pod);
    assert_eq!(holds(&compute(&view), "Ready").0, "True");
    view.containers[1].verdict = Verdict {
        ready: false,
        ..Verdict::default()
    };
    let status = compute(&view);
    assert_eq!(holds(&status, "Ready"), ("False".into(), "ContainersNotReady".into()));
    assert_eq!(holds(&status, "ContainersReady").0, "False");
    let ready = status.conditions.iter().find(|c| c.r#type == "Ready").unwrap();
    assert_eq!(ready.message, "containers with unready status: [log]");
    assert_eq!(
        status.container_statuses.iter().map(|c| c.ready).collect::<Vec<_>>(),
        [true, false]
    );
    view.containers[1].verdict = Verdict {
        started: false,
        ..Verdict::default()
    };
    assert!(!compute(&view).container_statuses[1].ready);
}

#[test]
fn a_crash_loop_is_named_and_keeps_the_last_end() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.containers[0].run = exited(1);
    view.containers[0].restart_count = 2;
    view.containers[0].crashes = Backoff {
        failures: 3,
        last: Some(at(5)),
    };
    let status = compute(&view);
    let container = &status.container_statuses[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason, "CrashLoopBackOff");
    assert_eq!(
        waiting.message,
        "back-off 20s restarting failed container=web pod=web-1_default(u-1)"
    );
    let last = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (1, "Error"));
    assert_eq!(container.restart_count, 2);
    // Once the wait is over the end itself is shown, until the next start.
    let status = super::status(&view, &PodStatus::default(), &RESTART, at(60));
    assert!(status.container_statuses[0].state.clone().unwrap().terminated.is_some());
}

#[test]
fn ends_are_named_by_their_cause() {
    let pod = pod("Never", &[], &["web"]);
    let mut view = running(&pod);
    for (reason, want) in [
        (ExitReason::Completed, "Completed"),
        (ExitReason::Error, "Error"),
        (ExitReason::OomKilled, "OOMKilled"),
        (ExitReason::ContainerStatusUnknown, "ContainerStatusUnknown"),
    ] {
        let Run::Exited(exit) = exited(137) else { unreachable!() };
        view.containers[0].run = Run::Exited(Exit { reason, ..exit });
        let state = compute(&view).container_statuses[0].state.clone().unwrap();
        assert_eq!(state.terminated.unwrap().reason, want);
    }
}

#[test]
fn a_missing_image_is_a_reason_to_wait() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = attached(&pod);
    view.containers[0].trouble = Some(Trouble {
        reason: "ErrImageNeverPull".into(),
        message: "not here".into(),
    });
    let status = compute(&view);
    assert_eq!(
        (status.phase.as_str(), waiting_reason(&status).as_str()),
        ("Pending", "ErrImageNeverPull")
    );
}

#[test]
fn a_pod_that_goes_shows_its_ended_containers() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.containers[0].run = exited(143);
    view.containers[0].crashes = Backoff {
        failures: 5,
        last: Some(at(5)),
    };
    view.termination = Some(Termination {
        since: at(4),
        grace: Duration::from_secs(30),
        marked: true,
        listed: false,
        confirm: true,
    });
    let status = compute(&view);
    assert!(status.container_statuses[0].state.clone().unwrap().terminated.is_some());
    assert_eq!(status.phase, "Running");
}

#[test]
fn transition_times_move_only_with_the_condition_and_others_fields_stay() {
    let pod = pod("Always", &[], &["web"]);
    let view = running(&pod);
    let mut before = super::status(&view, &PodStatus::default(), &RESTART, at(10));
    before.qos_class = "Burstable".into();
    before.conditions.push(Condition {
        r#type: "example.com/gate".into(),
        ..Condition::default()
    });
    let same = super::status(&view, &before, &RESTART, at(20));
    assert_eq!(same, before);
    let mut unready = running(&pod);
    unready.containers[0].verdict.ready = false;
    let after = super::status(&unready, &before, &RESTART, at(30));
    let time = |status: &PodStatus, kind: &str| {
        status
            .conditions
            .iter()
            .find(|c| c.r#type == kind)
            .unwrap()
            .last_transition_time
    };
    assert_eq!(time(&after, "Ready"), Some(at(30).into()));
    assert_eq!(time(&after, "PodScheduled"), Some(at(10).into()));
}

#[test]
fn addresses_and_start_time_are_filled_in() {
    let pod = pod("Always", &[], &["web"]);
    let status = compute(&running(&pod));
    assert_eq!(status.pod_ip, "10.244.0.7");
    assert_eq!(
        status.pod_ips,
        [PodIp {
            ip: "10.244.0.7".into()
        }]
    );
    assert_eq!(status.host_ip, "172.30.0.2");
    assert_eq!(status.start_time, Some(at(0).into()));
    assert!(compute(&fresh(&pod)).pod_ips.is_empty());
}
