//! Whether a pod takes traffic: from probe results and container states to the data path, in the caller's thread.
//!
//! A probe's verdict must reach the READY bit before anything else happens with it; so this is plain code under a lock, called
//! by the prober, and the pod's worker hears of it afterwards.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::model::Verdict;
use crate::{
    bpf::Readiness,
    probe::{ProbeEvent, ProbeKind, Verdict as ProbeVerdict},
};

type Apply = Box<dyn Fn(IpAddr, Readiness) + Send + Sync>;

/// The gate of one pod.
pub struct Gate {
    state: Mutex<State>,
    apply: Apply,
}

#[derive(Debug, Default)]
struct State {
    /// None while the gate's word is not complete.
    addresses: Vec<IpAddr>,
    terminating: bool,
    containers: BTreeMap<String, Container>,
    applied: Option<Readiness>,
}

#[derive(Debug, Default)]
struct Container {
    running: bool,
    attempt: u32,
    verdict: Verdict,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A closed gate for a pod with these containers (those for initialisation do not count); `apply` moves the bit of an address.
    pub fn new<'a>(
        containers: impl IntoIterator<Item = &'a str>,
        apply: impl Fn(IpAddr, Readiness) + Send + Sync + 'static,
    ) -> Self {
        let containers = containers
            .into_iter()
            .map(|name| (name.to_owned(), Container::default()))
            .collect();
        Self {
            state: Mutex::new(State {
                containers,
                ..State::default()
            }),
            apply: Box::new(apply),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the pod's addresses, once it has some.
    pub fn set_addresses(&self, addresses: &[IpAddr]) {
        let mut state = self.lock();
        if state.addresses != addresses {
            addresses.clone_into(&mut state.addresses);
            state.applied = None;
        }
        self.settle(&mut state);
    }

    /// The pod goes: no new connections if anybody else takes them.
    pub fn terminate(&self) {
        let mut state = self.lock();
        state.terminating = true;
        self.settle(&mut state);
    }

    /// Attempt `attempt` of a container runs, with `verdict` to begin with.
    pub fn running(&self, container: &str, attempt: u32, verdict: Verdict) {
        let mut state = self.lock();
        if let Some(container) = state.containers.get_mut(container) {
            *container = Container {
                running: true,
                attempt,
                verdict,
            };
        }
        self.settle(&mut state);
    }

    /// A container does not run.
    pub fn stopped(&self, container: &str) {
        let mut state = self.lock();
        if let Some(container) = state.containers.get_mut(container) {
            container.running = false;
            container.verdict.unhealthy = None;
        }
        self.settle(&mut state);
    }

    /// Takes a probe result of attempt `attempt`. Answers whether it changed a verdict.
    pub fn probed(&self, attempt: u32, event: &ProbeEvent) -> bool {
        let mut state = self.lock();
        let Some(container) = state.containers.get_mut(&event.container) else {
            return false;
        };
        if !container.running || container.attempt != attempt {
            return false;
        }
        let before = container.verdict.clone();
        match (event.kind, event.verdict) {
            (_, ProbeVerdict::Unknown) | (ProbeKind::Liveness, ProbeVerdict::Success) => {}
            (ProbeKind::Startup, ProbeVerdict::Success) => container.verdict.started = true,
            (ProbeKind::Readiness, verdict) => container.verdict.ready = verdict == ProbeVerdict::Success,
            (ProbeKind::Startup, ProbeVerdict::Failure) => unhealthy(container, "startup"),
            (ProbeKind::Liveness, ProbeVerdict::Failure) => unhealthy(container, "liveness"),
        }
        let changed = before != container.verdict;
        self.settle(&mut state);
        changed
    }

    /// The verdict on a container.
    pub fn verdict(&self, container: &str) -> Verdict {
        self.lock()
            .containers
            .get(container)
            .map(|container| container.verdict.clone())
            .unwrap_or_default()
    }

    /// Says the present state once more, even if it did not change: for a data path that was just set up.
    pub fn repeat(&self) {
        let mut state = self.lock();
        state.applied = None;
        self.settle(&mut state);
    }

    /// Whether the pod takes connections.
    pub fn is_ready(&self) -> bool {
        self.lock().ready()
    }

    fn settle(&self, state: &mut State) {
        let readiness = Readiness {
            ready: state.ready(),
            terminating: state.terminating,
        };
        if state.applied != Some(readiness) {
            state
                .addresses
                .iter()
                .for_each(|address| (self.apply)(*address, readiness));
            state.applied = Some(readiness);
        }
    }
}

impl State {
    fn ready(&self) -> bool {
        self.containers
            .values()
            .all(|container| container.running && container.verdict.started && container.verdict.ready)
    }
}

fn unhealthy(container: &mut Container, kind: &str) {
    container.verdict.unhealthy.get_or_insert_with(|| kind.to_owned());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 7));

    /// READY and TERMINATING as they were told, in order.
    type Seen = Arc<Mutex<Vec<(bool, bool)>>>;

    fn gate(containers: &[&str]) -> (Gate, Seen) {
        let seen = Seen::default();
        let log = Arc::clone(&seen);
        let gate = Gate::new(containers.iter().copied(), move |address, readiness| {
            assert_eq!(address, ADDRESS);
            log.lock().unwrap().push((readiness.ready, readiness.terminating));
        });
        gate.set_addresses(&[ADDRESS]);
        (gate, seen)
    }

    fn event(container: &str, kind: ProbeKind, verdict: ProbeVerdict) -> ProbeEvent {
        let ok = verdict == ProbeVerdict::Success;
        ProbeEvent {
            container: container.into(),
            kind,
            ok,
            verdict,
            changed: true,
            message: String::new(),
        }
    }

    fn unready() -> Verdict {
        Verdict {
            ready: false,
            ..Verdict::default()
        }
    }

    #[test]
    fn a_verdict_is_in_the_data_path_when_the_prober_goes_on() {
        let (gate, seen) = gate(&["web"]);
        gate.running("web", 0, unready());
        assert!(gate.probed(0, &event("web", ProbeKind::Readiness, ProbeVerdict::Success)));
        assert_eq!(seen.lock().unwrap().as_slice(), [(false, false), (true, false)]);
        assert!(!gate.probed(0, &event("web", ProbeKind::Readiness, ProbeVerdict::Success)));
        assert!(gate.probed(0, &event("web", ProbeKind::Readiness, ProbeVerdict::Failure)));
        assert_eq!(seen.lock().unwrap().last(), Some(&(false, false)));
    }

    #[test]
    fn all_addresses_of_a_pod_are_told() {
        let other: IpAddr = "fd00:244::7".parse().unwrap();
        let seen: Arc<Mutex<Vec<(IpAddr, bool)>>> = Arc::default();
        let log = Arc::clone(&seen);
        let gate = Gate::new(["web"], move |address, readiness| {
            log.lock().unwrap().push((address, readiness.ready));
        });
        gate.running("web", 0, Verdict::default());
        assert!(seen.lock().unwrap().is_empty());
        gate.set_addresses(&[ADDRESS, other]);
        gate.set_addresses(&[ADDRESS, other]);
        assert_eq!(seen.lock().unwrap().as_slice(), [(ADDRESS, true), (other, true)]);
    }

    #[test]
    fn every_container_must_run_and_be_ready() {
        let (gate, seen) = gate(&["web", "log"]);
        gate.running("web", 0, Verdict::default());
        assert!(!gate.is_ready());
        gate.running("log", 0, Verdict::default());
        assert!(gate.is_ready());
        gate.stopped("log");
        assert_eq!(
            seen.lock().unwrap().as_slice(),
            [(false, false), (true, false), (false, false)]
        );
    }

    #[test]
    fn results_of_an_earlier_attempt_do_not_count() {
        let (gate, _) = gate(&["web"]);
        gate.running("web", 1, unready());
        assert!(!gate.probed(0, &event("web", ProbeKind::Readiness, ProbeVerdict::Success)));
        assert!(!gate.is_ready());
    }

    #[test]
    fn start_up_comes_first_and_its_failure_or_livenesss_is_remembered() {
        let (gate, _) = gate(&["web"]);
        gate.running(
            "web",
            0,
            Verdict {
                started: false,
                ..Verdict::default()
            },
        );
        assert!(!gate.is_ready());
        gate.probed(0, &event("web", ProbeKind::Startup, ProbeVerdict::Success));
        assert!(gate.is_ready());
        assert!(gate.probed(0, &event("web", ProbeKind::Liveness, ProbeVerdict::Failure)));
        assert_eq!(gate.verdict("web").unhealthy.as_deref(), Some("liveness"));
        gate.stopped("web");
        assert_eq!(gate.verdict("web").unhealthy, None);
    }

    #[test]
    fn an_unknown_verdict_leaves_a_restarted_agents_pods_in_service() {
        let (gate, seen) = gate(&["web"]);
        gate.running("web", 3, Verdict::default());
        assert!(!gate.probed(3, &event("web", ProbeKind::Readiness, ProbeVerdict::Unknown)));
        gate.terminate();
        gate.repeat();
        assert_eq!(
            seen.lock().unwrap().as_slice(),
            [(false, false), (true, false), (true, true), (true, true)]
        );
    }
}
