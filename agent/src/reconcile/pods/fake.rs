//! A node made of values, for tests of the executor: it remembers what it was told, in order.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::machine::{Machine, MachineError};
use crate::{
    bpf::{HostedPorts, Readiness},
    image::{Image, ImageConfig, ImageError, Rootfs},
    probe::{ContainerProbes, ProbeEvent, ProbeKind, Verdict},
    runtime::{
        ContainerPhase, ContainerSpec, ContainerState, Exit, ExitReason, RuntimeError, SandboxId, SandboxSpec,
        SandboxState,
    },
};

type Report = Arc<dyn Fn(ProbeEvent) + Send + Sync>;

/// The node.
#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    log: Vec<String>,
    sandbox: Option<SandboxState>,
    missing_images: Vec<String>,
    failing_attaches: u32,
    reports: BTreeMap<String, Report>,
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done so far.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Forgets what was done.
    pub fn clear_log(&self) {
        self.lock().log.clear();
    }

    /// Images called `reference` are not in the store.
    pub fn lose_image(&self, reference: &str) {
        self.lock().missing_images.push(reference.to_owned());
    }

    /// The next `count` attaches fail.
    pub fn fail_attaches(&self, count: u32) {
        self.lock().failing_attaches = count;
    }

    /// Puts a sandbox there, as if made by an agent before.
    pub fn place(&self, sandbox: SandboxState) {
        self.lock().sandbox = Some(sandbox);
    }

    /// Ends the latest attempt of a container.
    pub fn end(&self, container: &str, exit_code: i32) {
        let mut state = self.lock();
        let latest = state
            .sandbox
            .iter_mut()
            .flat_map(|sandbox| &mut sandbox.containers)
            .rfind(|c| c.name == container);
        let now = SystemTime::now();
        latest.expect("a container").phase = ContainerPhase::Exited(Exit {
            exit_code,
            signal: 0,
            reason: if exit_code == 0 {
                ExitReason::Completed
            } else {
                ExitReason::Error
            },
            message: String::new(),
            started_at: now,
            finished_at: now,
        });
    }

    /// The holder dies, and with it everything in the sandbox.
    pub fn lose_sandbox(&self) {
        if let Some(sandbox) = &mut self.lock().sandbox {
            sandbox.holder = None;
            sandbox.containers.clear();
        }
    }

    /// Reports a probe result.
    pub fn report(&self, container: &str, kind: ProbeKind, ok: bool) {
        let report = self.lock().reports.get(container).cloned().expect("a prober");
        let verdict = if ok { Verdict::Success } else { Verdict::Failure };
        report(ProbeEvent {
            container: container.into(),
            kind,
            ok,
            verdict,
            changed: true,
            message: "seen".into(),
        });
    }
}

impl Machine for Fake {
    type Probes = ();

    async fn sandbox(&self, _: &SandboxId) -> Result<Option<SandboxState>, RuntimeError> {
        Ok(self.lock().sandbox.clone())
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<(), MachineError> {
        let mut state = self.lock();
        state.log.push(format!("create {}", spec.addresses[0]));
        state.sandbox = Some(SandboxState {
            id: spec.id(),
            spec: Some(spec),
            holder: Some(1),
            containers: Vec::new(),
        });
        Ok(())
    }

    async fn attach(&self, _: &SandboxId, addresses: &[IpAddr]) -> Result<(), MachineError> {
        let mut state = self.lock();
        if state.failing_attaches > 0 {
            state.failing_attaches -= 1;
            return Err(MachineError::NoHolder);
        }
        state.log.push(format!("attach {}", addresses[0]));
        Ok(())
    }

    async fn remove(&self, _: &SandboxId, _: &[IpAddr]) -> Result<(), MachineError> {
        let mut state = self.lock();
        state.log.push("remove".into());
        state.sandbox = None;
        Ok(())
    }

    async fn image(&self, reference: &str) -> Result<Image, ImageError> {
        if self.lock().missing_images.iter().any(|missing| missing == reference) {
            return Err(ImageError::NotFound(reference.to_owned()));
        }
        let config = ImageConfig {
            entrypoint: vec!["/demo".into()],
            ..ImageConfig::default()
        };
        let (id, digest) = ("sha256:1".into(), "sha256:2".into());
        Ok(Image {
            reference: reference.into(),
            id,
            digest,
            config,
            rootfs: Rootfs::default(),
        })
    }

    async fn start(&self, _: &SandboxId, spec: ContainerSpec) -> Result<ContainerState, RuntimeError> {
        let mut state = self.lock();
        state.log.push(format!("start {}/{}", spec.name, spec.attempt));
        let container = ContainerState {
            name: spec.name,
            attempt: spec.attempt,
            image: spec.image,
            image_id: spec.image_id,
            phase: ContainerPhase::Running {
                pid: 1,
                started_at: SystemTime::now(),
            },
        };
        state
            .sandbox
            .as_mut()
            .expect("a sandbox")
            .containers
            .push(container.clone());
        Ok(container)
    }

    async fn signal(&self, _: &SandboxId, container: &str, signal: i32) -> Result<(), RuntimeError> {
        self.lock().log.push(format!("signal {container} {signal}"));
        Ok(())
    }

    fn probe(
        &self,
        _: &SandboxId,
        probes: ContainerProbes,
        report: impl Fn(ProbeEvent) + Send + Sync + 'static,
    ) -> Self::Probes {
        self.lock().reports.insert(probes.container, Arc::new(report));
    }

    fn set_readiness(&self, _: IpAddr, readiness: Readiness) {
        self.lock().log.push(format!(
            "ready={} terminating={}",
            readiness.ready, readiness.terminating
        ));
    }

    fn forget_readiness(&self, address: IpAddr) {
        self.lock().log.push(format!("forget {address}"));
    }

    fn set_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr, readiness: Readiness) {
        let ports: Vec<_> = hosted.ports.iter().map(|(port, _)| port).collect();
        self.lock().log.push(format!(
            "{address} {ports:?} ready={} terminating={}",
            readiness.ready, readiness.terminating
        ));
    }

    fn forget_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr) {
        let pod = &hosted.pod;
        self.lock().log.push(format!("forget {pod} at {address}"));
    }
}
