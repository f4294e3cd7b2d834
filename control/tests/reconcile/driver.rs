//! The driver's promises, with a reconciler made for the purpose.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use causeway_control::reconcile::driver::{DriverOptions, Pass, ReconcileError, Reconciler, run};
use causeway_proto::Kind;

use crate::cluster::{Cluster, pod};

/// Wants every pod of the cache to be worked on until it says that it is done.
#[derive(Default)]
struct Probe {
    wanted: Mutex<BTreeMap<String, Behaviour>>,
    running: Mutex<BTreeMap<String, usize>>,
    runs: Mutex<Vec<(String, Instant)>>,
    overlapped: AtomicBool,
    passes: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Never done, however often it runs.
    Slow,
    Fail,
    Panic,
    Once,
}

impl Probe {
    fn runs_of(&self, key: &str) -> Vec<Instant> {
        let runs = self.runs.lock().expect("no panic");
        runs.iter().filter(|(ran, _)| ran == key).map(|(_, at)| *at).collect()
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<String, Behaviour>> {
        self.wanted.lock().expect("no panic")
    }
}

#[async_trait]
impl Reconciler for Probe {
    type Work = Behaviour;

    fn name(&self) -> &'static str {
        "probe"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Pod]
    }

    fn plan(&self) -> Pass<Behaviour> {
        self.passes.fetch_add(1, Ordering::Relaxed);
        Pass {
            work: self.wanted().clone(),
            again_in: None,
        }
    }

    fn begin(&self, key: &str, _work: &Behaviour) {
        let mut running = self.running.lock().expect("no panic");
        let count = running.entry(key.to_owned()).or_default();
        *count += 1;
        if *count > 1 {
            self.overlapped.store(true, Ordering::Relaxed);
        }
        self.runs
            .lock()
            .expect("no panic")
            .push((key.to_owned(), Instant::now()));
    }

    async fn execute(&self, key: &str, work: Behaviour) -> Result<(), ReconcileError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        *self.running.lock().expect("no panic").get_mut(key).expect("begun") -= 1;
        match work {
            Behaviour::Slow => Ok(()),
            Behaviour::Fail => Err(ReconcileError::NotYet("as it was told to".into())),
            Behaviour::Panic => panic!("as it was told to"),
            Behaviour::Once => {
                self.wanted().remove(key);
                Ok(())
            }
        }
    }
}

async fn start(options: DriverOptions) -> (Cluster, Arc<Probe>, tokio::task::JoinSet<()>) {
    let cluster = Cluster::idle().await;
    let probe = Arc::new(Probe::default());
    let mut task = tokio::task::JoinSet::new();
    task.spawn(run(Arc::clone(&probe), cluster.registry.clone(), options));
    (cluster, probe, task)
}

fn quick() -> DriverOptions {
    DriverOptions {
        full_pass: Duration::from_millis(50),
        settle: Duration::from_millis(1),
        first_retry: Duration::from_millis(40),
        last_retry: Duration::from_millis(320),
        concurrency: 3,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_never_runs_twice_at_once_and_others_go_on() {
    let (cluster, probe, _task) = start(quick()).await;
    probe.wanted().insert("slow".into(), Behaviour::Slow);
    probe.wanted().insert("panics".into(), Behaviour::Panic);
    for n in 0..10 {
        probe.wanted().insert(format!("once-{n}"), Behaviour::Once);
        cluster.create(pod(&format!("wake-{n}"))).await;
    }
    let done = || probe.runs_of("slow").len() > 10 && probe.wanted().len() == 2 && probe.runs_of("panics").len() > 2;
    cluster.until("runs", done).await;
    assert!(!probe.overlapped.load(Ordering::Relaxed));
    assert!((0..10).all(|n| probe.runs_of(&format!("once-{n}")).len() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_key_waits_longer_each_time() {
    let (cluster, probe, _task) = start(quick()).await;
    probe.wanted().insert("fails".into(), Behaviour::Fail);
    cluster.until("six runs", || probe.runs_of("fails").len() >= 6).await;
    let runs = probe.runs_of("fails");
    let gaps: Vec<_> = runs.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Each delay is drawn from the upper half of 40, 80, 160, 320, 320 ms.
    for (gap, least) in gaps.iter().zip([20, 40, 80, 160, 160]) {
        assert!(*gap >= Duration::from_millis(least), "{gaps:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_causes_a_pass_and_so_does_time() {
    let (cluster, probe, _task) = start(DriverOptions {
        full_pass: Duration::from_hours(1),
        ..quick()
    })
    .await;
    cluster
        .until("the first pass", || probe.passes.load(Ordering::Relaxed) > 0)
        .await;
    probe.wanted().insert("once".into(), Behaviour::Once);
    cluster.create(pod("wake")).await;
    cluster.until("the run", || probe.runs_of("once").len() == 1).await;

    let (cluster, probe, _task) = start(quick()).await;
    cluster
        .until("full passes", || probe.passes.load(Ordering::Relaxed) > 5)
        .await;
}
