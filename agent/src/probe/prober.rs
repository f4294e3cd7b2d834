//! The probe loops of one container.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::spec::{ContainerProbes, ProbeEvent};

/// Runs commands inside containers for exec probes.
pub trait ExecRunner: Send + Sync + 'static {
    /// Runs `command` in `container`, kills it after `timeout`, and answers its exit code and a line of its output, or why it
    /// could not be run.
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
}

impl Prober {
    /// Starts the probes. `report` is called with every result, on a runtime thread, the instant it is there: it must not
    /// block.
    pub fn spawn(
        probes: ContainerProbes,
        exec: Arc<dyn ExecRunner>,
        report: impl Fn(ProbeEvent) + Send + Sync + 'static,
    ) -> Self {
        todo!()
    }
}
