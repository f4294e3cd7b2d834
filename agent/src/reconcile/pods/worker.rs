//! One pod's life: look, plan, act, report, wait; one task per pod, so two things never happen to one pod at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_proto::{
    Resource,
    event::EventType,
    v1::{Container, Pod, PodSpec, PodStatus},
};

use super::{
    backoff::Backoff,
    context::Context,
    gate::Gate,
    inbox::{self, Inbox},
    machine::Machine,
    model::{ContainerView, PodView, RestartPolicy, Run, Sandbox, Stopping, Termination, Trouble, Verdict},
    plan::plan,
    record::{ContainerRecord, Ending, Record},
    spec,
    status::status,
    writer::Writer,
};
use crate::runtime::{ContainerPhase, Exit, ExitReason, RuntimeError, SandboxId, SandboxState};

/// Everything is looked at again this often, whatever happens.
const FULL_PASS: Duration = Duration::from_secs(30);
/// A pod the API server has lost gets at most this long to end.
const GONE_GRACE: Duration = Duration::from_secs(2);

/// One pod's worker.
pub struct Worker<M: Machine> {
    pub(super) context: Arc<Context<M>>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) gate: Arc<Gate>,
    pub(super) id: SandboxId,
    pub(super) record: Record,
    /// The record as it is on disk.
    pub(super) saved: Option<Record>,
    pub(super) sandbox: Sandbox,
    pub(super) attached: bool,
    /// The data path was told that the pod goes.
    pub(super) marked: bool,
    pub(super) sandbox_failures: Backoff,
    pub(super) trouble: Option<Trouble>,
    pub(super) live: BTreeMap<String, Live<M>>,
    writer: Writer,
}

/// What is not worth keeping over a restart of the agent.
pub(super) struct Live<M: Machine> {
    pub start_failures: Backoff,
    pub trouble: Option<Trouble>,
    pub stopping: Option<Stopping>,
    /// Probes of the present run.
    pub probes: Option<M::Probes>,
}

impl<M: Machine> Default for Live<M> {
    fn default() -> Self {
        Self {
            start_failures: Backoff::default(),
            trouble: None,
            stopping: None,
            probes: None,
        }
    }
}

impl<M: Machine> Worker<M> {
    /// The worker of the pod in `record`, which is already on disk when it came from there.
    pub fn new(context: Arc<Context<M>>, inbox: Arc<Inbox>, record: Record, from_disk: bool) -> Self {
        let names: Vec<_> = containers(&record.pod)
            .iter()
            .map(|container| container.name.clone())
            .collect();
        let machine = Arc::clone(&context.machine);
        // The node's addresses are of many pods and of its own processes: a pod speaks for the ports that its manifest names.
        let hosted = spec::hosted_ports(&record.pod);
        let gate = Gate::new(
            names.iter().map(String::as_str),
            move |address, readiness| match &hosted {
                Some(hosted) => machine.set_hosted_readiness(hosted, address, readiness),
                None => machine.set_readiness(address, readiness),
            },
        );
        if record.ending.is_some() {
            gate.terminate();
        }
        let writer = Writer::start(context.client.clone(), Arc::clone(&inbox));
        Self {
            gate: Arc::new(gate),
            id: SandboxId(record.uid().to_owned()),
            saved: from_disk.then(|| record.clone()),
            marked: record.ending.is_some(),
            record,
            context,
            inbox,
            sandbox: Sandbox::Absent,
            attached: false,
            sandbox_failures: Backoff::default(),
            trouble: None,
            live: BTreeMap::new(),
            writer,
        }
    }

