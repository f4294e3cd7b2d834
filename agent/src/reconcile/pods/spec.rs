//! From a manifest to what the runtime and the prober are asked to do: pure conversions.

use std::{net::IpAddr, time::Duration};

use causeway_maps::Protocol;
use causeway_proto::v1::{
    Container, ContainerPort, IntOrString, Pod, PodSpec, Probe, ResourceRequirements, int_or_string,
};

use super::env::{self, EnvError, NodeFacts};
use crate::{
    bpf::HostedPorts,
    cgroup::Resources,
    image::Image,
    probe::{ContainerProbes, ProbeAction, ProbeSpec},
    runtime::{ContainerSpec, Qos, SandboxSpec, Security, UserSpec, oom_score_adj},
};

/// A container cannot be run as its manifest says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Its environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// Neither manifest nor image names a program.
    #[error("neither the container nor its image \"{0}\" says what to run")]
    NoCommand(String),
    /// A user or group id below 0 or above 2³²-1.
    #[error("{field} {id} is not a valid id")]
    Id {
        /// Field.
        field: &'static str,
        /// Value.
        id: i64,
    },
    /// Text is no quantity.
    #[error("{resource} \"{text}\" is not a quantity")]
    Quantity {
        /// "cpu" or "memory".
        resource: &'static str,
        /// Text.
        text: String,
    },
    /// A probe names a port the container does not declare.
    #[error("probe port \"{0}\" is not a port of the container")]
    Port(String),
    /// A probe without an action.
    #[error("a probe has no action")]
    NoAction,
}

/// What holds for every pod of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSettings {
    /// Name of the node, which is the host name of pods that use its network.
    pub name: String,
    /// Addresses of the node, the primary one (`status.hostIP`) first.
    pub host_ips: Vec<IpAddr>,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
    /// Text of the pods' `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Most processes and threads of one pod.
    pub pids_limit: Option<u64>,
}

/// The sandbox of a pod.
pub fn sandbox_spec(pod: &Pod, addresses: &[IpAddr], node: &NodeSettings) -> Result<SandboxSpec, ConfigError> {
    let meta = pod.metadata.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    Ok(SandboxSpec {
        hostname: hostname(&meta.name, &spec, node),
        uid: meta.uid,
        namespace: meta.namespace,
        name: meta.name,
        addresses: addresses.to_vec(),
        host_network: spec.host_network,
        resolv_conf: node.resolv_conf.clone(),
        resources: Resources {
            pids_limit: node.pids_limit,
            ..pod_resources(&spec)?
        },
    })
}

/// Whether a pod uses its node's network.
pub fn uses_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network)
}

/// The ports that a pod in its node's network names, those of its init containers aside; `None` for a pod in its own. The scheduler gives
/// a port of a node to one pod at a time. What a pod listens at without naming it is not known here.
pub fn hosted_ports(pod: &Pod) -> Option<HostedPorts> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network)?;
    let ports = spec.containers.iter().flat_map(|container| &container.ports);
    let ports = ports.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some((number, Protocol::from_name(&port.protocol)?))
    });
    Some(HostedPorts {
        pod: pod.metadata.as_ref().map(|meta| meta.uid.clone()).unwrap_or_default(),
        ports: ports.collect(),
    })
}

/// The pod's host name: its own wish or its name, cut to what a DNS label may hold; in the node's network, the node's.
fn hostname(name: &str, spec: &PodSpec, node: &NodeSettings) -> String {
    let whole = match spec.hostname.as_str() {
        _ if spec.host_network => &node.name,
        "" => name,
        wish => wish,
    };
    whole
        .chars()
        .take(63)
        .collect::<String>()
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// One attempt at a container.
pub fn container_spec(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &Image,
    addresses: &[IpAddr],
    node: &NodeSettings,
) -> Result<ContainerSpec, ConfigError> {
    let meta = pod.metadata.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let facts = NodeFacts {
        pod_ips: addresses,
        host_ips: &node.host_ips,
    };
    let mut variables = env::environment(pod, container, facts)?;
    if variables.iter().all(|(name, _)| name != "HOSTNAME") {
        variables.insert(0, ("HOSTNAME".to_owned(), hostname(&meta.name, &spec, node)));
    }
    let expand = |text: &String| {
        env::expand(text, |name| {
            variables
                .iter()
                .rfind(|(other, _)| other == name)
                .map(|(_, value)| value.clone())
        })
    };
    let command: Vec<_> = container.command.iter().map(expand).collect();
    let args: Vec<_> = container.args.iter().map(expand).collect();
    let command_line = image.config.argv(&command, &args);
    if command_line.is_empty() {
        return Err(ConfigError::NoCommand(container.image.clone()));
    }
    let cwd = if container.working_dir.is_empty() {
        &image.config.working_dir
    } else {
        &container.working_dir
    };
    let request = amount(container.resources.as_ref(), "memory", Bound::Request)?;
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone(),
        image_id: image.id.clone(),
        rootfs: image.rootfs.clone(),
        argv: command_line,
        env: image.config.environment(&variables),
        cwd: cwd.clone(),
        user: user(&spec, container, image)?,
        security: security(container),
        resources: container_resources(container)?,
        oom_score_adj: oom_score_adj(qos(&spec)?, request.unwrap_or(0), node.memory_bytes),
        mounts: Vec::new(),
    })
}

