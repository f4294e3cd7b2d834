//! Pods, and the pod templates of controllers.

use std::collections::BTreeMap;

use causeway_proto::{
    quantity::Amount,
    v1::{Pod, PodSpec, PodStatus, Quantity, ResourceRequirements, Toleration},
};

use super::{
    container,
    field::{Path, Violations},
    names,
};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const DEFAULT_GRACE_PERIOD_SECONDS: i64 = 30;

/// Fills in what Kubernetes fills in.
pub fn default_spec(spec: &mut PodSpec) {
    if spec.restart_policy.is_empty() {
        spec.restart_policy = "Always".into();
    }
    if spec.scheduler_name.is_empty() {
        spec.scheduler_name = "default-scheduler".into();
    }
    spec.termination_grace_period_seconds
        .get_or_insert(DEFAULT_GRACE_PERIOD_SECONDS);
    spec.containers
        .iter_mut()
        .chain(&mut spec.init_containers)
        .for_each(container::default);
    if spec.host_network {
        // Its ports are the node's, whether or not it says so.
        let containers = spec.containers.iter_mut().chain(&mut spec.init_containers);
        for port in containers.flat_map(|container| &mut container.ports) {
            if port.host_port == 0 {
                port.host_port = port.container_port;
            }
        }
    }
}

/// A new pod is pending, whatever status it came with.
pub fn prepare_create(pod: &mut Pod) {
    default_spec(pod.spec.get_or_insert_default());
    let qos_class = qos_class(pod.spec.as_ref()).into();
    pod.status = Some(PodStatus {
        phase: "Pending".into(),
        qos_class,
        ..Default::default()
    });
}

/// Checks a pod specification below `path`.
pub fn validate_spec(spec: &PodSpec, path: &Path, v: &mut Violations) {
    container::validate_all(&spec.containers, &spec.init_containers, spec.host_network, path, v);
    if !RESTART_POLICIES.contains(&spec.restart_policy.as_str()) {
        v.not_supported(&path.child("restartPolicy"), &spec.restart_policy, RESTART_POLICIES);
    }
    v.at_least(
        &path.child("terminationGracePeriodSeconds"),
        spec.termination_grace_period_seconds,
        0,
    );
    super::meta::labels(&spec.node_selector, &path.child("nodeSelector"), v);
    if !spec.node_name.is_empty() {
        v.invalid_each(
            &path.child("nodeName"),
            &spec.node_name,
            names::dns1123_subdomain(&spec.node_name),
        );
    }
    v.invalid_each(
        &path.child("schedulerName"),
        &spec.scheduler_name,
        names::dns1123_subdomain(&spec.scheduler_name),
    );
    if !spec.hostname.is_empty() {
        v.invalid_each(
            &path.child("hostname"),
            &spec.hostname,
            names::dns1123_label(&spec.hostname),
        );
    }
    for (at, toleration) in spec.tolerations.iter().enumerate() {
        validate_toleration(toleration, &path.child("tolerations").index(at), v);
    }
    if let Some(context) = &spec.security_context {
        container::ids(
            context.run_as_user,
            context.run_as_group,
            &path.child("securityContext"),
            v,
        );
    }
}