    /// Runs until nothing of the pod is left.
    #[tracing::instrument(name = "pod", skip_all, fields(pod = self.record.pod.key(), uid = self.record.uid()))]
    pub async fn run(mut self) {
        loop {
            self.read_inbox();
            let now = SystemTime::now();
            let wait = match self.observe(now).await {
                Ok(()) => {
                    let plan = plan(&self.view(), &self.context.delays, now);
                    self.report(now);
                    match self.execute(plan.actions).await {
                        Outcome::Nothing => plan.wake_in.unwrap_or(FULL_PASS).min(FULL_PASS),
                        Outcome::Failed => self.retry_delay(),
                        Outcome::Acted => continue,
                        Outcome::Forgotten => return,
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "sandbox cannot be looked at");
                    Duration::from_secs(1)
                }
            };
            // Nothing depends on this copy at once, unlike those saved before an action.
            self.save_or_warn().await;
            tokio::select! {
                () = self.inbox.woken() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes over what the API server says.
    fn read_inbox(&mut self) {
        let (newest, gone) = self.inbox.look();
        if let Some(newest) = newest
            && inbox::version(&newest) > inbox::version(&self.record.pod)
        {
            self.record.pod = newest;
        }
        let meta = self.record.pod.meta();
        let before = self.record.ending;
        let since = before.map_or_else(SystemTime::now, |ending| ending.since);
        if meta.is_terminating() {
            let seconds = meta
                .deletion_grace_period_seconds
                .unwrap_or_else(|| grace_seconds(&self.record.pod));
            let grace = Duration::from_secs(seconds.try_into().unwrap_or(0));
            let confirm = before.is_none_or(|ending| ending.confirm);
            self.record.ending = Some(Ending { since, grace, confirm });
        }
        if gone {
            let grace = Duration::from_secs(grace_seconds(&self.record.pod).try_into().unwrap_or(0)).min(GONE_GRACE);
            let grace = before.map_or(grace, |ending| ending.grace.min(grace));
            self.record.ending = Some(Ending {
                since,
                grace,
                confirm: false,
            });
        }
        if self.record.ending.is_some() && before.is_none() {
            tracing::info!("pod goes");
        }
    }

    /// Looks at the sandbox and brings record, gate and probes in line with it.
    async fn observe(&mut self, now: SystemTime) -> Result<(), RuntimeError> {
        let state = self.context.machine.sandbox(&self.id).await?;
        self.sandbox = match &state {
            None => Sandbox::Absent,
            Some(state) if state.holder.is_some() => Sandbox::Alive,
            Some(_) => Sandbox::Broken,
        };
        if self.sandbox != Sandbox::Alive {
            self.attached = false;
        }
        for (container, init) in all_containers(&self.record.pod) {
            self.observe_container(&container, init, state.as_ref(), now);
        }
        // Only now is the gate's word complete: an agent that starts must not take pods out of service.
        self.gate.set_addresses(&self.record.addresses);
        Ok(())
    }

    /// Time until a failed step is tried again.
    fn retry_delay(&self) -> Duration {
        self.context.delays.retry.delay(self.sandbox_failures.failures.max(2))
    }

    fn observe_container(&mut self, spec: &Container, init: bool, state: Option<&SandboxState>, now: SystemTime) {
        let alive = self.sandbox == Sandbox::Alive;
        let seen = state.and_then(|state| state.latest(&spec.name));
        let policy = self.context.delays.restart;
        let record = self.record.containers.entry(spec.name.clone()).or_default();
        let before = record.run.clone();
        // An earlier attempt than the one on record means that the start of the latter never came about.
        if let Some(seen) = seen.filter(|seen| seen.attempt >= record.restart_count) {
            record.restart_count = seen.attempt;
            record.image_id.clone_from(&seen.image_id);
            record.container_id = seen.id(&self.id);
            record.run = match &seen.phase {
                ContainerPhase::Starting => Run::Never,
                ContainerPhase::Running { started_at, .. } => Run::Running {
                    started_at: *started_at,
                },
                ContainerPhase::Exited(exit) => Run::Exited(exit.clone()),
            };
        }
        if let (Run::Running { started_at }, false) = (&record.run, alive) {
            record.run = Run::Exited(lost(*started_at, now));
        }
        let live = self.live.entry(spec.name.clone()).or_default();
        if let Run::Exited(exit) = &record.run
            && !matches!(before, Run::Exited(_))
        {
            tracing::info!(
                container = spec.name,
                exit_code = exit.exit_code,
                reason = exit.reason.as_str(),
                message = exit.message,
                "container ended"
            );
            self.context.metrics.exited(exit.reason);
            if RestartPolicy::of_container(&self.record.pod, init).restarts(exit) {
                record.crashes.fail(&policy, exit.finished_at.min(now), exit.ran());
                if !policy.delay(record.crashes.failures).is_zero() && self.record.ending.is_none() {
                    let message = format!("Back-off restarting failed container {}", spec.name);
                    self.context
                        .recorder
                        .record(&self.record.pod, EventType::Warning, "BackOff", message);
                }
            } else {
                record.crashes = Backoff::default();
            }
        }
        if matches!(record.run, Run::Running { .. }) {
            if live.probes.is_none() && !init {
                self.begin_probes(spec, now);
            }
        } else {
            live.probes = None;
            live.stopping = None;
            self.gate.stopped(&spec.name);
        }
        self.keep_verdict(&spec.name);
    }

    /// Copies the verdict to the record, for the next agent.
    fn keep_verdict(&mut self, container: &str) {
        let verdict = self.gate.verdict(container);
        if let Some(record) = self.record.containers.get_mut(container)
            && matches!(record.run, Run::Running { .. })
        {
            (record.started, record.ready) = (verdict.started, verdict.ready);
        }
    }

    /// What the planner is shown.
    fn view(&self) -> PodView<'_> {
        let spec = self.record.pod.spec.as_ref();
        let list = |containers: fn(&PodSpec) -> &Vec<Container>| {
            spec.map(containers)
                .into_iter()
                .flatten()
                .map(|container| self.container_view(container))
                .collect()
        };
        PodView {
            pod: &self.record.pod,
            addresses: &self.record.addresses,
            host_ips: &self.context.node.host_ips,
            start_time: self.record.start_time,
            sandbox: self.sandbox,
            attached: self.attached,
            sandbox_failures: self.sandbox_failures,
            trouble: self.trouble.clone(),
            termination: self.record.ending.map(|ending| Termination {
                since: ending.since,
                grace: ending.grace,
                marked: self.marked,
                listed: self.context.listings.list(&self.record.addresses),
                confirm: ending.confirm,
            }),
            init: list(|spec| &spec.init_containers),
            containers: list(|spec| &spec.containers),
        }
    }

    fn container_view<'a>(&'a self, spec: &'a Container) -> ContainerView<'a> {
        let ContainerRecord {
            run,
            last_exit,
            restart_count,
            crashes,
            image_id,
            container_id,
            ..
        } = self.record.containers.get(&spec.name).cloned().unwrap_or_default();
        let live = self.live.get(&spec.name);
        ContainerView {
            spec,
            run,
            last_exit,
            restart_count,
            crashes,
            start_failures: live.map(|live| live.start_failures).unwrap_or_default(),
            trouble: live.and_then(|live| live.trouble.clone()),
            verdict: self.gate.verdict(&spec.name),
            stopping: live.and_then(|live| live.stopping),
            image_id,
            container_id,
        }
    }

    /// Hands the status to the writer.
    fn report(&self, now: SystemTime) {
        let empty = PodStatus::default();
        let before = self.record.pod.status.as_ref().unwrap_or(&empty);
        let mut wanted = status(&self.view(), before, &self.context.delays.restart, now);
        if wanted.qos_class.is_empty()
            && let Some(Ok(qos)) = self.record.pod.spec.as_ref().map(spec::qos)
        {
            spec::qos_name(qos).clone_into(&mut wanted.qos_class);
        }
        self.writer.publish(&self.record.pod, wanted);
    }

    async fn save_or_warn(&mut self) {
        if let Err(error) = self.save().await {
            tracing::error!(error = &error as &dyn std::error::Error, "pod record not saved");
        }
    }
}

/// What came of a plan.
pub(super) enum Outcome {
    /// There was nothing to do now.
    Nothing,
    /// Something was done: plan anew.
    Acted,
    /// An action failed on which others depend.
    Failed,
    /// Nothing of the pod is left.
    Forgotten,
}

/// The verdict a run begins with: unfavourable where a probe has yet to speak.
pub(super) fn first_verdict(spec: &Container) -> Verdict {
    Verdict {
        started: spec.startup_probe.is_none(),
        ready: spec.readiness_probe.is_none(),
        unhealthy: None,
    }
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

/// Every container, and whether it is one for initialisation.
fn all_containers(pod: &Pod) -> Vec<(Container, bool)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().map(|container| (container.clone(), true));
    init.chain(spec.containers.iter().map(|container| (container.clone(), false)))
        .collect()
}

fn grace_seconds(pod: &Pod) -> i64 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30)
}

/// The end of a run that nobody saw.
fn lost(started_at: SystemTime, now: SystemTime) -> Exit {
    Exit {
        exit_code: 137,
        signal: 0,
        reason: ExitReason::ContainerStatusUnknown,
        message: "the pod's sandbox was lost".to_owned(),
        started_at,
        finished_at: now,
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
