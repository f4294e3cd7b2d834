//! What is probed, how, and what comes of it.

use std::{net::IpAddr, time::Duration};

/// A probe, with every default filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeSpec {
    /// What is done.
    pub action: ProbeAction,
    /// Time from the container's start to the first probe.
    pub initial_delay: Duration,
    /// Time between probes.
    pub period: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that make the verdict good.
    pub success_threshold: u32,
    /// Failures in a row that make the verdict bad.
    pub failure_threshold: u32,
}

impl ProbeSpec {
    /// A probe of `action` with Kubernetes' defaults.
    pub fn new(action: ProbeAction) -> Self {
        Self {
            action,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        }
    }
}

/// What a probe does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProbeAction {
    /// A GET; good for 200 ≤ status < 400.
    Http {
        /// Where to connect and what `Host` says; the pod's address when absent.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
        /// Further headers; `Host` here replaces the default one.
        headers: Vec<(String, String)>,
    },
    /// A TCP connection; good when it is accepted.
    Tcp {
        /// Where to connect; the pod's address when absent.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A command in the container; good when it exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The gRPC health service (`grpc.health.v1.Health/Check`); good when SERVING.
    Grpc {
        /// Port.
        port: u16,
        /// Service asked about; empty for the server as a whole.
        service: String,
    },
}

/// The probes of one running container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerProbes {
    /// Container name.
    pub container: String,
    /// Where HTTP, TCP and gRPC probes go.
    pub address: IpAddr,
    /// Until it succeeds, the other two are not run.
    pub startup: Option<ProbeSpec>,
    /// Bad verdict: the container is to be restarted.
    pub liveness: Option<ProbeSpec>,
    /// Verdict decides whether the container gets traffic.
    pub readiness: Option<ProbeSpec>,
}

/// Which of the three probes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ProbeKind {
    /// Has it started?
    Startup,
    /// Is it to be restarted?
    Liveness,
    /// May it get traffic?
    Readiness,
}

/// What a row of results comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not enough results yet. Readiness and startup count as bad, liveness as good.
    Unknown,
    /// `success_threshold` successes in a row.
    Success,
    /// `failure_threshold` failures in a row.
    Failure,
}

/// One result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeEvent {
    /// Container name.
    pub container: String,
    /// Which probe.
    pub kind: ProbeKind,
    /// This one result.
    pub ok: bool,
    /// What the results so far come to.
    pub verdict: Verdict,
    /// Whether this result changed the verdict.
    pub changed: bool,
    /// What was seen, for people ("HTTP status 503").
    pub message: String,
}
