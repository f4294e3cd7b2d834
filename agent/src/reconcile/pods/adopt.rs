//! What to make of a pod this node does not remember: new, or here before its record was lost. Pure.

use std::{net::IpAddr, time::SystemTime};

use causeway_proto::v1::{ContainerStatus, Pod};

use super::{
    model::Run,
    record::{ContainerRecord, Record},
};
use crate::runtime::{Exit, ExitReason, SandboxState};

/// The first record of a pod. If the pod ran here before, its sandbox knows its address, and the API server knows whether it has
/// ended and what was ready.
pub fn first_record(pod: Pod, stray: Option<&SandboxState>, now: SystemTime) -> Record {
    let mut record = Record::new(pod, now);
    record.addresses = stray.map(addresses_of).unwrap_or_default();
    let status = record.pod.status.clone().unwrap_or_default();
    let ended = matches!(status.phase.as_str(), "Succeeded" | "Failed");
    if ended || stray.is_some() {
        for container in status.init_container_statuses.iter().chain(&status.container_statuses) {
            record
                .containers
                .insert(container.name.clone(), remembered(container, ended, now));
        }
    }
    record
}

/// The addresses a sandbox was made with.
pub fn addresses_of(sandbox: &SandboxState) -> Vec<IpAddr> {
    sandbox
        .spec
        .as_ref()
        .map(|spec| spec.addresses.clone())
        .unwrap_or_default()
}

fn remembered(status: &ContainerStatus, ended: bool, now: SystemTime) -> ContainerRecord {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let run = terminated.filter(|_| ended).map_or(Run::Never, |terminated| {
        let time = |at: Option<prost_types::Timestamp>| at.and_then(|at| at.try_into().ok()).unwrap_or(now);
        Run::Exited(Exit {
            exit_code: terminated.exit_code,
            signal: terminated.signal,
            reason: if terminated.exit_code == 0 {
                ExitReason::Completed
            } else {
                ExitReason::Error
            },
            message: terminated.message.clone(),
            started_at: time(terminated.started_at),
            finished_at: time(terminated.finished_at),
        })
    });
    ContainerRecord {
        run,
        restart_count: u32::try_from(status.restart_count).unwrap_or(0),
        image_id: status.image_id.clone(),
        container_id: status.container_id.clone(),
        started: status.started == Some(true),
        ready: status.ready,
        ..ContainerRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ContainerState, ContainerStateTerminated, PodStatus};

    use super::{super::fixture, *};
    use crate::runtime::SandboxSpec;

    fn pod(phase: &str, container: ContainerStatus) -> Pod {
        let mut pod = fixture::pod("Never", &[], &["web"]);
        let container = ContainerStatus {
            name: "web".into(),
            ..container
        };
        pod.status = Some(PodStatus {
            phase: phase.into(),
            container_statuses: vec![container],
            ..PodStatus::default()
        });
        pod
    }

    fn stray() -> SandboxState {
        let spec = SandboxSpec {
            addresses: vec!["10.244.0.9".parse().unwrap()],
            ..SandboxSpec::default()
        };
        SandboxState {
            id: "u-1".into(),
            spec: Some(spec),
            holder: Some(1),
            containers: Vec::new(),
        }
    }

    #[test]
    fn a_pod_that_ended_is_not_run_again_by_a_node_that_forgot_it() {
        let terminated = Some(ContainerStateTerminated {
            exit_code: 3,
            ..ContainerStateTerminated::default()
        });
        let state = Some(ContainerState {
            terminated,
            ..ContainerState::default()
        });
        let container = ContainerStatus {
            state,
            ..ContainerStatus::default()
        };
        let record = first_record(pod("Failed", container.clone()), None, fixture::at(0));
        assert!(matches!(&record.containers["web"].run, Run::Exited(exit) if exit.exit_code == 3));
        let record = first_record(pod("Running", container), None, fixture::at(0));
        assert!(record.containers.is_empty());
    }

    #[test]
    fn what_runs_keeps_its_address_and_its_readiness() {
        let container = ContainerStatus {
            ready: true,
            started: Some(true),
            restart_count: 2,
            ..ContainerStatus::default()
        };
        let record = first_record(pod("Running", container), Some(&stray()), fixture::at(0));
        assert_eq!(record.addresses, ["10.244.0.9".parse::<IpAddr>().unwrap()]);
        let web = &record.containers["web"];
        assert_eq!(
            (web.ready, web.started, web.restart_count, &web.run),
            (true, true, 2, &Run::Never)
        );
    }
}
