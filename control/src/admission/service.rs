//! Services. Whether a requested VIP is free is decided at storing it, not here.

use std::{collections::BTreeSet, net::IpAddr};

use causeway_proto::v1::{Service, ServicePort, ServiceSpec, ServiceStatus, int_or_string::Value};

use super::{
    container,
    field::{Path, Violations},
    meta, names,
};

/// `clusterIP` of a service without VIP.
pub const HEADLESS: &str = "None";
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;
const MAX_AFFINITY_SECONDS: i32 = 86400;

/// Fills in what Kubernetes fills in.
pub fn default(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    if spec.r#type.is_empty() {
        spec.r#type = "ClusterIP".into();
    }
    if spec.session_affinity.is_empty() {
        spec.session_affinity = "None".into();
    }
    match spec.session_affinity.as_str() {
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_default();
            config
                .client_ip
                .get_or_insert_default()
                .timeout_seconds
                .get_or_insert(DEFAULT_AFFINITY_SECONDS);
        }
        // Kubernetes drops the configuration when affinity is switched off.
        "None" => spec.session_affinity_config = None,
        _ => {}
    }
    for port in &mut spec.ports {
        container::default_protocol(&mut port.protocol);
        let target = port.target_port.get_or_insert_default();
        if matches!(&target.value, None | Some(Value::IntValue(0)))
            || target.value == Some(Value::StringValue(String::new()))
        {
            target.value = Some(Value::IntValue(port.port));
        }
    }
    default_addresses(spec);
}

/// `clusterIP` is the first of `clusterIPs`.
fn default_addresses(spec: &mut ServiceSpec) {
    if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
        spec.cluster_ips = vec![spec.cluster_ip.clone()];
    } else if spec.cluster_ip.is_empty()
        && let [first, ..] = spec.cluster_ips.as_slice()
    {
        spec.cluster_ip.clone_from(first);
    }
}

/// A new service has no status yet.
pub fn prepare_create(service: &mut Service) {
    default(service);
    service.status = Some(ServiceStatus::default());
}

