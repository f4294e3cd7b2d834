//! Rules of containers: image, environment, ports, resources, security.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use causeway_proto::v1::{Container, ContainerPort, EnvVar, Quantity, ResourceRequirements, SecurityContext};

use super::{
    field::{Path, Violations},
    names, probe,
};

/// Protocols that ports may have.
pub const PROTOCOLS: &[&str] = &["TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &["cpu", "memory"];

/// Fills in what Kubernetes fills in.
pub fn default(container: &mut Container) {
    if container.image_pull_policy.is_empty() {
        container.image_pull_policy = pull_policy_for(&container.image).into();
    }
    for port in &mut container.ports {
        default_protocol(&mut port.protocol);
    }
    for var in &mut container.env {
        if let Some(field) = var.value_from.as_mut().and_then(|from| from.field_ref.as_mut())
            && field.api_version.is_empty()
        {
            field.api_version = "v1".into();
        }
    }
    if let Some(resources) = &mut container.resources {
        for (name, limit) in &resources.limits {
            resources.requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ]
    .into_iter()
    .flatten()
    .for_each(probe::default);
}

/// TCP unless another is named.
pub fn default_protocol(protocol: &mut String) {
    if protocol.is_empty() {
        "TCP".clone_into(protocol);
    }
}

/// An image without tag or with `latest` may change under its name; others may not.
fn pull_policy_for(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// Checks the containers of a pod together, in one pass.
pub fn validate_all(containers: &[Container], init: &[Container], host_network: bool, spec: &Path, v: &mut Violations) {
    if containers.is_empty() {
        v.required(&spec.child("containers"), "");
    }
    let mut names = BTreeSet::new();
    for (field, list) in [("initContainers", init), ("containers", containers)] {
        for (at, container) in list.iter().enumerate() {
            let path = spec.child(field).index(at);
            validate(container, host_network, &path, v);
            if !container.name.is_empty() && !names.insert(container.name.as_str()) {
                v.duplicate(&path.child("name"), &container.name);
            }
        }
    }
    host_ports(containers, &spec.child("containers"), v);
    for (at, container) in init.iter().enumerate() {
        let path = spec.child("initContainers").index(at);
        for (field, probe) in [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ] {
            if probe.is_some() {
                v.forbidden(&path.child(field), "may not be set for init containers");
            }
        }
    }
}

fn validate(container: &Container, host_network: bool, path: &Path, v: &mut Violations) {
    if container.name.is_empty() {
        v.required(&path.child("name"), "");
    } else {
        v.invalid_each(
            &path.child("name"),
            &container.name,
            names::dns1123_label(&container.name),
        );
    }
    if container.image.is_empty() {
        v.required(&path.child("image"), "");
    } else if container.image.trim() != container.image {
        v.invalid(
            &path.child("image"),
            &container.image,
            "must not have leading or trailing whitespace",
        );
    }
    if !PULL_POLICIES.contains(&container.image_pull_policy.as_str()) {
        v.not_supported(
            &path.child("imagePullPolicy"),
            &container.image_pull_policy,
            PULL_POLICIES,
        );
    }
    if !container.working_dir.is_empty() && !container.working_dir.starts_with('/') {
        v.invalid(
            &path.child("workingDir"),
            &container.working_dir,
            "must be an absolute path",
        );
    }
    ports(container, host_network, &path.child("ports"), v);
    env(&container.env, &path.child("env"), v);
    if let Some(resources) = &container.resources {
        requirements(resources, &path.child("resources"), v);
    }
    if let Some(p) = &container.liveness_probe {
        probe::validate(p, container, probe::Use::Liveness, &path.child("livenessProbe"), v);
    }
    if let Some(p) = &container.readiness_probe {
        probe::validate(p, container, probe::Use::Readiness, &path.child("readinessProbe"), v);
    }
    if let Some(p) = &container.startup_probe {
        probe::validate(p, container, probe::Use::Startup, &path.child("startupProbe"), v);
    }
    if let Some(context) = &container.security_context {
        security(context, &path.child("securityContext"), v);
    }
}

/// Containers of a pod run together, so no two ports of theirs may be at one port of the node.
fn host_ports(containers: &[Container], path: &Path, v: &mut Violations) {
    let mut taken = BTreeSet::new();
    for (at, container) in containers.iter().enumerate() {
        for (port_at, port) in container.ports.iter().enumerate() {
            let place = (port.protocol.as_str(), port.host_ip.as_str(), port.host_port);
            if port.host_port != 0 && !taken.insert(place) {
                let path = path.index(at).child("ports").index(port_at).child("hostPort");
                let (protocol, address, number) = place;
                v.duplicate(&path, format!("{protocol}/{address}/{number}"));
            }
        }
    }
}

fn host_port(port: &ContainerPort, host_network: bool, path: &Path, v: &mut Violations) {
    if port.host_port != 0 {
        let path = path.child("hostPort");
        v.invalid_each(&path, port.host_port, names::port_number(port.host_port));
        if host_network && port.host_port != port.container_port {
            v.invalid(
                &path,
                port.host_port,
                "must match `containerPort` when `hostNetwork` is true",
            );
        }
    }
    if !port.host_ip.is_empty() {
        let path = path.child("hostIP");
        match port.host_ip.parse::<IpAddr>() {
            Err(_) => v.invalid(&path, &port.host_ip, "must be a valid IP address"),
            Ok(address) if address.is_loopback() && !host_network => {
                v.invalid(
                    &path,
                    &port.host_ip,
                    "a port at the node's loopback address is not supported",
                );
            }
            Ok(_) => {}
        }
    }
}

fn ports(container: &Container, host_network: bool, path: &Path, v: &mut Violations) {
    let mut names = BTreeSet::new();
    for (at, port) in container.ports.iter().enumerate() {
        let path = path.index(at);
        if !port.name.is_empty() {
            let broken = names::port_name(&port.name);
            if broken.is_empty() && !names.insert(port.name.as_str()) {
                v.duplicate(&path.child("name"), &port.name);
            }
            v.invalid_each(&path.child("name"), &port.name, broken);
        }
        if port.container_port == 0 {
            v.required(&path.child("containerPort"), "");
        } else {
            v.invalid_each(
                &path.child("containerPort"),
                port.container_port,
                names::port_number(port.container_port),
            );
        }
        protocol(&port.protocol, &path.child("protocol"), v);
        host_port(port, host_network, &path, v);
    }
}

/// Checks a protocol; says plainly that SCTP, which Kubernetes knows, is not balanced here.
pub fn protocol(protocol: &str, path: &Path, v: &mut Violations) {
    if protocol == "SCTP" {
        v.invalid(
            path,
            protocol,
            "SCTP is not supported by the data path, only TCP and UDP are",
        );
    } else if !PROTOCOLS.contains(&protocol) {
        v.not_supported(path, protocol, PROTOCOLS);
    }
}

fn env(vars: &[EnvVar], path: &Path, v: &mut Violations) {
    for (at, var) in vars.iter().enumerate() {
        let path = path.index(at);
        if var.name.is_empty() {
            v.required(&path.child("name"), "");
        } else {
            v.invalid_each(&path.child("name"), &var.name, names::env_var_name(&var.name));
        }
        let Some(from) = &var.value_from else { continue };
        let path = path.child("valueFrom");
        if !var.value.is_empty() {
            v.invalid(&path, "", "may not be specified when `value` is not empty");
        }
        let Some(field) = &from.field_ref else {
            v.invalid(&path, "", "must specify one of: `fieldRef`");
            continue;
        };
        let path = path.child("fieldRef");
        if field.api_version != "v1" {
            v.not_supported(&path.child("apiVersion"), &field.api_version, &["v1"]);
        }
        if field.field_path.is_empty() {
            v.required(&path.child("fieldPath"), "");
        } else if !is_field_path(&field.field_path) {
            v.not_supported(&path.child("fieldPath"), &field.field_path, FIELD_PATHS);
        }
    }
}

fn is_field_path(text: &str) -> bool {
    let subscript = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .and_then(|rest| rest.strip_suffix("']"));
    match subscript {
        Some(key) => names::qualified_name(key).is_empty(),
        None => FIELD_PATHS.contains(&text),
    }
}

fn requirements(resources: &ResourceRequirements, path: &Path, v: &mut Violations) {
    amounts(&resources.limits, &path.child("limits"), v);
    amounts(&resources.requests, &path.child("requests"), v);
    for (name, request) in &resources.requests {
        let Some(limit) = resources.limits.get(name) else {
            continue;
        };
        if let (Ok(requested), Ok(limited)) = (request.amount(), limit.amount())
            && requested > limited
        {
            let rule = format!("must be less than or equal to {name} limit of {}", limit.value);
            v.invalid(&path.child("requests"), &request.value, &rule);
        }
    }
}

fn amounts(amounts: &BTreeMap<String, Quantity>, path: &Path, v: &mut Violations) {
    for (name, amount) in amounts {
        let path = path.key(name);
        if !RESOURCES.contains(&name.as_str()) {
            v.not_supported(&path, name, RESOURCES);
        }
        quantity(amount, &path, v);
    }
}

/// Checks an amount of a resource.
pub fn quantity(amount: &Quantity, path: &Path, v: &mut Violations) {
    match amount.amount() {
        Err(error) => v.invalid(path, &amount.value, &error.to_string()),
        Ok(number) if number.is_negative() => v.invalid(path, &amount.value, "must be greater than or equal to 0"),
        Ok(_) => {}
    }
}

fn security(context: &SecurityContext, path: &Path, v: &mut Violations) {
    ids(context.run_as_user, context.run_as_group, path, v);
    if context.privileged == Some(true) && context.allow_privilege_escalation == Some(false) {
        v.invalid(
            path,
            "",
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}

/// Checks user and group ids.
pub fn ids(user: Option<i64>, group: Option<i64>, path: &Path, v: &mut Violations) {
    for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
        if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            v.invalid(&path.child(field), id, "must be between 0 and 2147483647, inclusive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_may_change_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy_for(image), policy, "{image}");
        }
    }

    #[test]
    fn field_paths_may_name_labels() {
        assert!(is_field_path("status.podIP"));
        assert!(is_field_path("metadata.labels['app.kubernetes.io/name']"));
        assert!(!is_field_path("metadata.labels['a b']"));
        assert!(!is_field_path("metadata.labels"));
        assert!(!is_field_path("spec.containers"));
    }
}
