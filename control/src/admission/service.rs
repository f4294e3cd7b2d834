//! Services. Whether a requested VIP or node port is free is decided at storing it, not here.

use std::{collections::BTreeSet, net::IpAddr};

use causeway_proto::v1::{Service, ServicePort, ServiceSpec, int_or_string::Value};

use super::{
    Settings, container, endpoints,
    field::{Path, Violations},
    meta, names, service_families, service_reach,
};
pub use service_reach::{has_node_ports, needs_health_check};

/// `clusterIP` of a service without VIP.
pub const HEADLESS: &str = "None";
const TYPES: &[&str] = &["ClusterIP", "LoadBalancer", "NodePort"];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const DEFAULT_AFFINITY_SECONDS: i32 = 10800;
const MAX_AFFINITY_SECONDS: i32 = 86400;
/// As many as an `EndpointSlice` of Kubernetes has room for; a transaction of etcd holds a few more.
const MAX_PORTS: usize = 100;

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
    service_reach::default(spec);
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
    service.status = None;
}

/// A changed service keeps what was allocated for it when the change does not name anything else.
pub fn prepare_update(service: &mut Service, old: &Service) {
    if let (Some(new), Some(old)) = (&mut service.spec, &old.spec) {
        service_families::carry_over(new, old);
        service_reach::carry_over(new, old);
    }
    default(service);
}

/// Decides the families, and checks what depends on the cluster's configuration.
pub fn resolve(service: &mut Service, old: Option<&Service>, settings: &Settings, v: &mut Violations) {
    let old = old.and_then(|old| old.spec.as_ref());
    if let Some(spec) = &mut service.spec {
        service_families::resolve(spec, old, &settings.service_ranges, v);
        service_reach::check_range(spec, old, settings.node_ports, v);
    }
}

