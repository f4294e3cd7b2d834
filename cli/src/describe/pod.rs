//! Pods in detail.

use causeway_proto::{
    Resource as _,
    v1::{
        Container, ContainerState, ContainerStatus, EnvVar, Pod, PodSpec, PodStatus, Probe, ResourceRequirements,
        Toleration,
    },
};
use prost_types::Timestamp;

use super::{
    Related,
    meta::{self, time},
    text::Entry,
};
use crate::columns::{pod::status as status_word, service::protocol};

/// A pod with all its containers.
pub fn describe(pod: &Pod, related: &Related) -> Vec<Entry> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let mut entries = meta::describe(pod.meta(), related);
    entries.extend([
        Entry::field("Node", node(&spec, &status)),
        Entry::field("Status", status_word(pod)),
        Entry::field("IP", &status.pod_ip),
        Entry::field("Started", time(status.start_time.as_ref(), &related.now)),
    ]);
    for (label, text) in [("Reason", &status.reason), ("Message", &status.message)] {
        if !text.is_empty() {
            entries.push(Entry::field(label, text));
        }
    }
    if !spec.init_containers.is_empty() {
        let containers = containers(&spec.init_containers, &status.init_container_statuses, &related.now);
        entries.push(Entry::section("Init Containers", containers));
    }
    entries.push(Entry::section(
        "Containers",
        containers(&spec.containers, &status.container_statuses, &related.now),
    ));
    entries.push(meta::conditions(&status.conditions, &related.now));
    entries.push(Entry::field("QoS Class", &status.qos_class));
    entries.push(Entry::field("Restart Policy", &spec.restart_policy));
    let grace = spec
        .termination_grace_period_seconds
        .map(|seconds| format!("{seconds}s"))
        .unwrap_or_default();
    entries.push(Entry::field("Grace Period", grace));
    entries.push(Entry::fields(
        "Node-Selectors",
        spec.node_selector.iter().map(|(key, value)| format!("{key}={value}")),
    ));
    entries.push(Entry::fields("Tolerations", spec.tolerations.iter().map(toleration)));
    entries
}

fn node(spec: &PodSpec, status: &PodStatus) -> String {
    match (&*spec.node_name, &*status.host_ip) {
        (name, "") => name.to_owned(),
        (name, address) => format!("{name}/{address}"),
    }
}

fn containers(containers: &[Container], statuses: &[ContainerStatus], now: &Timestamp) -> Vec<Entry> {
    let of = |name: &str| statuses.iter().find(|status| status.name == name);
    containers
        .iter()
        .map(|one| Entry::section(&one.name, container(one, of(&one.name), now)))
        .collect()
}

fn container(container: &Container, status: Option<&ContainerStatus>, now: &Timestamp) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Some(status) = status {
        entries.push(Entry::field("Container ID", &status.container_id));
    }
    entries.push(Entry::field("Image", &container.image));
    if let Some(status) = status.filter(|status| !status.image_id.is_empty()) {
        entries.push(Entry::field("Image ID", &status.image_id));
    }
    let port = |port: &causeway_proto::v1::ContainerPort| {
        let name = if port.name.is_empty() {
            String::new()
        } else {
            format!(" ({})", port.name)
        };
        format!("{}/{}{name}", port.container_port, protocol(&port.protocol))
    };
    entries.push(Entry::fields("Ports", container.ports.iter().map(port)));
    for (label, words) in [("Command", &container.command), ("Args", &container.args)] {
        if !words.is_empty() {
            entries.push(Entry::fields(label, words.iter().cloned()));
        }
    }
    let status = status.cloned().unwrap_or_default();
    entries.extend(state("State", status.state.as_ref(), now));
    if status
        .last_state
        .as_ref()
        .is_some_and(|state| *state != ContainerState::default())
    {
        entries.extend(state("Last State", status.last_state.as_ref(), now));
    }
    entries.push(Entry::field("Ready", if status.ready { "True" } else { "False" }));
    entries.push(Entry::field("Restart Count", status.restart_count.to_string()));
    entries.extend(resources(container.resources.as_ref()));
    let probes = [
        ("Startup", &container.startup_probe),
        ("Liveness", &container.liveness_probe),
        ("Readiness", &container.readiness_probe),
    ];
    entries.extend(
        probes
            .iter()
            .filter_map(|(label, of)| of.as_ref().map(|of| Entry::field(label, probe(of)))),
    );
    entries.push(Entry::fields("Environment", container.env.iter().map(variable)));
    entries
}

