//! Pods and views for the tests of planner and status.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use causeway_proto::v1::{Container, ObjectMeta, Pod, PodSpec};

use super::{
    backoff::Backoff,
    model::{ContainerView, PodView, Run, Sandbox, Verdict},
};
use crate::runtime::{Exit, ExitReason};

static NODE: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(172, 30, 0, 2))];
static POD: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(10, 244, 0, 7))];

/// Seconds after the tests' beginning of time.
pub fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

/// A pod with the given init and app containers.
pub fn pod(policy: &str, init: &[&str], containers: &[&str]) -> Pod {
    let container = |name: &&str| Container {
        name: (*name).into(),
        image: "demo".into(),
        ..Container::default()
    };
    Pod {
        metadata: Some(ObjectMeta {
            name: "web-1".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            restart_policy: policy.into(),
            init_containers: init.iter().map(container).collect(),
            containers: containers.iter().map(container).collect(),
            termination_grace_period_seconds: Some(30),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// The view of a pod of which nothing exists yet.
pub fn fresh(pod: &Pod) -> PodView<'_> {
    let spec = pod.spec.as_ref().unwrap();
    let view = |spec| ContainerView {
        spec,
        run: Run::Never,
        last_exit: None,
        restart_count: 0,
        crashes: Backoff::default(),
        start_failures: Backoff::default(),
        trouble: None,
        verdict: Verdict::default(),
        stopping: None,
        image_id: String::new(),
        container_id: String::new(),
    };
    PodView {
        pod,
        addresses: &[],
        host_ips: &NODE,
        start_time: at(0),
        sandbox: Sandbox::Absent,
        attached: false,
        sandbox_failures: Backoff::default(),
        trouble: None,
        termination: None,
        init: spec.init_containers.iter().map(view).collect(),
        containers: spec.containers.iter().map(view).collect(),
    }
}

/// The view of a pod with sandbox and network and no container started.
pub fn attached(pod: &Pod) -> PodView<'_> {
    PodView {
        addresses: &POD,
        sandbox: Sandbox::Alive,
        attached: true,
        ..fresh(pod)
    }
}

/// The view of a pod whose init containers are done and whose containers all run.
pub fn running(pod: &Pod) -> PodView<'_> {
    let mut view = attached(pod);
    for container in &mut view.init {
        container.run = exited(0);
    }
    for container in &mut view.containers {
        container.run = Run::Running { started_at: at(1) };
    }
    view
}

/// A run from second 1 to second 5.
pub fn exited(code: i32) -> Run {
    Run::Exited(Exit {
        exit_code: code,
        signal: 0,
        reason: if code == 0 {
            ExitReason::Completed
        } else {
            ExitReason::Error
        },
        message: String::new(),
        started_at: at(1),
        finished_at: at(5),
    })
}