/// A changed service keeps its VIP when the change does not name one.
pub fn prepare_update(service: &mut Service, old: &Service) {
    if let (Some(new), Some(old)) = (&mut service.spec, &old.spec)
        && new.cluster_ip.is_empty()
        && new.cluster_ips.is_empty()
    {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    default(service);
}

/// Checks a new or changed service.
pub fn validate(service: &Service, v: &mut Violations) {
    let path = Path::new("spec");
    let Some(spec) = &service.spec else {
        return v.required(&path, "");
    };
    if spec.r#type != "ClusterIP" {
        v.not_supported(&path.child("type"), &spec.r#type, &["ClusterIP"]);
    }
    meta::labels(&spec.selector, &path.child("selector"), v);
    ports(spec, &path.child("ports"), v);
    affinity(spec, &path, v);
    addresses(spec, &path, v);
}

fn ports(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let headless = spec.cluster_ip == HEADLESS;
    if spec.ports.is_empty() && !headless {
        v.required(path, "");
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in spec.ports.iter().enumerate() {
        let path = path.index(at);
        if port.name.is_empty() {
            if spec.ports.len() > 1 {
                v.required(&path.child("name"), "");
            }
        } else {
            v.invalid_each(&path.child("name"), &port.name, names::dns1123_label(&port.name));
            if !names.insert(port.name.as_str()) {
                v.duplicate(&path.child("name"), &port.name);
            }
        }
        v.invalid_each(&path.child("port"), port.port, names::port_number(port.port));
        container::protocol(&port.protocol, &path.child("protocol"), v);
        target_port(port, headless, &path.child("targetPort"), v);
        if !numbers.insert((port.port, port.protocol.as_str())) {
            v.duplicate(&path, format_args!("{}/{}", port.port, port.protocol));
        }
    }
}

fn target_port(port: &ServicePort, headless: bool, path: &Path, v: &mut Violations) {
    match port.target_port.as_ref().and_then(|target| target.value.as_ref()) {
        Some(Value::StringValue(name)) => v.invalid_each(path, name, names::port_name(name)),
        Some(Value::IntValue(number)) => {
            let broken = names::port_number(*number);
            if broken.is_empty() && headless && *number != port.port {
                v.invalid(
                    path,
                    number,
                    "must be equal to the value of 'port' when clusterIP = None",
                );
            }
            v.invalid_each(path, number, broken);
        }
        None => v.required(path, ""),
    }
}

fn affinity(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    match spec.session_affinity.as_str() {
        "ClientIP" => {
            let config = spec.session_affinity_config.unwrap_or_default();
            let seconds = config.client_ip.and_then(|client| client.timeout_seconds).unwrap_or(0);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let path = path
                    .child("sessionAffinityConfig")
                    .child("clientIP")
                    .child("timeoutSeconds");
                v.invalid(
                    &path,
                    seconds,
                    &format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
                );
            }
        }
        "None" => {}
        other => v.not_supported(&path.child("sessionAffinity"), other, AFFINITIES),
    }
}

fn addresses(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let path = path.child("clusterIPs");
    for (at, text) in spec.cluster_ips.iter().enumerate() {
        let path = path.index(at);
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => {}
            Ok(IpAddr::V6(_)) => v.invalid(&path, text, "the service range is IPv4"),
            Err(_) if text == HEADLESS && spec.cluster_ips.len() == 1 => {}
            Err(_) if text == HEADLESS => v.invalid(&path, text, "\"None\" must be the only value"),
            Err(_) => v.invalid(
                &path,
                text,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        }
    }
    if spec.cluster_ips.len() > 1 {
        v.invalid(&path, &spec.cluster_ips, "may only hold 1 value");
    }
    if spec.cluster_ips.first().is_some_and(|first| *first != spec.cluster_ip) {
        v.invalid(&path, &spec.cluster_ips, "first value must match `clusterIP`");
    }
}

/// Checks that the VIP stayed.
pub fn validate_update(new: &Service, old: &Service, v: &mut Violations) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return;
    };
    if !old.cluster_ip.is_empty() && new.cluster_ip != old.cluster_ip {
        let path = Path::new("spec").child("clusterIP");
        v.invalid(&path, &new.cluster_ip, "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ClientIpConfig, IntOrString, SessionAffinityConfig};

    use super::{super::field::texts, *};

    fn port(name: &str, port: i32, protocol: &str) -> ServicePort {
        ServicePort {
            name: name.into(),
            port,
            protocol: protocol.into(),
            ..Default::default()
        }
    }

    fn service(ports: Vec<ServicePort>) -> Service {
        Service {
            spec: Some(ServiceSpec {
                ports,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn check(mut service: Service) -> Vec<String> {
        default(&mut service);
        let mut v = Violations::default();
        validate(&service, &mut v);
        texts(v)
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let mut s = service(vec![port("", 80, "")]);
        default(&mut s);
        let spec = s.spec.as_ref().unwrap();
        assert_eq!(
            (spec.r#type.as_str(), spec.session_affinity.as_str()),
            ("ClusterIP", "None")
        );
        assert_eq!(spec.ports[0].protocol, "TCP");
        assert_eq!(
            spec.ports[0].target_port,
            Some(IntOrString {
                value: Some(Value::IntValue(80))
            })
        );
        assert!(check(s.clone()).is_empty());

        s.spec.as_mut().unwrap().session_affinity = "ClientIP".into();
        default(&mut s);
        let client_ip = Some(ClientIpConfig {
            timeout_seconds: Some(10800),
        });
        assert_eq!(
            s.spec.as_ref().unwrap().session_affinity_config,
            Some(SessionAffinityConfig { client_ip })
        );
        assert!(check(s).is_empty());
    }

    #[test]
    fn several_ports_need_distinct_names_and_numbers() {
        assert_eq!(check(service(vec![])), ["spec.ports: Required value"]);
        assert_eq!(
            check(service(vec![port("", 80, ""), port("b", 443, "")])),
            ["spec.ports[0].name: Required value"]
        );
        assert_eq!(
            check(service(vec![port("a", 80, ""), port("a", 80, "")])),
            [
                "spec.ports[1].name: Duplicate value: \"a\"",
                "spec.ports[1]: Duplicate value: 80/TCP"
            ]
        );
        assert!(check(service(vec![port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP")])).is_empty());
        let found = check(service(vec![port("", 0, "SCTP")]));
        assert!(
            found[0].starts_with("spec.ports[0].port: Invalid value: 0"),
            "{found:?}"
        );
        assert!(found[1].starts_with("spec.ports[0].protocol: Invalid value: \"SCTP\": SCTP is not supported"));
    }

    #[test]
    fn vips_are_addresses_or_none() {
        let with = |ips: &[&str]| {
            let mut s = service(vec![port("", 80, "")]);
            s.spec.as_mut().unwrap().cluster_ips = ips.iter().map(|ip| (*ip).to_owned()).collect();
            check(s)
        };
        assert!(with(&["10.96.0.10"]).is_empty());
        assert!(with(&["None"]).is_empty());
        assert!(with(&["10.96.0"])[0].contains("must be a valid IP address"));
        assert!(with(&["fd00::1"])[0].contains("the service range is IPv4"));
        assert!(with(&["10.96.0.1", "10.96.0.2"])[0].contains("may only hold 1 value"));
        let mut s = service(vec![]);
        s.spec.as_mut().unwrap().cluster_ip = "None".into();
        assert!(check(s).is_empty(), "headless services need no port");
    }

    #[test]
    fn a_vip_is_for_life() {
        let mut old = service(vec![port("", 80, "")]);
        old.spec.as_mut().unwrap().cluster_ip = "10.96.0.10".into();
        default(&mut old);
        let mut new = service(vec![port("", 81, "")]);
        prepare_update(&mut new, &old);
        assert_eq!(new.spec.as_ref().unwrap().cluster_ip, "10.96.0.10");
        assert_eq!(new.spec.as_ref().unwrap().cluster_ips, ["10.96.0.10"]);
        let mut v = Violations::default();
        new.spec.as_mut().unwrap().cluster_ip = "10.96.0.11".into();
        validate_update(&new, &old, &mut v);
        assert_eq!(
            texts(v),
            ["spec.clusterIP: Invalid value: \"10.96.0.11\": field is immutable"]
        );
    }

    #[test]
    fn affinity_is_bounded() {
        let mut s = service(vec![port("", 80, "")]);
        let spec = s.spec.as_mut().unwrap();
        spec.session_affinity = "ClientIP".into();
        let client_ip = Some(ClientIpConfig {
            timeout_seconds: Some(100_000),
        });
        spec.session_affinity_config = Some(SessionAffinityConfig { client_ip });
        assert!(
            check(s.clone())[0]
                .starts_with("spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 100000")
        );
        s.spec.as_mut().unwrap().session_affinity = "Cookie".into();
        assert!(check(s)[0].starts_with("spec.sessionAffinity: Unsupported value: \"Cookie\""));
    }
}
