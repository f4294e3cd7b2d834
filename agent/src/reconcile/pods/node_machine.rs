//! The real node behind [`Machine`]: runtime, image store, network, data path and probers put together.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::{
    execute::chain,
    machine::{Machine, MachineError},
};
use crate::{
    bpf::{Datapath, DesiredPod, HostedPorts, Readiness, ReadinessHandle},
    image::{Image, ImageError, ImageStore},
    net::{Network, PodNet, Tunnel, pod_link_name},
    probe::{ContainerProbes, ExecRunner, ProbeEvent, Prober},
    runtime::{ContainerSpec, ContainerState, ExecSpec, Runtime, RuntimeError, SandboxId, SandboxSpec, SandboxState},
};

/// Output of an exec probe that is kept for its message, in bytes.
const PROBE_OUTPUT: usize = 1024;

/// The node's parts.
#[derive(Clone)]
pub struct NodeMachine {
    /// Sandboxes and containers.
    pub runtime: Runtime,
    /// Images.
    pub images: ImageStore,
    /// Links and routes.
    pub network: Network,
    /// BPF maps and programs.
    pub datapath: Datapath,
    /// READY bits.
    pub readiness: ReadinessHandle,
    /// The node's addresses in its pod ranges.
    pub routers: Vec<IpAddr>,
    /// The node's tunnel.
    pub tunnel: Tunnel,
}

impl Machine for NodeMachine {
    type Probes = Prober;

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxState>, RuntimeError> {
        self.runtime.sandbox(id).await
    }

    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<(), MachineError> {
        self.runtime.create_sandbox(spec).await?;
        Ok(())
    }

    async fn attach(&self, id: &SandboxId, addresses: &[IpAddr]) -> Result<(), MachineError> {
        let state = self.runtime.sandbox(id).await?;
        let netns = state
            .as_ref()
            .and_then(SandboxState::netns_path)
            .ok_or(MachineError::NoHolder)?;
        let net = PodNet {
            netns,
            host_link: pod_link_name(&id.0),
            addresses: addresses.to_vec(),
            router_addresses: self.routers.clone(),
            mtu_bytes: self.tunnel.mtu_bytes,
        };
        let link = self.network.attach_pod(&net).await.map_err(MachineError::Network)?;
        for address in addresses {
            let pod = DesiredPod {
                address: *address,
                ifindex: link.ifindex,
                pod_mac: link.pod_mac,
                host_mac: link.host_mac,
            };
            self.datapath.add_pod(&pod).map_err(MachineError::Datapath)?;
        }
        self.datapath.attach_pod(link.ifindex).map_err(MachineError::Datapath)
    }

    async fn remove(&self, id: &SandboxId, addresses: &[IpAddr]) -> Result<(), MachineError> {
        let link = pod_link_name(&id.0);
        let mut failures: Vec<MachineError> = Vec::new();
        for address in addresses {
            let removed = self.datapath.remove_pod(*address);
            failures.extend(removed.err().map(MachineError::Datapath));
        }
        // Without its link there is no program to detach: the kernel did it.
        if let Ok(ifindex) = self.network.ifindex(&link).await {
            failures.extend(self.datapath.detach_pod(ifindex).err().map(MachineError::Datapath));
        }
        failures.extend(self.network.detach_pod(&link).await.err().map(MachineError::Network));
        failures.extend(self.runtime.remove_sandbox(id).await.err().map(MachineError::Remove));
        let mut failures = failures.into_iter();
        let first = failures.next();
        for other in failures {
            tracing::warn!(uid = %id, error = chain(&other), "removal of a pod's parts failed, will be tried again");
        }
        first.map_or(Ok(()), Err)
    }

    async fn image(&self, reference: &str) -> Result<Image, ImageError> {
        let (images, reference) = (self.images.clone(), reference.to_owned());
        match tokio::task::spawn_blocking(move || images.resolve(&reference)).await {
            Ok(answer) => answer,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn start(&self, id: &SandboxId, spec: ContainerSpec) -> Result<ContainerState, RuntimeError> {
        self.runtime.start_container(id, spec).await
    }

    async fn signal(&self, id: &SandboxId, container: &str, signal: i32) -> Result<(), RuntimeError> {
        self.runtime.signal(id, container, signal).await
    }

    fn probe(
        &self,
        id: &SandboxId,
        probes: ContainerProbes,
        report: impl Fn(ProbeEvent) + Send + Sync + 'static,
    ) -> Prober {
        let exec = Arc::new(Exec {
            runtime: self.runtime.clone(),
            id: id.clone(),
        });
        Prober::spawn(probes, exec, report)
    }

    fn set_readiness(&self, address: IpAddr, readiness: Readiness) {
        self.readiness.set_ready(address, readiness.ready);
        if readiness.terminating {
            self.readiness.set_terminating(address);
        }
    }

    fn forget_readiness(&self, address: IpAddr) {
        self.readiness.forget(address);
    }

    fn set_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr, readiness: Readiness) {
        self.readiness.set_hosted(hosted, address, readiness);
    }

    fn forget_hosted_readiness(&self, hosted: &HostedPorts, address: IpAddr) {
        self.readiness.forget_hosted(hosted, address);
    }
}

/// Runs exec probes in a pod's containers.
struct Exec {
    runtime: Runtime,
    id: SandboxId,
}

impl ExecRunner for Exec {
    fn exec(
        &self,
        container: &str,
        command: &[String],
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(i32, String), String>> {
        let (runtime, id, container) = (self.runtime.clone(), self.id.clone(), container.to_owned());
        let spec = ExecSpec {
            argv: command.to_vec(),
            timeout: Some(timeout),
            output_limit_bytes: PROBE_OUTPUT,
        };
        Box::pin(async move {
            let result = runtime
                .exec(&id, &container, spec)
                .await
                .map_err(|error| chain(&error))?;
            if result.timed_out {
                return Err(format!("command timed out after {timeout:?}"));
            }
            let output = if result.stderr.trim().is_empty() {
                result.stdout
            } else {
                result.stderr
            };
            let line = output.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Ok((result.exit_code, line.trim().to_owned()))
        })
    }
}
