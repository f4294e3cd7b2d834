#![expect(clippy::unnecessary_wraps, reason = "fixtures return what optional fields take")]

use std::time::Duration;

use proptest::prelude::*;

use super::{
    super::{
        backoff::Backoff,
        fixture::{at, attached, exited, fresh, pod, running},
        model::{Stopping, Verdict},
    },
    *,
};

const DELAYS: Delays = Delays {
    restart: Policy {
        base: Duration::from_secs(10),
        max: Duration::from_mins(5),
        reset_after: Duration::from_mins(10),
    },
    retry: Policy {
        base: Duration::from_secs(1),
        max: Duration::from_secs(15),
        reset_after: Duration::MAX,
    },
    drain: Duration::from_secs(1),
    drain_limit: Duration::from_secs(5),
};

fn actions(view: &PodView<'_>, second: u64) -> Vec<Action> {
    plan(view, &DELAYS, at(second)).actions
}

fn start(name: &str) -> Action {
    Action::Start(name.into())
}

fn ending(since: u64) -> Option<Termination> {
    Some(Termination {
        since: at(since),
        grace: Duration::from_secs(30),
        marked: false,
        listed: false,
        confirm: true,
    })
}

#[test]
fn a_new_pod_gets_everything_in_order() {
    let pod = pod("Always", &[], &["web", "log"]);
    let want = vec![
        Action::AllocateAddress,
        Action::CreateSandbox,
        Action::AttachNetwork,
        start("web"),
        start("log"),
    ];
    assert_eq!(
        plan(&fresh(&pod), &DELAYS, at(0)),
        Plan {
            actions: want,
            wake_in: None
        }
    );
}

#[test]
fn a_pod_in_order_needs_nothing() {
    let pod = pod("Always", &["setup"], &["web"]);
    assert_eq!(plan(&running(&pod), &DELAYS, at(9)), Plan::default());
}

#[test]
fn an_address_is_kept_when_the_sandbox_is_made_anew() {
    let pod = pod("Always", &[], &["web"]);
    let view = PodView {
        sandbox: Sandbox::Broken,
        attached: false,
        ..attached(&pod)
    };
    assert_eq!(
        actions(&view, 0),
        [
            Action::RemoveSandbox,
            Action::CreateSandbox,
            Action::AttachNetwork,
            start("web")
        ]
    );
}

#[test]
fn a_sandbox_that_cannot_be_made_is_retried_later_but_its_remains_go_at_once() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = PodView {
        sandbox: Sandbox::Broken,
        attached: false,
        ..attached(&pod)
    };
    view.sandbox_failures = Backoff {
        failures: 3,
        last: Some(at(10)),
    };
    let later = plan(&view, &DELAYS, at(11));
    assert_eq!(
        later,
        Plan {
            actions: vec![Action::RemoveSandbox],
            wake_in: Some(Duration::from_secs(1))
        }
    );
    assert!(actions(&view, 12).contains(&Action::CreateSandbox));
}

#[test]
fn init_containers_run_one_after_the_other_and_before_all_others() {
    let pod = pod("Always", &["one", "two"], &["web"]);
    let mut view = attached(&pod);
    assert_eq!(actions(&view, 0), [start("one")]);
    view.init[0].run = Run::Running { started_at: at(1) };
    assert_eq!(actions(&view, 2), []);
    view.init[0].run = exited(0);
    assert_eq!(actions(&view, 6), [start("two")]);
    view.init[1].run = exited(0);
    assert_eq!(actions(&view, 6), [start("web")]);
}

#[test]
fn a_failed_init_container_is_repeated_or_ends_the_pod() {
    for (policy, want) in [
        ("Always", vec![start("one")]),
        ("OnFailure", vec![start("one")]),
        ("Never", vec![Action::RemoveSandbox, Action::ReleaseAddress]),
    ] {
        let pod = pod(policy, &["one"], &["web"]);
        let mut view = attached(&pod);
        view.init[0].run = exited(1);
        assert_eq!(actions(&view, 6), want, "{policy}");
    }
}

#[test]
fn restart_policy_decides_what_an_exit_leads_to() {
    let done = vec![Action::RemoveSandbox, Action::ReleaseAddress];
    for (policy, code, want) in [
        ("Always", 0, vec![start("web")]),
        ("Always", 1, vec![start("web")]),
        ("OnFailure", 0, done.clone()),
        ("OnFailure", 1, vec![start("web")]),
        ("Never", 0, done.clone()),
        ("Never", 1, done),
    ] {
        let pod = pod(policy, &[], &["web"]);
        let mut view = running(&pod);
        view.containers[0].run = exited(code);
        assert_eq!(actions(&view, 6), want, "{policy} {code}");
    }
}

#[test]
fn one_finished_container_does_not_end_the_pod() {
    let pod = pod("Never", &[], &["web", "log"]);
    let mut view = running(&pod);
    view.containers[0].run = exited(0);
    assert_eq!(actions(&view, 6), []);
}

