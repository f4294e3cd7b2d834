//! Carries out a pod's plan, one action after the other.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_proto::{
    Resource,
    client::{Client, DeleteOptions},
    event::EventType::{self, Normal, Warning},
    v1::{Container, Pod},
};

use super::{
    backoff::Backoff,
    machine::{Machine, MachineError},
    model::{Run, Stopping, Trouble, Verdict},
    plan::{Action, Cause},
    record::RecordError,
    spec,
    worker::{Live, Outcome, Worker, first_verdict},
};
use crate::{image::ImageError, probe::ProbeKind, runtime::RuntimeError};

/// An action failed; the pod is planned anew after a while.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Address(#[from] super::address::RangeFull),
    #[error(transparent)]
    Config(#[from] spec::ConfigError),
    #[error("deleting the pod at the control plane")]
    Confirm(#[source] causeway_proto::client::ClientError),
}

/// A container could not be started.
struct StartFailure {
    reason: &'static str,
    message: String,
}

impl<M: Machine> Worker<M> {
    /// Carries out `actions` in order, up to the first failure of one that others depend on.
    pub(super) async fn execute(&mut self, actions: Vec<Action>) -> Outcome {
        if actions.is_empty() {
            return Outcome::Nothing;
        }
        for action in actions {
            if action == Action::Forget {
                return match self.forget().await {
                    Ok(()) => Outcome::Forgotten,
                    Err(error) => self.failed(&action, &error),
                };
            }
            if let Err(error) = self.act(&action).await {
                return self.failed(&action, &error);
            }
        }
        Outcome::Acted
    }

    fn failed(&mut self, action: &Action, error: &ActionError) -> Outcome {
        let message = chain(error);
        let policy = self.context.delays.retry;
        self.sandbox_failures.fail(&policy, SystemTime::now(), Duration::ZERO);
        self.context.metrics.action_failed();
        match action {
            Action::AllocateAddress | Action::CreateSandbox | Action::AttachNetwork => {
                let message = format!("Failed to create pod sandbox: {message}");
                self.trouble = Some(Trouble {
                    reason: "FailedCreatePodSandBox".to_owned(),
                    message: message.clone(),
                });
                self.event(Warning, "FailedCreatePodSandBox", message);
            }
            Action::ConfirmDeletion => tracing::debug!(error = message, "deletion not confirmed yet"),
            _ => self.event(Warning, "FailedKillPod", format!("{action:?} failed: {message}")),
        }
        Outcome::Failed
    }

    async fn act(&mut self, action: &Action) -> Result<(), ActionError> {
        tracing::debug!(?action, "acting");
        match action {
            Action::AllocateAddress => {
                self.record.addresses = if self.uses_host_network() {
                    self.context.node.host_ips.clone()
                } else {
                    self.context.addresses.allocate(self.record.uid())?
                };
                // On disk before anybody can see them.
                self.save().await?;
                self.gate.set_addresses(&self.record.addresses);
            }
            Action::CreateSandbox => self.create_sandbox().await?,
            Action::AttachNetwork => {
                if !self.uses_host_network() {
                    self.context.machine.attach(&self.id, &self.record.addresses).await?;
                }
                self.attached = true;
                self.gate.repeat();
                self.sandbox_failures = Backoff::default();
                self.trouble = None;
            }
            Action::Start(name) => self.start(name).await?,
            Action::Terminate(name, cause) => self.terminate(name, cause).await,
            Action::Kill(name) => self.signal(name, nix::libc::SIGKILL).await,
            Action::MarkTerminating => {
                self.save().await?;
                self.gate.terminate();
                self.marked = true;
            }
            Action::RemoveSandbox => {
                self.live.values_mut().for_each(|live| live.probes = None);
                self.attached = false;
                let own: &[_] = if self.uses_host_network() {
                    &[]
                } else {
                    &self.record.addresses
                };
                self.context.machine.remove(&self.id, own).await?;
                // The addresses keep their verdict until they are given back: what the API server says of them is older.
                self.gate.repeat();
            }
            Action::ReleaseAddress => {
                self.gate.set_addresses(&[]);
                let addresses = std::mem::take(&mut self.record.addresses);
                self.save().await?;
                let (machine, hosted) = (&self.context.machine, spec::hosted_ports(&self.record.pod));
                for address in addresses {
                    match &hosted {
                        Some(hosted) => machine.forget_hosted_readiness(hosted, address),
                        None => machine.forget_readiness(address),
                    }
                }
                self.context.addresses.release(self.record.uid());
            }
            Action::ConfirmDeletion => confirm_deletion(&self.context.client, &self.record.pod).await?,
            Action::Forget => {}
        }
        Ok(())
    }

    fn uses_host_network(&self) -> bool {
        spec::uses_host_network(&self.record.pod)
    }

    async fn create_sandbox(&mut self) -> Result<(), ActionError> {
        let spec = spec::sandbox_spec(&self.record.pod, &self.record.addresses, &self.context.node)?;
        // A pod in a new sandbox begins with its init containers, whatever they did in an earlier one.
        for container in self.record.pod.spec.iter().flat_map(|spec| &spec.init_containers) {
            if let Some(record) = self.record.containers.get_mut(&container.name)
                && let Run::Exited(exit) = std::mem::take(&mut record.run)
            {
                record.last_exit = Some(exit);
                record.restart_count += 1;
            }
        }
        self.save().await?;
        self.context.machine.create_sandbox(spec).await?;
        Ok(())
    }

    /// Starts a container. What goes wrong is the container's own trouble and does not keep its pod's others from starting.
    async fn start(&mut self, name: &str) -> Result<(), ActionError> {
        let Some(container) = find(&self.record.pod, name).cloned() else {
            return Ok(());
        };
        let image = match image_of(&*self.context.machine, &container).await {
            Ok(image) => image,
            Err(failure) => {
                self.start_failed(name, &failure);
                return Ok(());
            }
        };
        let record = self.record.containers.entry(name.to_owned()).or_default();
        if let Run::Exited(exit) = std::mem::take(&mut record.run) {
            record.last_exit = Some(exit);
            record.restart_count += 1;
        }
        let Verdict { started, ready, .. } = first_verdict(&container);
        (record.started, record.ready) = (started, ready);
        // The attempt's number is on disk before the attempt, so that no number is used twice.
        self.save().await?;
        self.start_attempt(&container, image).await;
        Ok(())
    }

    async fn start_attempt(&mut self, container: &Container, image: crate::image::Image) {
        let name = &container.name;
        let attempt = self
            .record
            .containers
            .get(name)
            .map_or(0, |record| record.restart_count);
        let spec = match spec::container_spec(
            &self.record.pod,
            container,
            attempt,
            &image,
            &self.record.addresses,
            &self.context.node,
        ) {
            Ok(spec) => spec,
            Err(error) => {
                let failure = StartFailure {
                    reason: "CreateContainerConfigError",
                    message: chain(&error),
                };
                return self.start_failed(name, &failure);
            }
        };
        if attempt == 0 {
            self.event(
                Normal,
                "Pulled",
                format!("Container image \"{}\" already present on the node", container.image),
            );
            self.event(Normal, "Created", format!("Created container {name}"));
        }
        match self.context.machine.start(&self.id, spec).await {
            Ok(_) => {
                self.event(Normal, "Started", format!("Started container {name}"));
                self.context.metrics.started(attempt);
                self.live.insert(name.clone(), Live::default());
            }
            // The attempt is on record as ended: its repetition is a restart, with a restart's delays.
            Err(RuntimeError::Start { problem }) => {
                self.note_start_failure(name);
                self.event(Warning, "Failed", format!("Error: {problem}"));
            }
            Err(error) => {
                self.start_failed(
                    name,
                    &StartFailure {
                        reason: "CreateContainerError",
                        message: chain(&error),
                    },
                );
            }
        }
    }

    fn start_failed(&mut self, name: &str, failure: &StartFailure) {
        let live = self.note_start_failure(name);
        live.trouble = Some(Trouble {
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
        });
        self.context.metrics.action_failed();
        self.event(Warning, "Failed", format!("{}: {}", failure.reason, failure.message));
    }

    /// Holds back the next attempt for a while.
    fn note_start_failure(&mut self, name: &str) -> &mut Live<M> {
        let policy = self.context.delays.retry;
        let live = self.live.entry(name.to_owned()).or_default();
        live.start_failures.fail(&policy, SystemTime::now(), Duration::ZERO);
        // The first failure is not retried at once either.
        live.start_failures.failures = live.start_failures.failures.max(2);
        live
    }

    async fn terminate(&mut self, name: &str, cause: &Cause) {
        let message = match cause {
            Cause::Unhealthy(probe) => format!("Container {name} failed {probe} probe, will be restarted"),
            Cause::PodDeleted => format!("Stopping container {name}"),
        };
        self.event(Normal, "Killing", message);
        if *cause == Cause::PodDeleted {
            // What a process says of itself while it ends is nobody's concern.
            self.live.entry(name.to_owned()).or_default().probes = None;
        }
        self.signal(name, nix::libc::SIGTERM).await;
    }

    /// A signal that cannot be sent finds its process gone: the next look will show it.
    async fn signal(&mut self, name: &str, signal: i32) {
        let sent = self.context.machine.signal(&self.id, name, signal).await;
        if let Err(error) = sent
            && !matches!(
                error,
                RuntimeError::NotRunning { .. } | RuntimeError::NoContainer { .. }
            )
        {
            tracing::warn!(
                container = name,
                signal,
                error = &error as &dyn std::error::Error,
                "signal not sent"
            );
        }
        let live = self.live.entry(name.to_owned()).or_default();
        let since = live.stopping.map_or_else(SystemTime::now, |stopping| stopping.since);
        live.stopping = Some(Stopping {
            since,
            killed: signal == nix::libc::SIGKILL,
        });
    }

    async fn forget(&mut self) -> Result<(), ActionError> {
        let (records, uid) = (self.context.records.clone(), self.record.uid().to_owned());
        blocking(move || records.remove(&uid)).await?;
        tracing::info!("pod is gone");
        Ok(())
    }

    /// Writes the record, when it differs from what is on disk.
    pub(super) async fn save(&mut self) -> Result<(), RecordError> {
        if self.saved.as_ref() != Some(&self.record) {
            let (records, record) = (self.context.records.clone(), self.record.clone());
            blocking(move || records.save(&record)).await?;
            self.saved = Some(self.record.clone());
        }
        Ok(())
    }

    /// Starts the probes of a container that runs, on the verdict that is on record.
    pub(super) fn begin_probes(&mut self, container: &Container, now: SystemTime) {
        let Some(record) = self.record.containers.get(&container.name) else {
            return;
        };
        let (Run::Running { started_at }, Some(&address)) = (&record.run, self.record.addresses.first()) else {
            return;
        };
        // Without a probe the verdict is fixed, whatever is on record.
        let first = first_verdict(container);
        let (started, ready) = (record.started || first.started, record.ready || first.ready);
        let attempt = record.restart_count;
        self.gate.running(
            &container.name,
            attempt,
            Verdict {
                started,
                ready,
                unhealthy: None,
            },
        );
        if self.record.ending.is_some() {
            return;
        }
        let ran = now.duration_since(*started_at).unwrap_or_default();
        let probes = match spec::container_probes(container, address, ran, started) {
            Ok(probes) => probes,
            Err(error) => return self.event(Warning, "Failed", format!("probes of {}: {error}", container.name)),
        };
        let (gate, inbox, context) = (
            Arc::clone(&self.gate),
            Arc::clone(&self.inbox),
            Arc::clone(&self.context),
        );
        let about = crate::reconcile::events::reference(&self.record.pod);
        let report = move |event: crate::probe::ProbeEvent| {
            // The bit first; everything else may wait.
            let changed = gate.probed(attempt, &event);
            context.metrics.probed(event.kind, event.ok);
            if changed {
                inbox.wake();
            }
            if !event.ok {
                let kind = match event.kind {
                    ProbeKind::Startup => "Startup",
                    ProbeKind::Liveness => "Liveness",
                    ProbeKind::Readiness => "Readiness",
                };
                let message = format!("{kind} probe failed: {}", event.message);
                context
                    .recorder
                    .record_about(about.clone(), Warning, "Unhealthy", message);
            }
        };
        let probes = self.context.machine.probe(&self.id, probes, report);
        self.live.entry(container.name.clone()).or_default().probes = Some(probes);
    }

    fn event(&self, event_type: EventType, reason: &'static str, message: impl Into<String>) {
        self.context
            .recorder
            .record(&self.record.pod, event_type, reason, message);
    }
}

/// The container's image, from the node's store whatever the pull policy: there is nowhere to pull from.
async fn image_of<M: Machine>(machine: &M, container: &Container) -> Result<crate::image::Image, StartFailure> {
    match machine.image(&container.image).await {
        Ok(image) => Ok(image),
        Err(ImageError::NotFound(_)) if container.image_pull_policy == "Never" => Err(StartFailure {
            reason: "ErrImageNeverPull",
            message: format!(
                "image \"{}\" is not in the node's store and its pull policy is Never",
                container.image
            ),
        }),
        Err(ImageError::NotFound(_)) => Err(StartFailure {
            reason: "ErrImagePull",
            message: format!(
                "image \"{}\" is not in the node's store; import it with `causeway-agent image import`",
                container.image
            ),
        }),
        Err(error) => Err(StartFailure {
            reason: "ErrImagePull",
            message: chain(&error),
        }),
    }
}

/// Tells the API server that nothing of the pod runs any more.
async fn confirm_deletion(client: &Client, pod: &Pod) -> Result<(), ActionError> {
    let meta = pod.meta();
    let options = DeleteOptions::now().only_uid(&meta.uid);
    match client.delete::<Pod>(&meta.namespace, &meta.name, &options).await {
        Ok(_) => Ok(()),
        // Gone already, or another pod has the name now.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(ActionError::Confirm(error)),
    }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers
        .iter()
        .chain(&spec.containers)
        .find(|container| container.name == name)
}

/// Runs file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