fn validate_toleration(toleration: &Toleration, path: &Path, v: &mut Violations) {
    if !toleration.key.is_empty() {
        v.invalid_each(
            &path.child("key"),
            &toleration.key,
            names::qualified_name(&toleration.key),
        );
    }
    if toleration.key.is_empty() && toleration.operator != "Exists" {
        v.invalid(
            &path.child("operator"),
            &toleration.operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if toleration.toleration_seconds.is_some() && toleration.effect != "NoExecute" {
        v.invalid(
            &path.child("effect"),
            &toleration.effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match toleration.operator.as_str() {
        "" | "Equal" => {
            v.invalid_each(
                &path.child("operator"),
                &toleration.value,
                names::label_value(&toleration.value),
            );
        }
        "Exists" if !toleration.value.is_empty() => {
            v.invalid(
                &path.child("operator"),
                &toleration.value,
                "value must be empty when `operator` is 'Exists'",
            );
        }
        "Exists" => {}
        other => v.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    if !toleration.effect.is_empty() && !TAINT_EFFECTS.contains(&toleration.effect.as_str()) {
        v.not_supported(&path.child("effect"), &toleration.effect, TAINT_EFFECTS);
    }
}

/// Checks a new pod.
pub fn validate(pod: &Pod, v: &mut Violations) {
    let path = Path::new("spec");
    match &pod.spec {
        Some(spec) => validate_spec(spec, &path, v),
        None => v.required(&path, ""),
    }
}

/// Checks that of a pod's specification only images changed, and tolerations were only added.
pub fn validate_update(new: &Pod, old: &Pod, v: &mut Violations) {
    let path = Path::new("spec");
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return;
    };
    let mut expected = old.clone();
    let pairs = [
        (&mut expected.containers, &new.containers),
        (&mut expected.init_containers, &new.init_containers),
    ];
    for (expected, new) in pairs {
        for (expected, new) in expected.iter_mut().zip(new) {
            expected.image.clone_from(&new.image);
        }
    }
    if old
        .tolerations
        .iter()
        .all(|toleration| new.tolerations.contains(toleration))
    {
        expected.tolerations.clone_from(&new.tolerations);
    }
    if expected != *new {
        v.forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image` and \
             `spec.tolerations` (only additions to existing tolerations)",
        );
    }
}

/// Guaranteed when every container's requests equal its limits for CPU and memory, `BestEffort` when none has either,
/// else Burstable (Kubernetes' `ComputePodQOS`).
pub fn qos_class(spec: Option<&PodSpec>) -> &'static str {
    let Some(spec) = spec else { return "BestEffort" };
    let none = ResourceRequirements::default();
    let all = || {
        spec.containers
            .iter()
            .chain(&spec.init_containers)
            .map(|c| c.resources.as_ref().unwrap_or(&none))
    };
    if all().all(|r| is_zero(&r.limits) && is_zero(&r.requests)) {
        return "BestEffort";
    }
    let guaranteed = all().all(|r| {
        ["cpu", "memory"].iter().all(|name| {
            let (Some(limit), Some(request)) = (r.limits.get(*name), r.requests.get(*name)) else {
                return false;
            };
            match (limit.amount(), request.amount()) {
                (Ok(limit), Ok(request)) => limit == request && !limit.is_zero(),
                _ => false,
            }
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

fn is_zero(amounts: &BTreeMap<String, Quantity>) -> bool {
    amounts
        .values()
        .all(|amount| amount.amount().is_ok_and(Amount::is_zero))
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector};

    use super::{super::field::texts, *};

    fn pod() -> Pod {
        let container = Container {
            name: "web".into(),
            image: "nginx:1".into(),
            ..Default::default()
        };
        let mut pod = Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..Default::default()
            }),
            ..Default::default()
        };
        prepare_create(&mut pod);
        pod
    }

    fn check(pod: &Pod) -> Vec<String> {
        let mut v = Violations::default();
        validate(pod, &mut v);
        texts(v)
    }

    fn resources(limits: &[(&str, &str)], requests: &[(&str, &str)]) -> ResourceRequirements {
        let map = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(name, value)| ((*name).into(), Quantity { value: (*value).into() }))
                .collect()
        };
        ResourceRequirements {
            limits: map(limits),
            requests: map(requests),
        }
    }

    #[test]
    fn a_minimal_pod_is_filled_in_and_valid() {
        let pod = pod();
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.restart_policy, "Always");
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.scheduler_name, "default-scheduler");
        assert_eq!(spec.containers[0].image_pull_policy, "IfNotPresent");
        assert_eq!(pod.status.as_ref().unwrap().phase, "Pending");
        assert_eq!(pod.status.as_ref().unwrap().qos_class, "BestEffort");
        assert!(check(&pod).is_empty());
    }

    #[test]
    fn every_violation_is_told_with_its_path() {
        let mut bad = pod();
        let spec = bad.spec.as_mut().unwrap();
        spec.restart_policy = "always".into();
        spec.hostname = "A".into();
        spec.node_selector.insert("a b".into(), String::new());
        spec.tolerations = vec![
            Toleration::default(),
            Toleration {
                operator: "Is".into(),
                key: "k".into(),
                ..Default::default()
            },
        ];
        let container = &mut spec.containers[0];
        container.image = String::new();
        container.working_dir = "tmp".into();
        container.image_pull_policy = "Sometimes".into();
        container.env = vec![
            EnvVar {
                name: "1".into(),
                ..Default::default()
            },
            EnvVar {
                name: "IP".into(),
                value: "x".into(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: "v1".into(),
                        field_path: "spec.ip".into(),
                    }),
                }),
            },
        ];
        let port = |name: &str, container_port, protocol: &str| ContainerPort {
            name: name.into(),
            container_port,
            protocol: protocol.into(),
            ..Default::default()
        };
        container.ports = vec![
            port("http", 80, "TCP"),
            port("http", 70000, "SCTP"),
            port("", 0, "ICMP"),
        ];
        container.resources = Some(resources(
            &[("cpu", "1"), ("disk", "1")],
            &[("cpu", "2"), ("memory", "12x")],
        ));
        let twin = container.clone();
        spec.init_containers.push(twin);
        let found = check(&bad);
        for part in [
            "spec.containers[0].image: Required value",
            "spec.containers[0].name: Duplicate value: \"web\"",
            "spec.containers[0].workingDir: Invalid value: \"tmp\"",
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            "spec.containers[0].env[0].name: Invalid value: \"1\"",
            "spec.containers[0].env[1].valueFrom: Invalid value",
            "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.ip\"",
            "spec.containers[0].ports[1].name: Duplicate value: \"http\"",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Invalid value: \"SCTP\": SCTP is not supported",
            "spec.containers[0].ports[2].containerPort: Required value",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\"",
            "spec.containers[0].resources.limits[disk]: Unsupported value: \"disk\"",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"12x\"",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.initContainers[0].image: Required value",
            "spec.restartPolicy: Unsupported value: \"always\"",
            "spec.hostname: Invalid value: \"A\"",
            "spec.nodeSelector: Invalid value: \"a b\"",
            "spec.tolerations[0].operator: Invalid value: \"\"",
            "spec.tolerations[1].operator: Unsupported value: \"Is\"",
        ] {
            assert!(found.iter().any(|text| text.starts_with(part)), "{part} in {found:#?}");
        }
    }

    fn with_ports(pod: &mut Pod, ports: &[(i32, i32, &str)]) {
        let port = |(container_port, host_port, host_ip): &(i32, i32, &str)| ContainerPort {
            container_port: *container_port,
            host_port: *host_port,
            host_ip: (*host_ip).to_owned(),
            protocol: "TCP".into(),
            ..Default::default()
        };
        pod.spec.as_mut().unwrap().containers[0].ports = ports.iter().map(port).collect();
    }

    #[test]
    fn ports_of_the_node_are_in_range_and_each_is_wanted_once() {
        let mut pod = pod();
        with_ports(
            &mut pod,
            &[(80, 8080, ""), (81, 8080, "172.30.0.1"), (82, 8081, "fd00::1")],
        );
        assert!(check(&pod).is_empty(), "{:?}", check(&pod));
        with_ports(
            &mut pod,
            &[
                (80, 8080, ""),
                (81, 8080, ""),
                (82, 70000, ""),
                (83, 83, "node-1"),
                (84, 84, "127.0.0.1"),
            ],
        );
        let found = check(&pod);
        for part in [
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
            "spec.containers[0].ports[2].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[3].hostIP: Invalid value: \"node-1\": must be a valid IP address",
            "spec.containers[0].ports[4].hostIP: Invalid value: \"127.0.0.1\": a port at the node's loopback",
        ] {
            assert!(found.iter().any(|text| text.starts_with(part)), "{part}: {found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn ports_in_the_nodes_network_are_the_nodes() {
        let mut pod = pod();
        pod.spec.as_mut().unwrap().host_network = true;
        with_ports(&mut pod, &[(80, 0, ""), (81, 81, "")]);
        default_spec(pod.spec.as_mut().unwrap());
        let ports: Vec<_> = pod.spec.as_ref().unwrap().containers[0]
            .ports
            .iter()
            .map(|port| port.host_port)
            .collect();
        assert_eq!(ports, [80, 81]);
        assert!(check(&pod).is_empty());
        with_ports(&mut pod, &[(80, 8080, "")]);
        assert_eq!(
            check(&pod),
            [
                "spec.containers[0].ports[0].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true"
            ]
        );
    }

    #[test]
    fn of_a_running_pod_only_the_image_changes() {
        let old = pod();
        let changed = |change: fn(&mut PodSpec)| {
            let mut new = old.clone();
            change(new.spec.as_mut().unwrap());
            let mut v = Violations::default();
            validate_update(&new, &old, &mut v);
            texts(v)
        };
        assert!(changed(|spec| spec.containers[0].image = "nginx:2".into()).is_empty());
        assert!(changed(|spec| spec.tolerations.push(Toleration::default())).is_empty());
        assert!(changed(|spec| spec.containers[0].name = "x".into())[0].starts_with("spec: Forbidden: pod updates"));
        assert_eq!(changed(|spec| spec.node_name = "n1".into()).len(), 1);
        assert_eq!(changed(|spec| spec.containers.clear()).len(), 1);
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let class = |r: ResourceRequirements| {
            let mut pod = pod();
            pod.spec.as_mut().unwrap().containers[0].resources = Some(r);
            prepare_create(&mut pod);
            pod.status.unwrap().qos_class
        };
        assert_eq!(class(resources(&[], &[])), "BestEffort");
        assert_eq!(
            class(resources(&[("cpu", "1"), ("memory", "1Gi")], &[])),
            "Guaranteed",
            "requests default to limits"
        );
        assert_eq!(
            class(resources(&[("cpu", "1000m"), ("memory", "1Gi")], &[("cpu", "1")])),
            "Guaranteed"
        );
        assert_eq!(class(resources(&[("cpu", "1")], &[])), "Burstable");
        assert_eq!(
            class(resources(&[("cpu", "1"), ("memory", "1Gi")], &[("cpu", "500m")])),
            "Burstable"
        );
        assert_eq!(class(resources(&[], &[("memory", "1Mi")])), "Burstable");
    }
}
