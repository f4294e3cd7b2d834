//! What the agent counts. Labels are closed enums; names of services and pods never become labels of their own accord.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{probe::ProbeKind, runtime::ExitReason};

/// Counters of the pods.
#[derive(Clone, Debug, Default)]
pub struct PodMetrics {
    pods: Gauge,
    started: Counter,
    restarts: Counter,
    exits: Family<ExitLabels, Counter>,
    failures: Counter,
    probes: Family<ProbeLabels, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ExitLabels {
    reason: ExitLabel,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct ExitLabel(ExitReasonKey);

/// [`ExitReason`] as a key of a family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum ExitReasonKey {
    Completed,
    Error,
    OomKilled,
    StartError,
    Unknown,
}

impl EncodeLabelValue for ExitLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let text = match self.0 {
            ExitReasonKey::Completed => "Completed",
            ExitReasonKey::Error => "Error",
            ExitReasonKey::OomKilled => "OOMKilled",
            ExitReasonKey::StartError => "StartError",
            ExitReasonKey::Unknown => "ContainerStatusUnknown",
        };
        text.encode(encoder)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ProbeLabels {
    probe: ProbeLabel,
    result: ResultLabel,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum ProbeLabel {
    startup,
    liveness,
    readiness,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
enum ResultLabel {
    success,
    failure,
}

impl PodMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("pods", "Pods on this node, ending ones included", self.pods.clone());
        registry.register(
            "container_starts",
            "Containers started, restarts included",
            self.started.clone(),
        );
        registry.register(
            "container_restarts",
            "Containers started again after they had ended",
            self.restarts.clone(),
        );
        registry.register(
            "container_exits",
            "Containers that ended, by reason",
            self.exits.clone(),
        );
        registry.register(
            "pod_action_failures",
            "Steps for a pod that failed and are retried",
            self.failures.clone(),
        );
        registry.register(
            "probe_results",
            "Probe results, by probe and result",
            self.probes.clone(),
        );
    }

    /// Sets the number of pods.
    pub fn set_pods(&self, count: usize) {
        self.pods.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a started attempt.
    pub fn started(&self, attempt: u32) {
        self.started.inc();
        if attempt > 0 {
            self.restarts.inc();
        }
    }

    /// Counts the end of a container.
    pub fn exited(&self, reason: ExitReason) {
        let reason = ExitLabel(match reason {
            ExitReason::Completed => ExitReasonKey::Completed,
            ExitReason::Error => ExitReasonKey::Error,
            ExitReason::OomKilled => ExitReasonKey::OomKilled,
            ExitReason::StartError => ExitReasonKey::StartError,
            ExitReason::ContainerStatusUnknown => ExitReasonKey::Unknown,
        });
        self.exits.get_or_create(&ExitLabels { reason }).inc();
    }

    /// Counts a failed step.
    pub fn action_failed(&self) {
        self.failures.inc();
    }

    /// Counts a probe result.
    pub fn probed(&self, kind: ProbeKind, ok: bool) {
        let probe = match kind {
            ProbeKind::Startup => ProbeLabel::startup,
            ProbeKind::Liveness => ProbeLabel::liveness,
            ProbeKind::Readiness => ProbeLabel::readiness,
        };
        let result = if ok { ResultLabel::success } else { ResultLabel::failure };
        self.probes.get_or_create(&ProbeLabels { probe, result }).inc();
    }
}

/// Counters of the reconciliation of services and routes.
#[derive(Clone, Debug)]
pub struct SyncMetrics {
    duration: Family<SyncLabels, Histogram>,
    failures: Family<SyncLabels, Counter>,
    not_applied: Gauge,
    written: Counter,
    sockets_reset: Counter,
    resets_sockets: Gauge,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SyncLabels {
    what: Synced,
}

/// What a reconciliation pass was about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names are the label values")]
pub enum Synced {
    /// `SERVICES`, `SLOTS`, `BACKENDS`.
    services,
    /// `ROUTES`, and the kernel's.
    routes,
}

impl Default for SyncMetrics {
    fn default() -> Self {
        let buckets = || Histogram::new([0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]);
        Self {
            duration: Family::new_with_constructor(buckets),
            failures: Family::default(),
            not_applied: Gauge::default(),
            written: Counter::default(),
            sockets_reset: Counter::default(),
            resets_sockets: Gauge::default(),
        }
    }
}

impl SyncMetrics {
    /// Adds the metrics to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Time of a pass that brings the data path in line";
        registry.register_with_unit("sync_duration", help, Unit::Seconds, self.duration.clone());
        registry.register(
            "sync_failures",
            "Passes that failed and are retried",
            self.failures.clone(),
        );
        let help = "Service ports that the data path could not take";
        registry.register("services_not_applied", help, self.not_applied.clone());
        registry.register(
            "service_changes",
            "Service entries written or removed",
            self.written.clone(),
        );
        registry.register(
            "sockets_reset",
            "Sockets that were destroyed because their backend is gone",
            self.sockets_reset.clone(),
        );
        registry.register(
            "resets_sockets",
            "1 when the kernel lets the sockets of gone backends be destroyed, else 0",
            self.resets_sockets.clone(),
        );
    }

    /// Notes whether the kernel destroys sockets.
    pub fn resets_sockets(&self, can: bool) {
        self.resets_sockets.set(i64::from(can));
    }

    /// Counts destroyed sockets.
    pub fn sockets_reset(&self, count: usize) {
        self.sockets_reset.inc_by(count as u64);
    }

    /// Notes a pass.
    pub fn passed(&self, what: Synced, took: Duration, ok: bool) {
        self.duration
            .get_or_create(&SyncLabels { what })
            .observe(took.as_secs_f64());
        if !ok {
            self.failures.get_or_create(&SyncLabels { what }).inc();
        }
    }

    /// Notes what a pass over the services left undone and did.
    pub fn services(&self, not_applied: usize, written: usize) {
        self.not_applied.set(i64::try_from(not_applied).unwrap_or(i64::MAX));
        self.written.inc_by(written as u64);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn every_metric_has_a_help_text_and_closed_labels() {
        let mut registry = Registry::with_prefix("causeway_agent");
        let (pods, sync) = (PodMetrics::default(), SyncMetrics::default());
        pods.register(&mut registry);
        sync.register(&mut registry);
        pods.started(0);
        pods.started(1);
        pods.exited(ExitReason::OomKilled);
        pods.probed(ProbeKind::Readiness, false);
        sync.passed(Synced::services, Duration::from_millis(2), false);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "causeway_agent_container_starts_total 2",
            "causeway_agent_container_restarts_total 1",
            "causeway_agent_container_exits_total{reason=\"OOMKilled\"} 1",
            "causeway_agent_probe_results_total{probe=\"readiness\",result=\"failure\"} 1",
            "causeway_agent_sync_duration_seconds_count{what=\"services\"} 1",
            "causeway_agent_sync_failures_total{what=\"services\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(types, text.lines().filter(|line| line.starts_with("# HELP")).count());
    }
}
