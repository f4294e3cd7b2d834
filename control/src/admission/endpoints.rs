//! Endpoints, written by the endpoints reconciler or, for services without selector, by users.

use std::net::IpAddr;

use causeway_proto::v1::{EndpointAddress, EndpointPort, Endpoints};

use super::{
    container,
    field::{Path, Violations},
    names,
};

/// Fills in what Kubernetes fills in.
pub fn default(endpoints: &mut Endpoints) {
    for port in endpoints.subsets.iter_mut().flat_map(|subset| &mut subset.ports) {
        container::default_protocol(&mut port.protocol);
    }
}

/// Checks new or changed endpoints.
pub fn validate(endpoints: &Endpoints, v: &mut Violations) {
    for (at, subset) in endpoints.subsets.iter().enumerate() {
        let path = Path::new("subsets").index(at);
        let lists = [
            ("addresses", &subset.addresses),
            ("notReadyAddresses", &subset.not_ready_addresses),
            ("terminatingAddresses", &subset.terminating_addresses),
        ];
        if lists.iter().all(|(_, addresses)| addresses.is_empty()) {
            v.required(
                &path,
                "must specify `addresses`, `notReadyAddresses` or `terminatingAddresses`",
            );
        }
        for (field, addresses) in lists {
            for (at, address) in addresses.iter().enumerate() {
                validate_address(address, &path.child(field).index(at), v);
            }
        }
        for (at, port) in subset.ports.iter().enumerate() {
            validate_port(port, subset.ports.len() > 1, &path.child("ports").index(at), v);
        }
    }
}

/// Checks that an address can be a backend's, or one to which backends answer.
pub(super) fn validate_ip(text: &str, path: &Path, v: &mut Violations) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        return v.invalid(
            path,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        v.invalid(path, text, &format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        v.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        v.invalid(
            path,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if ip.is_multicast() {
        v.invalid(path, text, "may not be in the multicast range (224.0.0.0/4, ff00::/8)");
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, v: &mut Violations) {
    validate_ip(&address.ip, &path.child("ip"), v);
    if !address.hostname.is_empty() {
        v.invalid_each(
            &path.child("hostname"),
            &address.hostname,
            names::dns1123_label(&address.hostname),
        );
    }
    if !address.node_name.is_empty() {
        v.invalid_each(
            &path.child("nodeName"),
            &address.node_name,
            names::dns1123_subdomain(&address.node_name),
        );
    }
}

fn validate_port(port: &EndpointPort, needs_name: bool, path: &Path, v: &mut Violations) {
    if !port.name.is_empty() {
        v.invalid_each(&path.child("name"), &port.name, names::dns1123_label(&port.name));
    } else if needs_name {
        v.required(&path.child("name"), "");
    }
    v.invalid_each(&path.child("port"), port.port, names::port_number(port.port));
    container::protocol(&port.protocol, &path.child("protocol"), v);
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::EndpointSubset;

    use super::{super::field::texts, *};

    fn check(ips: &[&str], ports: &[(&str, i32)]) -> Vec<String> {
        let address = |ip: &&str| EndpointAddress {
            ip: (*ip).into(),
            ..Default::default()
        };
        let port = |(name, port): &(&str, i32)| EndpointPort {
            name: (*name).into(),
            port: *port,
            ..Default::default()
        };
        let subset = EndpointSubset {
            addresses: ips.iter().map(address).collect(),
            ports: ports.iter().map(port).collect(),
            ..Default::default()
        };
        let mut endpoints = Endpoints {
            subsets: vec![subset],
            ..Default::default()
        };
        default(&mut endpoints);
        let mut v = Violations::default();
        validate(&endpoints, &mut v);
        texts(v)
    }

    #[test]
    fn addresses_must_be_those_of_backends() {
        assert!(check(&["10.244.1.2", "fd00:244:1::2"], &[("", 80)]).is_empty());
        for (ip, part) in [
            ("x", "valid IP"),
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("169.254.1.1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
        ] {
            let found = check(&[ip], &[("", 80)]);
            assert!(found.len() == 1 && found[0].contains(part), "{ip}: {found:?}");
        }
        assert!(check(&[], &[])[0].contains("must specify `addresses`"));
    }

    #[test]
    fn several_ports_need_names() {
        let found = check(&["10.0.0.1"], &[("", 80), ("b", 0)]);
        assert_eq!(found[0], "subsets[0].ports[0].name: Required value");
        assert!(found[1].starts_with("subsets[0].ports[1].port: Invalid value: 0"));
    }
}
