//! The probe loops of one container.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    run,
    spec::{ContainerProbes, ProbeEvent, ProbeKind, ProbeSpec, Verdict},
    state::{ProbeState, first_delay},
};

/// Runs commands inside containers for exec probes.
pub trait ExecRunner: Send + Sync + 'static {
    /// Runs `command` in `container`, kills it after `timeout`, and answers its exit code and the start of its output, or why
    /// it could not be run.
    fn exec(
        &self,
        container: &str,
        command: &[String],
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(i32, String), String>>;
}

/// The running probes of one container. Dropping it stops them.
#[derive(Debug)]
pub struct Prober {
    task: JoinHandle<()>,
}

impl Prober {
    /// Starts the probes of a container that has just been started. `report` is called with every result, on a runtime thread, the
    /// instant it is there: it must not block.
    ///
    /// Startup and liveness probes end with their failure, which the container does not survive; the startup probe also with
    /// its success. The others go on.
    pub fn spawn(
        probes: ContainerProbes,
        exec: Arc<dyn ExecRunner>,
        report: impl Fn(ProbeEvent) + Send + Sync + 'static,
    ) -> Self {
        Self {
            task: tokio::spawn(run_all(probes, exec, report)),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run_all(probes: ContainerProbes, exec: Arc<dyn ExecRunner>, report: impl Fn(ProbeEvent) + Send + Sync) {
    let start = Instant::now();
    let follow = |kind, spec| follow(&probes, kind, spec, start, &*exec, &report);
    if let Some(spec) = &probes.startup
        && follow(ProbeKind::Startup, spec).await != Verdict::Success
    {
        return;
    }
    let liveness = async {
        if let Some(spec) = &probes.liveness {
            follow(ProbeKind::Liveness, spec).await;
        }
    };
    let readiness = async {
        if let Some(spec) = &probes.readiness {
            follow(ProbeKind::Readiness, spec).await;
        }
    };
    tokio::join!(liveness, readiness);
}

/// Runs one probe until nothing more is to be learnt from it.
async fn follow(
    probes: &ContainerProbes,
    kind: ProbeKind,
    spec: &ProbeSpec,
    start: Instant,
    exec: &dyn ExecRunner,
    report: &(impl Fn(ProbeEvent) + Send + Sync),
) -> Verdict {
    let mut state = ProbeState::new(spec);
    // A period of zero would be a busy loop, and tokio refuses it.
    let period = spec.period.max(Duration::from_millis(10));
    let mut ticks = interval_at(start + first_delay(spec, rand::random()), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = run::probe(spec, probes.address, &probes.container, exec).await;
        let ok = result.is_ok();
        let changed = state.record(ok);
        let verdict = state.verdict();
        let message = result.unwrap_or_else(|error| error.to_string());
        report(ProbeEvent {
            container: probes.container.clone(),
            kind,
            ok,
            verdict,
            changed,
            message,
        });
        match (kind, verdict) {
            (ProbeKind::Startup, Verdict::Success | Verdict::Failure) | (ProbeKind::Liveness, Verdict::Failure) => {
                return verdict;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        net::{IpAddr, Ipv4Addr},
        sync::Mutex,
    };

    use tokio::sync::mpsc;

    use super::*;
    use crate::probe::ProbeAction;

    /// Exit codes by command name, the last one repeated.
    struct Script(Mutex<Vec<(&'static str, VecDeque<i32>)>>);

    impl ExecRunner for Script {
        fn exec(&self, _: &str, command: &[String], _: Duration) -> BoxFuture<'static, Result<(i32, String), String>> {
            let mut scripts = self.0.lock().unwrap();
            let codes = &mut scripts.iter_mut().find(|(name, _)| *name == command[0]).unwrap().1;
            let code = if codes.len() > 1 {
                codes.pop_front()
            } else {
                codes.front().copied()
            };
            Box::pin(std::future::ready(Ok((code.unwrap(), String::new()))))
        }
    }

    fn spec(command: &str, failure_threshold: u32) -> ProbeSpec {
        let action = ProbeAction::Exec {
            command: vec![command.to_owned()],
        };
        ProbeSpec {
            period: Duration::from_secs(1),
            failure_threshold,
            ..ProbeSpec::new(action)
        }
    }

    fn start(
        probes: ContainerProbes,
        scripts: &[(&'static str, &[i32])],
    ) -> (Prober, mpsc::UnboundedReceiver<ProbeEvent>) {
        let scripts = scripts
            .iter()
            .map(|(name, codes)| (*name, codes.iter().copied().collect()))
            .collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        let report = move |event| drop(sender.send(event));
        (
            Prober::spawn(probes, Arc::new(Script(Mutex::new(scripts))), report),
            receiver,
        )
    }

    /// The next event; `None` when there will be none.
    async fn next(events: &mut mpsc::UnboundedReceiver<ProbeEvent>) -> Option<ProbeEvent> {
        tokio::time::timeout(Duration::from_secs(20), events.recv())
            .await
            .expect("an event or the end of them")
    }

    fn probes(
        startup: Option<ProbeSpec>,
        liveness: Option<ProbeSpec>,
        readiness: Option<ProbeSpec>,
    ) -> ContainerProbes {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        ContainerProbes {
            container: "web".into(),
            address,
            startup,
            liveness,
            readiness,
        }
    }

    #[tokio::test]
    async fn nothing_else_is_probed_before_startup_succeeds() {
        let probes = probes(Some(spec("startup", 5)), Some(spec("live", 3)), Some(spec("ready", 3)));
        let (_prober, mut events) = start(probes, &[("startup", &[1, 1, 0]), ("live", &[0]), ("ready", &[0])]);
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let event = next(&mut events).await.unwrap();
            seen.push((event.kind, event.ok));
        }
        let startup = ProbeKind::Startup;
        assert_eq!(seen[..3], [(startup, false), (startup, false), (startup, true)]);
        assert!(seen[3..].iter().all(|(kind, ok)| *kind != startup && *ok));
    }

    #[tokio::test]
    async fn a_failed_startup_or_liveness_probe_ends_and_readiness_goes_on() {
        let (prober, mut events) = start(probes(Some(spec("startup", 2)), None, None), &[("startup", &[1])]);
        assert_eq!(next(&mut events).await.unwrap().verdict, Verdict::Unknown);
        let last = next(&mut events).await.unwrap();
        assert_eq!((last.verdict, last.changed), (Verdict::Failure, true));
        assert!(next(&mut events).await.is_none());
        drop(prober);

        let both = probes(None, Some(spec("live", 1)), Some(spec("ready", 1)));
        let (_prober, mut events) = start(both, &[("live", &[1]), ("ready", &[1, 0])]);
        let mut kinds = Vec::new();
        for _ in 0..6 {
            kinds.push(next(&mut events).await.unwrap().kind);
        }
        assert_eq!(kinds.iter().filter(|kind| **kind == ProbeKind::Liveness).count(), 1);
    }

    #[tokio::test]
    async fn a_dropped_prober_is_silent() {
        let (prober, mut events) = start(probes(None, None, Some(spec("ready", 1))), &[("ready", &[0])]);
        next(&mut events).await.unwrap();
        drop(prober);
        assert!(next(&mut events).await.is_none());
    }
}