#[test]
fn a_crashing_container_waits_for_its_back_off() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.containers[0].run = exited(1);
    view.containers[0].crashes = Backoff {
        failures: 3,
        last: Some(at(5)),
    };
    assert_eq!(
        plan(&view, &DELAYS, at(6)),
        Plan {
            actions: vec![],
            wake_in: Some(Duration::from_secs(19))
        }
    );
    assert_eq!(actions(&view, 25), [start("web")]);
}

#[test]
fn a_container_that_cannot_be_started_is_retried_later() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = attached(&pod);
    view.containers[0].start_failures = Backoff {
        failures: 2,
        last: Some(at(5)),
    };
    assert_eq!(
        plan(&view, &DELAYS, at(5)),
        Plan {
            actions: vec![],
            wake_in: Some(Duration::from_secs(1))
        }
    );
    assert_eq!(actions(&view, 6), [start("web")]);
}

#[test]
fn an_unhealthy_container_is_asked_then_killed_and_only_it() {
    let pod = pod("Always", &[], &["web", "log"]);
    let mut view = running(&pod);
    view.containers[0].verdict = Verdict {
        unhealthy: Some("liveness".into()),
        ..Verdict::default()
    };
    let first = plan(&view, &DELAYS, at(10));
    assert_eq!(
        first.actions,
        [Action::Terminate("web".into(), Cause::Unhealthy("liveness".into()))]
    );
    assert_eq!(first.wake_in, Some(Duration::from_secs(30)));
    view.containers[0].stopping = Some(Stopping {
        since: at(10),
        killed: false,
    });
    assert_eq!(
        plan(&view, &DELAYS, at(20)),
        Plan {
            actions: vec![],
            wake_in: Some(Duration::from_secs(20))
        }
    );
    assert_eq!(actions(&view, 40), [Action::Kill("web".into())]);
    view.containers[0].stopping = Some(Stopping {
        since: at(10),
        killed: true,
    });
    assert_eq!(actions(&view, 41), []);
}

#[test]
fn a_deleted_pod_leaves_the_data_path_then_drains_then_ends() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.termination = ending(10);
    let first = plan(&view, &DELAYS, at(10));
    assert_eq!(
        first,
        Plan {
            actions: vec![Action::MarkTerminating],
            wake_in: Some(Duration::from_secs(1))
        }
    );
    view.termination = Some(Termination {
        marked: true,
        ..view.termination.unwrap()
    });
    assert_eq!(actions(&view, 11), [Action::Terminate("web".into(), Cause::PodDeleted)]);
    view.containers[0].stopping = Some(Stopping {
        since: at(11),
        killed: false,
    });
    assert_eq!(
        plan(&view, &DELAYS, at(12)),
        Plan {
            actions: vec![],
            wake_in: Some(Duration::from_secs(28))
        }
    );
    assert_eq!(actions(&view, 40), [Action::Kill("web".into())]);
    view.containers[0].run = exited(137);
    let last = vec![
        Action::RemoveSandbox,
        Action::ReleaseAddress,
        Action::ConfirmDeletion,
        Action::Forget,
    ];
    assert_eq!(actions(&view, 41), last);
}

#[test]
fn a_process_is_told_to_end_when_other_nodes_can_know_or_have_had_long_enough() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    let listed = |grace: u64, listed: bool| {
        let (marked, grace) = (true, Duration::from_secs(grace));
        ending(10).map(|ending| Termination {
            grace,
            marked,
            listed,
            ..ending
        })
    };
    let end = [Action::Terminate("web".into(), Cause::PodDeleted)];
    view.termination = listed(30, true);
    assert_eq!(actions(&view, 14), []);
    assert!(
        plan(&view, &DELAYS, at(14)).wake_in.unwrap() < Duration::from_secs(1),
        "it is looked at again soon"
    );
    assert_eq!(actions(&view, 15), end, "at the limit");
    view.termination = listed(30, false);
    assert_eq!(actions(&view, 14), end, "as soon as the endpoints say so");
    view.termination = listed(4, true);
    assert_eq!(actions(&view, 12), end, "half the grace period belongs to the process");
    view.containers[0].verdict.ready = false;
    assert_eq!(actions(&view, 10), end, "who took no connections has none to lose");
}

#[test]
fn a_pod_that_took_no_traffic_is_not_drained() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.containers[0].verdict.ready = false;
    view.termination = ending(10);
    assert_eq!(
        actions(&view, 10),
        [
            Action::MarkTerminating,
            Action::Terminate("web".into(), Cause::PodDeleted)
        ]
    );
}

#[test]
fn without_grace_a_pod_is_killed_at_once() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = running(&pod);
    view.termination = ending(10).map(|ending| Termination {
        grace: Duration::ZERO,
        ..ending
    });
    assert_eq!(
        actions(&view, 10),
        [Action::MarkTerminating, Action::Kill("web".into())]
    );
}

