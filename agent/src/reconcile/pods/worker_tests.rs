#![expect(clippy::unnecessary_wraps, reason = "fixtures return what optional fields take")]

use std::{net::Ipv4Addr, time::Duration};

use causeway_proto::{
    client::Client,
    v1::{ContainerPort, ExecAction, Probe},
};
use tempfile::TempDir;

use super::{
    super::{
        backoff::Policy, context::Addresses, fake::Fake, fixture, model::Delays, record::Records, spec::NodeSettings,
    },
    *,
};
use crate::{
    metrics::PodMetrics,
    probe::ProbeKind,
    reconcile::{events::Recorder, listings::Listings},
    runtime::{ContainerState, SandboxSpec},
};

/// A worker on a node made of values; the control plane is away all the time.
struct Scene {
    fake: Arc<Fake>,
    inbox: Arc<Inbox>,
    context: Arc<Context<Fake>>,
    worker: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

fn context(directory: &TempDir) -> Arc<Context<Fake>> {
    let quick = |ms| Policy {
        base: Duration::from_millis(ms),
        max: Duration::from_millis(ms),
        reset_after: Duration::from_mins(10),
    };
    Arc::new(Context {
        machine: Arc::default(),
        client: Client::connect("unix:///nonexistent/causeway-test.sock").unwrap(),
        recorder: Recorder::disconnected(),
        records: Records::open(directory.path()).unwrap(),
        addresses: Addresses::new(&"10.244.1.0/24".parse().unwrap(), &BTreeMap::new(), directory.path()),
        node: NodeSettings {
            name: "node-1".into(),
            host_ips: vec!["172.30.0.2".parse().unwrap()],
            memory_bytes: 1 << 30,
            resolv_conf: String::new(),
            pids_limit: None,
        },
        delays: Delays {
            restart: quick(20),
            retry: quick(20),
            drain: Duration::from_millis(20),
            drain_limit: Duration::from_millis(40),
        },
        listings: Listings::default(),
        metrics: PodMetrics::default(),
    })
}

fn probe() -> Option<Probe> {
    let exec = Some(ExecAction {
        command: vec!["true".into()],
    });
    Some(Probe {
        exec,
        ..Probe::default()
    })
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    let meta = pod.meta_mut();
    meta.deletion_timestamp = Some(fixture::at(0).into());
    meta.deletion_grace_period_seconds = Some(grace);
    meta.resource_version = "9".into();
    pod
}

impl Scene {
    fn new(pod: Pod, prepare: impl FnOnce(&Context<Fake>)) -> Self {
        Self::from_record(Record::new(pod, SystemTime::now()), false, prepare)
    }

    fn from_record(record: Record, from_disk: bool, prepare: impl FnOnce(&Context<Fake>)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let context = context(&directory);
        prepare(&context);
        let inbox = Arc::new(Inbox::default());
        let worker = Worker::new(Arc::clone(&context), Arc::clone(&inbox), record, from_disk);
        let worker = tokio::spawn(worker.run());
        Self {
            fake: Arc::clone(&context.machine),
            inbox,
            context,
            worker,
            _directory: directory,
        }
    }

