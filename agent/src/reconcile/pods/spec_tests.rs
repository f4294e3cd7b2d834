#![expect(clippy::unnecessary_wraps, reason = "fixtures return what optional fields take")]

use causeway_proto::v1::{
    EnvVar, ExecAction, HttpGetAction, PodSecurityContext, Quantity, SecurityContext, TcpSocketAction,
};

use super::{super::fixture::pod, *};
use crate::image::{ImageConfig, Rootfs};

fn node() -> NodeSettings {
    NodeSettings {
        name: "node-1".into(),
        host_ips: vec!["172.30.0.2".parse().unwrap()],
        memory_bytes: 1 << 30,
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        pids_limit: Some(100),
    }
}

fn image() -> Image {
    Image {
        reference: "docker.io/library/demo:latest".into(),
        id: "sha256:1".into(),
        digest: "sha256:2".into(),
        config: ImageConfig {
            entrypoint: vec!["/demo".into()],
            cmd: vec!["--x".into()],
            env: vec![("PATH".into(), "/bin".into())],
            user: "nobody".into(),
            working_dir: "/srv".into(),
            stop_signal: String::new(),
        },
        rootfs: Rootfs::default(),
    }
}

fn resources(limits: &[(&str, &str)], requests: &[(&str, &str)]) -> Option<ResourceRequirements> {
    let map = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), Quantity { value: (*v).to_owned() }))
            .collect()
    };
    Some(ResourceRequirements {
        limits: map(limits),
        requests: map(requests),
    })
}

fn number(port: i32) -> Option<IntOrString> {
    Some(IntOrString {
        value: Some(int_or_string::Value::IntValue(port)),
    })
}

fn name(port: &str) -> Option<IntOrString> {
    Some(IntOrString {
        value: Some(int_or_string::Value::StringValue(port.into())),
    })
}

#[test]
fn manifest_and_image_together_say_what_runs() {
    let pod = pod("Always", &[], &["web"]);
    let mut container = pod.spec.as_ref().unwrap().containers[0].clone();
    container.env = vec![EnvVar {
        name: "A".into(),
        value: "1".into(),
        value_from: None,
    }];
    container.args = vec!["--a=$(A)".into(), "--host=$(HOSTNAME)".into()];
    let spec = container_spec(&pod, &container, 3, &image(), &["10.244.0.7".parse().unwrap()], &node()).unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.attempt, spec.image_id.as_str()),
        ("web", 3, "sha256:1")
    );
    assert_eq!(spec.argv, ["/demo", "--a=1", "--host=web-1"]);
    let env: Vec<_> = spec
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(env, [("PATH", "/bin"), ("HOSTNAME", "web-1"), ("A", "1")]);
    assert_eq!((spec.cwd.as_str(), spec.user.image.as_str()), ("/srv", "nobody"));
}

#[test]
fn a_host_name_of_the_manifests_own_wins() {
    let pod = pod("Always", &[], &["web"]);
    let mut container = pod.spec.as_ref().unwrap().containers[0].clone();
    container.env = vec![EnvVar {
        name: "HOSTNAME".into(),
        value: "mine".into(),
        value_from: None,
    }];
    let spec = container_spec(&pod, &container, 0, &image(), &[], &node()).unwrap();
    let names: Vec<_> = spec
        .env
        .iter()
        .filter(|(name, _)| name == "HOSTNAME")
        .map(|(_, value)| value)
        .collect();
    assert_eq!(names, ["mine"]);
}

#[test]
fn a_container_without_a_program_is_refused() {
    let pod = pod("Always", &[], &["web"]);
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let image = Image {
        config: ImageConfig::default(),
        ..image()
    };
    let error = container_spec(&pod, container, 0, &image, &[], &node()).unwrap_err();
    assert_eq!(error, ConfigError::NoCommand("demo".into()));
}

