//! What the executor needs of the node, as one trait: so that its order of steps is testable without a kernel.

use std::{future::Future, net::IpAddr};

use crate::{
    bpf::{HostedPorts, Readiness},
    image::{Image, ImageError},
    probe::{ContainerProbes, ProbeEvent},
    runtime::{ContainerSpec, ContainerState, RemoveError, RuntimeError, SandboxId, SandboxSpec, SandboxState},
};

/// A step on the node failed.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Sandboxes and containers.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Removal of a sandbox.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The pod's network.
    #[error("setting up the pod network")]
    Network(#[source] crate::net::NetworkError),
    /// The pod's entry in the data path.
    #[error("setting up the pod's data path")]
    Datapath(#[source] crate::bpf::DatapathError),
    /// The sandbox to attach has no living holder.
    #[error("the sandbox has no living holder")]
    NoHolder,
}

/// Steps on the node. All of them may be repeated.
pub trait Machine: Send + Sync + 'static {
    /// The running probes of a container; dropping them stops them.
    type Probes: Send;

    /// The sandbox, if there is one.
    fn sandbox(&self, id: &SandboxId) -> impl Future<Output = Result<Option<SandboxState>, RuntimeError>> + Send;

    /// Makes the sandbox, or finds it.
    fn create_sandbox(&self, spec: SandboxSpec) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// Gives the living sandbox its network and data path, or finds them in order; disturbs no traffic.
    fn attach(&self, id: &SandboxId, addresses: &[IpAddr]) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// Removes data path, network and sandbox. Goes on after an error and reports the first.
    fn remove(&self, id: &SandboxId, addresses: &[IpAddr]) -> impl Future<Output = Result<(), MachineError>> + Send;

    /// The image called `reference`, from the node's store.
    fn image(&self, reference: &str) -> impl Future<Output = Result<Image, ImageError>> + Send;

    /// Starts an attempt at a container.
    fn start(
        &self,
        id: &SandboxId,
        spec: ContainerSpec,
    ) -> impl Future<Output = Result<ContainerState, RuntimeError>> + Send;

    /// Signals a container's first process.
    fn signal(
        &self,
        id: &SandboxId,
        container: &str,
        signal: i32,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Starts a container's probes.
    fn probe(
        &self,
        id: &SandboxId,
        probes: ContainerProbes,
        report: impl Fn(ProbeEvent) + Send + Sync + 'static,
    ) -> Self::Probes;

    /// Tells the data path whether the pod takes connections. Takes effect before it returns; does not block.
    fn set_readiness(&self, address: IpAddr, readiness: Readiness);

    /// Forgets what was said of an address that no pod has any more.
    fn forget_readiness(&self, address: IpAddr);

    /// As [`set_readiness`](Self::set_readiness), for a pod that has ports at an address of the node.
    fn set_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr, readiness: Readiness);

    /// Forgets what was said of a pod that has ports at an address of the node.
    fn forget_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr);
}