    /// Waits until the log of the node is `wanted`.
    async fn logged(&self, wanted: &[&str]) {
        let bound = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.fake.log() != wanted {
            assert!(
                tokio::time::Instant::now() < bound,
                "{:#?} instead of {wanted:#?}",
                self.fake.log()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn record(&self) -> Option<Record> {
        self.context.records.get("u-1").unwrap()
    }

    async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.worker)
            .await
            .expect("the worker ends")
            .unwrap();
    }
}

const UP: [&str; 6] = [
    "ready=false terminating=false",
    "create 10.244.1.2",
    "attach 10.244.1.2",
    "ready=false terminating=false",
    "start web/0",
    "ready=true terminating=false",
];

#[tokio::test]
async fn a_pod_comes_up_with_the_control_plane_away() {
    let scene = Scene::new(fixture::pod("Always", &[], &["web"]), |_| {});
    scene.logged(&UP).await;
    assert_eq!(scene.record().unwrap().addresses, [Ipv4Addr::new(10, 244, 1, 2)]);
}

#[tokio::test]
async fn a_pod_in_the_nodes_network_has_its_addresses_and_speaks_for_its_ports_alone() {
    let mut pod = fixture::pod("Always", &[], &["web"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.host_network = true;
    spec.containers[0].ports = vec![ContainerPort {
        container_port: 8080,
        ..ContainerPort::default()
    }];
    let scene = Scene::new(pod.clone(), |_| {});
    let (away, ready) = (
        "172.30.0.2 [8080] ready=false terminating=false",
        "172.30.0.2 [8080] ready=true terminating=false",
    );
    scene
        .logged(&[away, "create 172.30.0.2", away, "start web/0", ready])
        .await;
    assert_eq!(scene.record().unwrap().addresses, [Ipv4Addr::new(172, 30, 0, 2)]);
    scene.fake.clear_log();
    scene.inbox.deliver(deleted(pod, 0));
    let ending = "172.30.0.2 [8080] ready=true terminating=true";
    scene.logged(&[ending, "signal web 9"]).await;
    scene.fake.end("web", 137);
    scene.inbox.wake();
    let over = "172.30.0.2 [8080] ready=false terminating=true";
    // What others say of the node's address is not forgotten with one pod.
    scene
        .logged(&[ending, "signal web 9", over, "remove", over, "forget u-1 at 172.30.0.2"])
        .await;
}

#[tokio::test]
async fn a_crashed_container_is_out_of_service_and_started_again_under_a_new_number() {
    let scene = Scene::new(fixture::pod("Always", &[], &["web"]), |_| {});
    scene.logged(&UP).await;
    scene.fake.clear_log();
    scene.fake.end("web", 1);
    scene.inbox.wake();
    scene
        .logged(&[
            "ready=false terminating=false",
            "start web/1",
            "ready=true terminating=false",
        ])
        .await;
    let record = scene.record().unwrap().containers["web"].clone();
    assert_eq!((record.restart_count, record.last_exit.unwrap().exit_code), (1, 1));
}

#[tokio::test]
async fn a_verdict_reaches_the_data_path_before_the_prober_goes_on() {
    let mut pod = fixture::pod("Always", &[], &["web"]);
    pod.spec.as_mut().unwrap().containers[0].readiness_probe = probe();
    let scene = Scene::new(pod, |_| {});
    scene.logged(&UP[..5]).await;
    let bound = tokio::time::Instant::now() + Duration::from_secs(10);
    while !scene
        .record()
        .is_some_and(|record| matches!(record.containers["web"].run, Run::Running { .. }))
    {
        assert!(tokio::time::Instant::now() < bound);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for (ok, want) in [
        (true, "ready=true terminating=false"),
        (false, "ready=false terminating=false"),
    ] {
        scene.fake.report("web", ProbeKind::Readiness, ok);
        // No waiting: it happened in this very call.
        assert_eq!(scene.fake.log().last().map(String::as_str), Some(want));
    }
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_the_container() {
    let mut pod = fixture::pod("Always", &[], &["web"]);
    pod.spec.as_mut().unwrap().containers[0].liveness_probe = probe();
    let scene = Scene::new(pod, |_| {});
    scene.logged(&UP).await;
    scene.fake.clear_log();
    scene.fake.report("web", ProbeKind::Liveness, false);
    scene.logged(&["signal web 15"]).await;
    scene.fake.end("web", 143);
    scene.inbox.wake();
    let restarted = [
        "signal web 15",
        "ready=false terminating=false",
        "start web/1",
        "ready=true terminating=false",
    ];
    scene.logged(&restarted).await;
}

#[tokio::test]
async fn a_deleted_pod_leaves_service_first_and_waits_for_the_control_plane_last() {
    let pod = fixture::pod("Always", &[], &["web"]);
    let scene = Scene::new(pod.clone(), |_| {});
    scene.logged(&UP).await;
    scene.fake.clear_log();
    scene.inbox.deliver(deleted(pod, 30));
    scene.logged(&["ready=true terminating=true", "signal web 15"]).await;
    scene.fake.end("web", 0);
    scene.inbox.wake();
    let gone = [
        "ready=true terminating=true",
        "signal web 15",
        "ready=false terminating=true",
        "remove",
        "ready=false terminating=true",
        "forget 10.244.1.2",
    ];
    scene.logged(&gone).await;
    // Nobody has confirmed yet: the record stays.
    assert!(scene.record().unwrap().addresses.is_empty());
    assert!(!scene.worker.is_finished());
}

#[tokio::test]
async fn a_container_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let pod = fixture::pod("Always", &[], &["web"]);
    let scene = Scene::new(pod.clone(), |_| {});
    scene.logged(&UP).await;
    scene.fake.clear_log();
    scene.inbox.deliver(deleted(pod, 1));
    scene
        .logged(&["ready=true terminating=true", "signal web 15", "signal web 9"])
        .await;
}

#[tokio::test]
async fn a_pod_the_server_lost_leaves_nothing() {
    let scene = Scene::new(fixture::pod("Always", &[], &["web"]), |_| {});
    scene.logged(&UP).await;
    scene.inbox.gone();
    let bound = tokio::time::Instant::now() + Duration::from_secs(10);
    while !scene.fake.log().contains(&"signal web 15".to_owned()) {
        assert!(tokio::time::Instant::now() < bound);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.fake.end("web", 0);
    scene.inbox.wake();
    let context = Arc::clone(&scene.context);
    // The directory of the records must outlive the look at them.
    let Scene { worker, _directory, .. } = scene;
    tokio::time::timeout(Duration::from_secs(10), worker)
        .await
        .expect("the worker ends")
        .unwrap();
    assert_eq!(context.records.get("u-1").unwrap(), None);
}

#[tokio::test]
async fn a_missing_image_keeps_only_its_own_container_waiting() {
    let mut pod = fixture::pod("Always", &[], &["web", "log"]);
    pod.spec.as_mut().unwrap().containers[0].image = "absent".into();
    let scene = Scene::new(pod, |context| context.machine.lose_image("absent"));
    scene.logged(&[UP[0], UP[1], UP[2], UP[3], "start log/0"]).await;
}

#[tokio::test]
async fn a_sandbox_that_fails_is_tried_again() {
    let scene = Scene::new(fixture::pod("Always", &[], &["web"]), |context| {
        context.machine.fail_attaches(3);
    });
    scene.logged(&UP).await;
}

#[tokio::test]
async fn a_lost_sandbox_is_made_anew_and_init_containers_run_again() {
    let scene = Scene::new(fixture::pod("Always", &["setup"], &["web"]), |_| {});
    scene.logged(&[UP[0], UP[1], UP[2], UP[3], "start setup/0"]).await;
    scene.fake.end("setup", 0);
    scene.inbox.wake();
    scene
        .logged(&[UP[0], UP[1], UP[2], UP[3], "start setup/0", UP[4], UP[5]])
        .await;
    scene.fake.clear_log();
    scene.fake.lose_sandbox();
    scene.inbox.wake();
    scene
        .logged(&[
            "ready=false terminating=false",
            "remove",
            "ready=false terminating=false",
            "create 10.244.1.2",
            "attach 10.244.1.2",
            "ready=false terminating=false",
            "start setup/1",
        ])
        .await;
}

/// The sandbox of a pod that has run for a while.
fn running_sandbox() -> SandboxState {
    let started_at = SystemTime::now() - Duration::from_mins(1);
    SandboxState {
        id: "u-1".into(),
        spec: Some(SandboxSpec::default()),
        holder: Some(1),
        containers: vec![ContainerState {
            name: "web".into(),
            attempt: 3,
            image: "demo".into(),
            image_id: "sha256:1".into(),
            phase: ContainerPhase::Running { pid: 7, started_at },
        }],
    }
}

fn old_record(pod: Pod) -> Record {
    let mut record = Record::new(pod, SystemTime::now());
    record.addresses = vec![Ipv4Addr::new(10, 244, 1, 9).into()];
    let run = Run::Running {
        started_at: SystemTime::now(),
    };
    let web = ContainerRecord {
        run,
        restart_count: 3,
        started: true,
        ready: true,
        ..ContainerRecord::default()
    };
    record.containers.insert("web".into(), web);
    record
}

#[tokio::test]
async fn a_restarted_agent_takes_no_pod_out_of_service() {
    let mut pod = fixture::pod("Always", &[], &["web"]);
    pod.spec.as_mut().unwrap().containers[0].readiness_probe = probe();
    let scene = Scene::from_record(old_record(pod), true, |context| {
        context.machine.place(running_sandbox());
    });
    let ready = "ready=true terminating=false";
    scene.logged(&[ready, "attach 10.244.1.9", ready]).await;
    scene.fake.report("web", ProbeKind::Readiness, false);
    assert_eq!(
        scene.fake.log().last().map(String::as_str),
        Some("ready=false terminating=false")
    );
}

#[tokio::test]
async fn a_container_without_probes_is_ready_whatever_a_lost_record_said() {
    let mut record = old_record(fixture::pod("Always", &[], &["web"]));
    record.containers.clear();
    let scene = Scene::from_record(record, false, |context| context.machine.place(running_sandbox()));
    let ready = "ready=true terminating=false";
    scene.logged(&[ready, "attach 10.244.1.9", ready]).await;
}

#[tokio::test]
async fn an_end_that_was_under_way_goes_on_after_a_restart() {
    let pod = fixture::pod("Always", &[], &["web"]);
    let mut record = old_record(pod);
    let since = SystemTime::now() - Duration::from_secs(20);
    record.ending = Some(Ending {
        since,
        grace: Duration::from_secs(10),
        confirm: false,
    });
    let scene = Scene::from_record(record, true, |context| context.machine.place(running_sandbox()));
    scene.logged(&["ready=true terminating=true", "signal web 9"]).await;
    scene.fake.end("web", 137);
    scene.inbox.wake();
    scene.ended().await;
}