fn user(spec: &PodSpec, container: &Container, image: &Image) -> Result<UserSpec, ConfigError> {
    let id = |field, id: Option<i64>| {
        id.map(|id| u32::try_from(id).map_err(|_| ConfigError::Id { field, id }))
            .transpose()
    };
    let (own, pods) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let run_as_user = own
        .and_then(|own| own.run_as_user)
        .or_else(|| pods.and_then(|pods| pods.run_as_user));
    let run_as_group = own
        .and_then(|own| own.run_as_group)
        .or_else(|| pods.and_then(|pods| pods.run_as_group));
    Ok(UserSpec {
        image: image.config.user.clone(),
        run_as_user: id("runAsUser", run_as_user)?,
        run_as_group: id("runAsGroup", run_as_group)?,
    })
}

fn security(container: &Container) -> Security {
    let context = container.security_context.clone().unwrap_or_default();
    let capabilities = context.capabilities.unwrap_or_default();
    Security {
        privileged: context.privileged == Some(true),
        read_only_root: context.read_only_root_filesystem == Some(true),
        allow_privilege_escalation: context.allow_privilege_escalation == Some(true),
        add_capabilities: capabilities.add,
        drop_capabilities: capabilities.drop,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Limit,
    Request,
}

/// Thousandths of a processor ("cpu") or bytes ("memory"). A limit stands in for a request that is not there.
fn amount(
    resources: Option<&ResourceRequirements>,
    resource: &'static str,
    bound: Bound,
) -> Result<Option<u64>, ConfigError> {
    let Some(resources) = resources else { return Ok(None) };
    let quantity = match bound {
        Bound::Limit => resources.limits.get(resource),
        Bound::Request => resources
            .requests
            .get(resource)
            .or_else(|| resources.limits.get(resource)),
    };
    let Some(quantity) = quantity else { return Ok(None) };
    let bad = || ConfigError::Quantity {
        resource,
        text: quantity.value.clone(),
    };
    let amount = quantity.amount().map_err(|_| bad())?;
    let value = if resource == "cpu" {
        amount.milli()
    } else {
        i128::from(amount.value())
    };
    u64::try_from(value).map(Some).map_err(|_| bad())
}

fn container_resources(container: &Container) -> Result<Resources, ConfigError> {
    let own = container.resources.as_ref();
    Ok(Resources {
        cpu_limit_millis: amount(own, "cpu", Bound::Limit)?,
        cpu_request_millis: amount(own, "cpu", Bound::Request)?,
        memory_limit_bytes: amount(own, "memory", Bound::Limit)?,
        pids_limit: None,
    })
}

/// The pod's bounds: containers run together, init containers one by one; one container without a limit lifts the pod's.
fn pod_resources(spec: &PodSpec) -> Result<Resources, ConfigError> {
    let own: Vec<_> = spec
        .containers
        .iter()
        .map(container_resources)
        .collect::<Result<_, _>>()?;
    let init: Vec<_> = spec
        .init_containers
        .iter()
        .map(container_resources)
        .collect::<Result<_, _>>()?;
    let limit = |field: fn(&Resources) -> Option<u64>| {
        let together: Option<u64> = own.iter().map(field).sum();
        let alone: Option<Vec<u64>> = init.iter().map(field).collect();
        Some(together?.max(alone?.into_iter().max().unwrap_or(0)))
    };
    let requests = |list: &[Resources]| list.iter().filter_map(|r| r.cpu_request_millis).collect::<Vec<_>>();
    let (own_requests, init_requests) = (requests(&own), requests(&init));
    let request = own_requests
        .iter()
        .sum::<u64>()
        .max(init_requests.iter().copied().max().unwrap_or(0));
    let requested = !own_requests.is_empty() || !init_requests.is_empty();
    Ok(Resources {
        cpu_limit_millis: limit(|r| r.cpu_limit_millis),
        cpu_request_millis: requested.then_some(request),
        memory_limit_bytes: limit(|r| r.memory_limit_bytes),
        pids_limit: None,
    })
}

/// The pod's quality-of-service class, by Kubernetes' rules (pkg/apis/core/v1/helper/qos).
pub fn qos(spec: &PodSpec) -> Result<Qos, ConfigError> {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.init_containers.iter().chain(&spec.containers) {
        for resource in ["cpu", "memory"] {
            let limit = amount(container.resources.as_ref(), resource, Bound::Limit)?.filter(|amount| *amount > 0);
            let request = amount(container.resources.as_ref(), resource, Bound::Request)?.filter(|amount| *amount > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    Ok(match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    })
}

/// The class in the words of `status.qosClass`.
pub fn qos_name(qos: Qos) -> &'static str {
    match qos {
        Qos::Guaranteed => "Guaranteed",
        Qos::Burstable => "Burstable",
        Qos::BestEffort => "BestEffort",
    }
}

/// The probes of a container that has run for `running_for`; a container known to have `started` is not asked again.
pub fn container_probes(
    container: &Container,
    address: IpAddr,
    running_for: Duration,
    started: bool,
) -> Result<ContainerProbes, ConfigError> {
    let convert = |probe: &Option<Probe>| {
        probe
            .as_ref()
            .map(|probe| probe_spec(probe, &container.ports, running_for))
            .transpose()
    };
    Ok(ContainerProbes {
        container: container.name.clone(),
        address,
        startup: convert(&container.startup_probe)?.filter(|_| !started),
        liveness: convert(&container.liveness_probe)?,
        readiness: convert(&container.readiness_probe)?,
    })
}

fn probe_spec(probe: &Probe, ports: &[ContainerPort], running_for: Duration) -> Result<ProbeSpec, ConfigError> {
    let defaults = ProbeSpec::new(probe_action(probe, ports)?);
    let seconds = |value: Option<i32>| value.and_then(|v| u64::try_from(v).ok()).map(Duration::from_secs);
    let count = |value: Option<i32>, default| {
        value
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    let positive = |value: Option<i32>, default| seconds(value).filter(|d| !d.is_zero()).unwrap_or(default);
    Ok(ProbeSpec {
        initial_delay: seconds(probe.initial_delay_seconds)
            .unwrap_or_default()
            .saturating_sub(running_for),
        period: positive(probe.period_seconds, defaults.period),
        timeout: positive(probe.timeout_seconds, defaults.timeout),
        success_threshold: count(probe.success_threshold, defaults.success_threshold),
        failure_threshold: count(probe.failure_threshold, defaults.failure_threshold),
        ..defaults
    })
}

fn probe_action(probe: &Probe, ports: &[ContainerPort]) -> Result<ProbeAction, ConfigError> {
    let host = |host: &String| (!host.is_empty()).then(|| host.clone());
    if let Some(http) = &probe.http_get {
        return Ok(ProbeAction::Http {
            host: host(&http.host),
            port: port(http.port.as_ref(), ports)?,
            path: if http.path.is_empty() {
                "/".to_owned()
            } else {
                http.path.clone()
            },
            headers: http
                .http_headers
                .iter()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(ProbeAction::Tcp {
            host: host(&tcp.host),
            port: port(tcp.port.as_ref(), ports)?,
        });
    }
    if let Some(exec) = &probe.exec {
        return Ok(ProbeAction::Exec {
            command: exec.command.clone(),
        });
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| ConfigError::Port(grpc.port.to_string()))?;
        return Ok(ProbeAction::Grpc {
            port,
            service: grpc.service.clone(),
        });
    }
    Err(ConfigError::NoAction)
}

fn port(wanted: Option<&IntOrString>, ports: &[ContainerPort]) -> Result<u16, ConfigError> {
    let (number, name) = match wanted.and_then(|wanted| wanted.value.as_ref()) {
        Some(int_or_string::Value::IntValue(number)) => (Some(*number), number.to_string()),
        Some(int_or_string::Value::StringValue(name)) => (
            ports
                .iter()
                .find(|port| &port.name == name)
                .map(|port| port.container_port),
            name.clone(),
        ),
        None => (None, String::new()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or(ConfigError::Port(name))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
