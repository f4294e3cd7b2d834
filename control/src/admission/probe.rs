//! Rules of probes.

use causeway_proto::v1::{Container, HttpGetAction, IntOrString, Probe, int_or_string::Value};

use super::{
    field::{Path, Violations},
    names,
};

/// What a probe decides on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Failure restarts the container.
    Liveness,
    /// Failure takes the pod out of its services.
    Readiness,
    /// The other probes wait for its success.
    Startup,
}

/// Fills in what Kubernetes fills in.
pub fn default(probe: &mut Probe) {
    // As in Kubernetes, 0 means unset.
    for (field, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.unwrap_or(0) == 0 {
            *field = Some(value);
        }
    }
    if let Some(http) = &mut probe.http_get {
        if http.path.is_empty() {
            http.path = "/".into();
        }
        if http.scheme.is_empty() {
            http.scheme = "HTTP".into();
        }
    }
}

/// Checks a probe; ports may be names of `container`'s ports.
pub fn validate(probe: &Probe, container: &Container, of: Use, path: &Path, v: &mut Violations) {
    handler(probe, container, path, v);
    v.at_least(
        &path.child("initialDelaySeconds"),
        probe.initial_delay_seconds.map(Into::into),
        0,
    );
    v.at_least(&path.child("timeoutSeconds"), probe.timeout_seconds.map(Into::into), 1);
    v.at_least(&path.child("periodSeconds"), probe.period_seconds.map(Into::into), 1);
    v.at_least(
        &path.child("successThreshold"),
        probe.success_threshold.map(Into::into),
        1,
    );
    v.at_least(
        &path.child("failureThreshold"),
        probe.failure_threshold.map(Into::into),
        1,
    );
    if of != Use::Readiness
        && let Some(threshold) = probe.success_threshold.filter(|t| *t > 1)
    {
        v.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn handler(probe: &Probe, container: &Container, path: &Path, v: &mut Violations) {
    let mut handlers = 0;
    let mut another = |field: &str, v: &mut Violations| {
        handlers += 1;
        let path = path.child(field);
        if handlers > 1 {
            v.forbidden(&path, "may not specify more than 1 handler type");
        }
        path
    };
    if let Some(exec) = &probe.exec {
        let path = another("exec", v);
        if exec.command.is_empty() {
            v.required(&path.child("command"), "");
        }
    }
    if let Some(http) = &probe.http_get {
        let path = another("httpGet", v);
        http_get(http, container, &path, v);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let path = another("tcpSocket", v);
        port(tcp.port.as_ref(), container, &path.child("port"), v);
    }
    if let Some(grpc) = &probe.grpc {
        let path = another("grpc", v);
        v.invalid_each(&path.child("port"), grpc.port, names::port_number(grpc.port));
    }
    if handlers == 0 {
        v.required(path, "must specify a handler type");
    }
}

fn http_get(http: &HttpGetAction, container: &Container, path: &Path, v: &mut Violations) {
    port(http.port.as_ref(), container, &path.child("port"), v);
    match http.scheme.as_str() {
        "HTTP" => {}
        "HTTPS" => v.invalid(
            &path.child("scheme"),
            "HTTPS",
            "HTTPS probes are not supported, only HTTP is",
        ),
        other => v.not_supported(&path.child("scheme"), other, &["HTTP"]),
    }
    for (at, header) in http.http_headers.iter().enumerate() {
        let path = path.child("httpHeaders").index(at).child("name");
        v.invalid_each(&path, &header.name, names::http_header_name(&header.name));
    }
}

fn port(port: Option<&IntOrString>, container: &Container, path: &Path, v: &mut Violations) {
    match port.and_then(|p| p.value.as_ref()) {
        None => v.required(path, ""),
        Some(Value::IntValue(number)) => v.invalid_each(path, number, names::port_number(*number)),
        Some(Value::StringValue(name)) => {
            let broken = names::port_name(name);
            if broken.is_empty() && !container.ports.iter().any(|p| p.name == *name) {
                v.invalid(path, name, "must be the name of a port of this container");
            }
            v.invalid_each(path, name, broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ContainerPort, ExecAction, TcpSocketAction};

    use super::{super::field::texts, *};

    fn number(port: i32) -> IntOrString {
        IntOrString {
            value: Some(Value::IntValue(port)),
        }
    }

    fn name(port: &str) -> IntOrString {
        IntOrString {
            value: Some(Value::StringValue(port.into())),
        }
    }

    fn check(mut probe: Probe, of: Use) -> Vec<String> {
        let container = Container {
            ports: vec![ContainerPort {
                name: "http".into(),
                container_port: 80,
                ..Default::default()
            }],
            ..Default::default()
        };
        default(&mut probe);
        let mut v = Violations::default();
        validate(&probe, &container, of, &Path::new("p"), &mut v);
        texts(v)
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let mut probe = Probe {
            http_get: Some(HttpGetAction {
                port: Some(number(80)),
                ..Default::default()
            }),
            ..Default::default()
        };
        default(&mut probe);
        assert_eq!((probe.timeout_seconds, probe.period_seconds), (Some(1), Some(10)));
        assert_eq!((probe.success_threshold, probe.failure_threshold), (Some(1), Some(3)));
        let http = probe.http_get.clone().unwrap();
        assert_eq!((http.path.as_str(), http.scheme.as_str()), ("/", "HTTP"));
        assert!(check(probe, Use::Liveness).is_empty());
    }

    #[test]
    fn exactly_one_handler() {
        assert_eq!(
            check(Probe::default(), Use::Readiness),
            ["p: Required value: must specify a handler type"]
        );
        let both = Probe {
            exec: Some(ExecAction {
                command: vec!["true".into()],
            }),
            tcp_socket: Some(TcpSocketAction {
                port: Some(number(80)),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            check(both, Use::Readiness),
            ["p.tcpSocket: Forbidden: may not specify more than 1 handler type"]
        );
    }

    #[test]
    fn ports_are_numbers_or_names_of_the_container() {
        let tcp = |port| Probe {
            tcp_socket: Some(TcpSocketAction {
                port,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(check(tcp(Some(name("http"))), Use::Readiness).is_empty());
        assert_eq!(
            check(tcp(Some(name("web"))), Use::Readiness),
            ["p.tcpSocket.port: Invalid value: \"web\": must be the name of a port of this container"]
        );
        assert_eq!(check(tcp(Some(number(0))), Use::Readiness).len(), 1);
        assert_eq!(check(tcp(None), Use::Readiness), ["p.tcpSocket.port: Required value"]);
    }

    #[test]
    fn https_and_several_successes_of_liveness_are_refused() {
        let probe = Probe {
            http_get: Some(HttpGetAction {
                port: Some(number(80)),
                scheme: "HTTPS".into(),
                ..Default::default()
            }),
            success_threshold: Some(2),
            period_seconds: Some(-1),
            ..Default::default()
        };
        let found = check(probe.clone(), Use::Liveness);
        assert!(
            found[0].starts_with("p.httpGet.scheme: Invalid value: \"HTTPS\""),
            "{found:?}"
        );
        assert_eq!(
            found[1],
            "p.periodSeconds: Invalid value: -1: must be greater than or equal to 1"
        );
        assert_eq!(found[2], "p.successThreshold: Invalid value: 2: must be 1");
        assert_eq!(check(probe, Use::Readiness).len(), 2);
    }
}
