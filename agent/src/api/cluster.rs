//! What the agent knows of the cluster, counted when it is asked for.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};

use crate::watch::Watches;

/// Phases of pods, as in their status; a pod without one is pending.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

/// Reads the local copies on each scrape.
#[derive(Debug)]
pub struct ClusterMetrics(Watches);

impl ClusterMetrics {
    /// Metrics of these copies.
    pub fn new(watches: Watches) -> Self {
        Self(watches)
    }
}

impl Collector for ClusterMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(watches) = self;
        let kind = || ConstGauge::new(0_u64).metric_type();
        let help = "Pods bound to this node, by phase";
        let mut family = encoder.encode_descriptor("pods_by_phase", help, None, kind())?;
        let pods = watches.pods.snapshot();
        let phases: Vec<&str> = pods
            .iter()
            .map(|pod| phase(pod.status.as_ref().map_or("", |status| &status.phase)))
            .collect();
        for phase in PHASES {
            let count = phases.iter().filter(|other| **other == phase).count() as u64;
            ConstGauge::new(count).encode(family.encode_family(&[("phase", phase)])?)?;
        }
        let help = "1 once everything was heard from the control plane, 0 before";
        let synced = ConstGauge::new(u64::from(watches.synced()));
        synced.encode(encoder.encode_descriptor("synced", help, None, kind())?)?;
        let help = "Objects of the cluster that the agent follows, by kind";
        let mut family = encoder.encode_descriptor("followed_objects", help, None, kind())?;
        for (name, count) in [
            ("Pod", pods.len()),
            ("Service", watches.services.snapshot().len()),
            ("Endpoints", watches.endpoints.snapshot().len()),
            ("Node", watches.nodes.snapshot().len()),
        ] {
            ConstGauge::new(count as u64).encode(family.encode_family(&[("kind", name)])?)?;
        }
        Ok(())
    }
}

fn phase(text: &str) -> &'static str {
    match text {
        "" => "Pending",
        text => PHASES.into_iter().find(|phase| *phase == text).unwrap_or("Unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_a_closed_set() {
        assert_eq!(phase(""), "Pending");
        assert_eq!(phase("Running"), "Running");
        assert_eq!(phase("Elsewhere"), "Unknown");
    }
}