/// Checks a new or changed service.
pub fn validate(service: &Service, v: &mut Violations) {
    let path = Path::new("spec");
    let Some(spec) = &service.spec else {
        return v.required(&path, "");
    };
    if !TYPES.contains(&spec.r#type.as_str()) {
        v.not_supported(&path.child("type"), &spec.r#type, TYPES);
    }
    meta::labels(&spec.selector, &path.child("selector"), v);
    ports(spec, &path.child("ports"), v);
    affinity(spec, &path, v);
    addresses(spec, &path, v);
    external_ips(spec, &path.child("externalIPs"), v);
    let distribution = spec.traffic_distribution.as_str();
    if !distribution.is_empty() && !DISTRIBUTIONS.contains(&distribution) {
        v.not_supported(&path.child("trafficDistribution"), distribution, DISTRIBUTIONS);
    }
    service_reach::validate(spec, &path, v);
}

fn ports(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let headless = spec.cluster_ip == HEADLESS;
    if spec.ports.is_empty() && !headless {
        v.required(path, "");
    }
    if spec.ports.len() > MAX_PORTS {
        v.too_many(path, spec.ports.len(), MAX_PORTS);
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
            Ok(_) => {}
            Err(_) if text == HEADLESS && spec.cluster_ips.len() == 1 => {
                if has_node_ports(spec) {
                    let rule = format!("may not be set to 'None' for {} services", spec.r#type);
                    v.invalid(&path, text, &rule);
                }
            }
            Err(_) if text == HEADLESS => v.invalid(&path, text, "\"None\" must be the only value"),
            Err(_) => v.invalid(
                &path,
                text,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
        }
    }
    if spec.cluster_ips.len() > 2 {
        v.invalid(&path, &spec.cluster_ips, "may only hold up to 2 values");
    }
    if spec.cluster_ips.first().is_some_and(|first| *first != spec.cluster_ip) {
        v.invalid(&path, &spec.cluster_ips, "first value must match `clusterIP`");
    }
}

fn external_ips(spec: &ServiceSpec, path: &Path, v: &mut Violations) {
    let mut seen = BTreeSet::new();
    for (at, text) in spec.external_ips.iter().enumerate() {
        endpoints::validate_ip(text, &path.index(at), v);
        if !seen.insert(text) {
            v.duplicate(&path.index(at), text);
        }
    }
}

/// Checks that what is for life stayed.
pub fn validate_update(new: &Service, old: &Service, v: &mut Violations) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return;
    };
    let path = Path::new("spec");
    if !old.cluster_ip.is_empty() && new.cluster_ip != old.cluster_ip {
        v.invalid(&path.child("clusterIP"), &new.cluster_ip, "field is immutable");
    } else if let (Some(new), Some(old)) = (new.cluster_ips.get(1), old.cluster_ips.get(1))
        && new != old
    {
        v.invalid(&path.child("clusterIPs").index(1), new, "field is immutable");
    }
    service_reach::validate_update(new, old, &path, v);
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
        resolve(&mut service, None, &Settings::example(), &mut v);
        texts(v)
    }

    /// Everything wrong with a change, as the API finds it.
    fn change(old: &Service, alter: impl FnOnce(&mut ServiceSpec)) -> (Service, Vec<String>) {
        let mut new = old.clone();
        alter(new.spec.as_mut().unwrap());
        let mut v = Violations::default();
        prepare_update(&mut new, old);
        validate(&new, &mut v);
        validate_update(&new, old, &mut v);
        resolve(&mut new, Some(old), &Settings::example(), &mut v);
        (new, texts(v))
    }

    fn stored(alter: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut service = service(vec![port("", 80, "")]);
        service.spec.as_mut().unwrap().cluster_ip = "10.96.0.10".into();
        alter(service.spec.as_mut().unwrap());
        let mut v = Violations::default();
        default(&mut service);
        resolve(&mut service, None, &Settings::example(), &mut v);
        assert_eq!(texts(v), [""; 0]);
        service
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
        assert!(with(&["fd00::1"])[0].contains("not configured on this cluster"));
        assert!(with(&["10.96.0.1", "10.96.0.2"])[0].contains("no more than one IP for each IP family"));
        assert!(with(&["10.97.0.1"])[0].contains("not in the valid range, which is 10.96.0.0/16"));
        let mut s = service(vec![]);
        s.spec.as_mut().unwrap().cluster_ip = "None".into();
        assert!(check(s).is_empty(), "headless services need no port");
    }

    #[test]
    fn a_vip_is_for_life() {
        let old = stored(|_| {});
        let (kept, wrong) = change(&old, |spec| {
            spec.ports[0].port = 81;
            spec.cluster_ip.clear();
            spec.cluster_ips.clear();
        });
        assert_eq!(wrong, [""; 0]);
        let spec = kept.spec.as_ref().unwrap();
        assert_eq!(
            (&spec.cluster_ip, &spec.cluster_ips),
            (&"10.96.0.10".into(), &vec!["10.96.0.10".into()])
        );
        // Whichever of the two fields is changed, it is one fault.
        let fault = ["spec.clusterIP: Invalid value: \"10.96.0.11\": field is immutable"];
        assert_eq!(change(&old, |spec| spec.cluster_ip = "10.96.0.11".into()).1, fault);
        assert_eq!(
            change(&old, |spec| spec.cluster_ips = vec!["10.96.0.11".into()]).1,
            fault
        );
    }

    #[test]
    fn types_that_are_not_there_are_named() {
        let mut s = service(vec![port("", 80, "")]);
        s.spec.as_mut().unwrap().r#type = "ExternalName".into();
        assert_eq!(
            check(s),
            [
                "spec.type: Unsupported value: \"ExternalName\": supported values: \"ClusterIP\", \"LoadBalancer\", \"NodePort\""
            ]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut s = service(vec![port("", 80, "SCTP")]);
        let spec = s.spec.as_mut().unwrap();
        spec.external_ips = vec!["127.0.0.1".into(), "x".into()];
        spec.load_balancer_source_ranges = vec!["10.0.0.0".into()];
        spec.internal_traffic_policy = "Node".into();
        spec.traffic_distribution = "Near".into();
        spec.ip_families = vec!["IPX".into()];
        spec.ports[0].node_port = 30_080;
        let found = check(s);
        let fields: Vec<_> = found.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(
            fields,
            [
                "spec.ports[0].protocol",
                "spec.externalIPs[0]",
                "spec.externalIPs[1]",
                "spec.trafficDistribution",
                "spec.ports[0].nodePort",
                "spec.loadBalancerSourceRanges",
                "spec.internalTrafficPolicy",
                "spec.ipFamilies[0]",
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn what_a_new_type_has_no_use_for_goes_and_what_the_user_says_stays() {
        let old = stored(|spec| {
            spec.r#type = "LoadBalancer".into();
            spec.external_traffic_policy = "Local".into();
            spec.ports[0].node_port = 30_080;
            spec.health_check_node_port = 30_999;
            spec.load_balancer_source_ranges = vec!["10.0.0.0/8".into()];
        });
        let (new, wrong) = change(&old, |spec| spec.r#type = "ClusterIP".into());
        assert_eq!(wrong, [""; 0]);
        let spec = new.spec.unwrap();
        assert_eq!((spec.ports[0].node_port, spec.health_check_node_port), (0, 0));
        assert_eq!(
            (
                spec.external_traffic_policy.as_str(),
                spec.load_balancer_source_ranges.len()
            ),
            ("", 0)
        );
        let (_, wrong) = change(&old, |spec| {
            spec.r#type = "ClusterIP".into();
            spec.ports[0].node_port = 30_081;
        });
        assert_eq!(
            wrong,
            ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
        );
    }

    #[test]
    fn node_ports_stay_with_their_ports() {
        let old = stored(|spec| {
            spec.r#type = "NodePort".into();
            spec.ports = vec![port("a", 80, ""), port("b", 81, "")];
            (spec.ports[0].node_port, spec.ports[1].node_port) = (30_080, 30_081);
        });
        // As a manifest without node ports, and in another order, is applied.
        let (new, wrong) = change(&old, |spec| {
            spec.ports = vec![port("b", 8081, ""), port("new", 80, ""), port("c", 82, "")];
        });
        assert_eq!(wrong, [""; 0]);
        let ports: Vec<_> = new.spec.unwrap().ports.iter().map(|port| port.node_port).collect();
        assert_eq!(ports, [30_081, 30_080, 0]);
        let (_, wrong) = change(&old, |spec| spec.ports[0].node_port = 80);
        assert_eq!(
            wrong,
            [
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
              ports is 30000-32767"
            ]
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