#[test]
fn the_containers_user_wins_over_the_pods() {
    let mut pod = pod("Always", &[], &["web", "log"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.security_context = Some(PodSecurityContext {
        run_as_user: Some(10),
        run_as_group: Some(20),
    });
    spec.containers[1].security_context = Some(SecurityContext {
        run_as_user: Some(11),
        ..SecurityContext::default()
    });
    let users: Vec<_> = spec
        .containers
        .iter()
        .map(|c| user(spec, c, &image()).unwrap())
        .collect();
    assert_eq!(
        users
            .iter()
            .map(|u| (u.run_as_user, u.run_as_group))
            .collect::<Vec<_>>(),
        [(Some(10), Some(20)), (Some(11), Some(20))]
    );
    spec.security_context = Some(PodSecurityContext {
        run_as_user: Some(-1),
        run_as_group: None,
    });
    assert_eq!(
        user(spec, &spec.containers[0], &image()),
        Err(ConfigError::Id {
            field: "runAsUser",
            id: -1
        })
    );
}

#[test]
fn a_pod_is_bounded_only_when_all_its_containers_are() {
    let mut pod = pod("Always", &["setup"], &["web", "log"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers[0].resources = resources(&[("cpu", "2"), ("memory", "1Mi")], &[]);
    spec.containers[0].resources = resources(&[("cpu", "500m"), ("memory", "64Mi")], &[("cpu", "100m")]);
    assert_eq!(pod_resources(spec).unwrap().memory_limit_bytes, None);
    spec.containers[1].resources = resources(&[("cpu", "1"), ("memory", "64Mi")], &[]);
    let bounds = pod_resources(spec).unwrap();
    assert_eq!(bounds.cpu_limit_millis, Some(2000));
    assert_eq!(bounds.cpu_request_millis, Some(2000));
    assert_eq!(bounds.memory_limit_bytes, Some(128 << 20));
    spec.containers[1].resources = resources(&[("cpu", "lots")], &[]);
    assert_eq!(
        pod_resources(spec),
        Err(ConfigError::Quantity {
            resource: "cpu",
            text: "lots".into()
        })
    );
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    for (list, want) in [
        (vec![None, None], Qos::BestEffort),
        (
            vec![resources(&[("cpu", "1"), ("memory", "1Mi")], &[]), None],
            Qos::Burstable,
        ),
        (vec![resources(&[], &[("cpu", "1")]), None], Qos::Burstable),
        (
            vec![
                resources(&[("cpu", "1"), ("memory", "1Mi")], &[]),
                resources(
                    &[("cpu", "1"), ("memory", "1Mi")],
                    &[("cpu", "1000m"), ("memory", "1Mi")],
                ),
            ],
            Qos::Guaranteed,
        ),
        (
            vec![resources(&[("cpu", "1"), ("memory", "1Mi")], &[("cpu", "500m")]); 2],
            Qos::Burstable,
        ),
    ] {
        let mut pod = pod("Always", &[], &["web", "log"]);
        let spec = pod.spec.as_mut().unwrap();
        for (container, resources) in spec.containers.iter_mut().zip(list.clone()) {
            container.resources = resources;
        }
        assert_eq!(qos(spec).unwrap(), want, "{list:?}");
    }
}

#[test]
fn host_names_fit_a_dns_label() {
    let of = |name: &str, wish: &str, host_network| {
        let spec = PodSpec {
            hostname: wish.into(),
            host_network,
            ..PodSpec::default()
        };
        hostname(name, &spec, &node())
    };
    assert_eq!(of("web-1", "", false), "web-1");
    assert_eq!(of("web-1", "db", false), "db");
    assert_eq!(
        of(&format!("{}-{}", "a".repeat(62), "b".repeat(9)), "", false),
        "a".repeat(62)
    );
    assert_eq!(of("web-1", "db", true), "node-1", "in the node's network");
}

#[test]
fn probes_take_ports_by_number_and_name_and_fill_in_defaults() {
    let ports = vec![ContainerPort {
        name: "http".into(),
        container_port: 8080,
        protocol: "TCP".into(),
        ..ContainerPort::default()
    }];
    let http = HttpGetAction {
        port: name("http"),
        ..HttpGetAction::default()
    };
    let container = Container {
        name: "web".into(),
        ports,
        readiness_probe: Some(Probe {
            http_get: Some(http),
            period_seconds: Some(2),
            ..Probe::default()
        }),
        liveness_probe: Some(Probe {
            tcp_socket: Some(TcpSocketAction {
                port: number(81),
                host: String::new(),
            }),
            initial_delay_seconds: Some(10),
            failure_threshold: Some(1),
            ..Probe::default()
        }),
        startup_probe: Some(Probe {
            exec: Some(ExecAction {
                command: vec!["true".into()],
            }),
            ..Probe::default()
        }),
        ..Container::default()
    };
    let address = "10.244.0.7".parse().unwrap();
    let probes = container_probes(&container, address, Duration::from_secs(4), false).unwrap();
    let readiness = probes.readiness.unwrap();
    let action = ProbeAction::Http {
        host: None,
        port: 8080,
        path: "/".into(),
        headers: vec![],
    };
    assert_eq!(
        readiness,
        ProbeSpec {
            period: Duration::from_secs(2),
            ..ProbeSpec::new(action)
        }
    );
    let liveness = probes.liveness.unwrap();
    assert_eq!(liveness.action, ProbeAction::Tcp { host: None, port: 81 });
    assert_eq!(
        (liveness.initial_delay, liveness.failure_threshold),
        (Duration::from_secs(6), 1)
    );
    assert_eq!(
        probes.startup.unwrap().action,
        ProbeAction::Exec {
            command: vec!["true".into()]
        }
    );
    assert_eq!(
        container_probes(&container, address, Duration::ZERO, true)
            .unwrap()
            .startup,
        None
    );
}

#[test]
fn a_probe_of_an_unknown_port_is_refused_by_name() {
    for (wanted, named) in [
        (name("grpc"), "grpc"),
        (number(0), "0"),
        (number(70_000), "70000"),
        (None, ""),
    ] {
        assert_eq!(port(wanted.as_ref(), &[]), Err(ConfigError::Port(named.into())));
    }
}