#[test]
fn a_pod_gone_from_the_server_needs_no_confirmation() {
    let pod = pod("Always", &[], &["web"]);
    let mut view = fresh(&pod);
    view.termination = ending(10).map(|ending| Termination {
        confirm: false,
        ..ending
    });
    assert_eq!(actions(&view, 10), [Action::Forget]);
}

#[test]
fn a_deleted_pod_is_not_restarted_while_another_container_ends() {
    let pod = pod("Always", &[], &["web", "log"]);
    let mut view = running(&pod);
    view.termination = ending(10).map(|ending| Termination { marked: true, ..ending });
    view.containers[0].run = exited(0);
    view.containers[1].stopping = Some(Stopping {
        since: at(11),
        killed: false,
    });
    assert_eq!(actions(&view, 12), []);
}

fn any_run() -> impl Strategy<Value = Run> {
    prop_oneof![
        Just(Run::Never),
        Just(Run::Running { started_at: at(1) }),
        (0..2_i32).prop_map(exited),
    ]
}

fn any_container() -> impl Strategy<Value = (Run, bool, Option<(u64, bool)>, u32, u32)> {
    (
        any_run(),
        any::<bool>(),
        prop::option::of((0..60_u64, any::<bool>())),
        0..5_u32,
        0..5_u32,
    )
}

proptest! {
    /// Whatever is seen, the order of actions is safe and something will happen again.
    #[test]
    fn every_plan_is_safe(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        sandbox in prop_oneof![Just(Sandbox::Absent), Just(Sandbox::Alive), Just(Sandbox::Broken)],
        is_attached: bool,
        has_address: bool,
        end in prop::option::of((0..60_u64, 0..40_u64, any::<bool>(), any::<bool>(), any::<bool>())),
        containers in prop::collection::vec(any_container(), 3),
        now in 0..120_u64,
    ) {
        let pod = pod(policy, &["one"], &["web", "log"]);
        let mut view = PodView { sandbox, attached: is_attached, ..attached(&pod) };
        if !has_address { view.addresses = &[]; }
        view.termination = end.map(|(since, grace, marked, listed, confirm)| {
            Termination { since: at(since), grace: Duration::from_secs(grace), marked, listed, confirm }
        });
        let all = view.init.iter_mut().chain(&mut view.containers);
        for (container, (run, unhealthy, stopping, crashes, failures)) in all.zip(containers) {
            container.run = run;
            container.verdict.unhealthy = unhealthy.then(|| "probe".to_owned());
            container.stopping = stopping.map(|(since, killed)| Stopping { since: at(since), killed });
            container.crashes = Backoff { failures: crashes, last: Some(at(0)) };
            container.start_failures = Backoff { failures, last: Some(at(0)) };
        }
        let plan = plan(&view, &DELAYS, at(now));
        let place = |wanted: &Action| plan.actions.iter().position(|action| action == wanted);
        let first_start = plan.actions.iter().position(|action| matches!(action, Action::Start(_)));
        // Nothing is started in a pod that goes or has ended, nor without sandbox and network.
        if let Some(start) = first_start {
            prop_assert!(view.termination.is_none() && view.finished().is_none());
            prop_assert!(view.sandbox == Sandbox::Alive || place(&Action::CreateSandbox).is_some_and(|at| at < start));
            prop_assert!(view.attached || place(&Action::AttachNetwork).is_some_and(|at| at < start));
        }
        // An address is there before anything uses it.
        if let Some(attach) = place(&Action::AttachNetwork) {
            prop_assert!(!view.addresses.is_empty() || place(&Action::AllocateAddress).is_some_and(|at| at < attach));
        }
        // The record goes last, and never while a container runs or something is held.
        if let Some(forget) = place(&Action::Forget) {
            prop_assert_eq!(forget, plan.actions.len() - 1);
            prop_assert!(view.all_containers().all(|container| !container.is_running()));
            prop_assert!(view.sandbox == Sandbox::Absent || place(&Action::RemoveSandbox).is_some());
        }
        // Only running containers are signalled, only others are started.
        for action in &plan.actions {
            let named = |name: &String| view.all_containers().find(|c| &c.spec.name == name).unwrap().is_running();
            match action {
                Action::Terminate(name, _) | Action::Kill(name) => prop_assert!(named(name)),
                Action::Start(name) => prop_assert!(!named(name)),
                _ => {}
            }
        }
        // A pod that goes is never stuck: it acts, waits for a time, or waits for a killed container.
        if view.termination.is_some() {
            let killed = view.all_containers().any(|c| c.is_running() && c.stopping.is_some_and(|s| s.killed));
            prop_assert!(!plan.actions.is_empty() || plan.wake_in.is_some() || killed);
        }
    }
}