/// The state's word, and below it what is known of it.
fn state(label: &str, state: Option<&ContainerState>, now: &Timestamp) -> Vec<Entry> {
    let mut lines = Vec::new();
    let mut add = |label: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{label}: {value}"));
        }
    };
    let word = match state {
        Some(ContainerState {
            running: Some(running), ..
        }) => {
            add("Started", &time(running.started_at.as_ref(), now));
            "Running"
        }
        Some(ContainerState {
            terminated: Some(ended),
            ..
        }) => {
            add("Reason", &ended.reason);
            add("Message", &ended.message);
            add("Exit Code", &ended.exit_code.to_string());
            if ended.signal != 0 {
                add("Signal", &ended.signal.to_string());
            }
            add("Started", &time(ended.started_at.as_ref(), now));
            add("Finished", &time(ended.finished_at.as_ref(), now));
            "Terminated"
        }
        other => {
            let waiting = other.and_then(|state| state.waiting.clone()).unwrap_or_default();
            add("Reason", &waiting.reason);
            add("Message", &waiting.message);
            "Waiting"
        }
    };
    let mut values = vec![word.to_owned()];
    values.extend(lines.into_iter().map(|line| format!("  {line}")));
    vec![Entry::fields(label, values)]
}

fn resources(resources: Option<&ResourceRequirements>) -> Vec<Entry> {
    let Some(resources) = resources else { return Vec::new() };
    let list = |quantities: &std::collections::BTreeMap<String, causeway_proto::v1::Quantity>| {
        quantities
            .iter()
            .map(|(name, quantity)| format!("{name}: {}", quantity.value))
            .collect::<Vec<_>>()
    };
    let both = [
        ("Limits", list(&resources.limits)),
        ("Requests", list(&resources.requests)),
    ];
    both.into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(label, list)| Entry::fields(label, list))
        .collect()
}

/// "http-get http://:http/healthz delay=0s timeout=1s period=10s #success=1 #failure=3", as kubectl writes it. What the
/// server has not defaulted shows the defaults of the API.
fn probe(probe: &Probe) -> String {
    let action = if let Some(http) = &probe.http_get {
        let scheme = if http.scheme.is_empty() {
            "http".to_owned()
        } else {
            http.scheme.to_lowercase()
        };
        let port = http.port.clone().unwrap_or_default();
        format!("http-get {scheme}://{}:{port}{}", http.host, http.path)
    } else if let Some(tcp) = &probe.tcp_socket {
        format!("tcp-socket {}:{}", tcp.host, tcp.port.clone().unwrap_or_default())
    } else if let Some(exec) = &probe.exec {
        format!("exec [{}]", exec.command.join(" "))
    } else if let Some(grpc) = &probe.grpc {
        format!("grpc :{} {}", grpc.port, grpc.service)
    } else {
        "unknown".to_owned()
    };
    format!(
        "{} delay={}s timeout={}s period={}s #success={} #failure={}",
        action.trim_end(),
        probe.initial_delay_seconds.unwrap_or(0),
        probe.timeout_seconds.unwrap_or(1),
        probe.period_seconds.unwrap_or(10),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3),
    )
}

fn variable(variable: &EnvVar) -> String {
    let reference = variable
        .value_from
        .as_ref()
        .and_then(|source| source.field_ref.as_ref());
    match reference {
        Some(field) => format!("{}: ({})", variable.name, field.field_path),
        None => format!("{}: {}", variable.name, variable.value),
    }
}

fn toleration(toleration: &Toleration) -> String {
    let mut text = toleration.key.clone();
    if !toleration.value.is_empty() {
        text.push('=');
        text.push_str(&toleration.value);
    }
    if !toleration.effect.is_empty() {
        text.push(':');
        text.push_str(&toleration.effect);
    }
    if toleration.operator == "Exists" {
        text.push_str(" op=Exists");
    }
    if let Some(seconds) = toleration.toleration_seconds {
        return format!("{text} for {seconds}s");
    }
    text
}
