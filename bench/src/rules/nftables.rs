//! kube-proxy's nftables rules, as input for `nft -f -`.
//!
//! One addition: the chains of services that are measured count the packets that enter them (one for each connection) in a
//! named counter, which is how the benchmark knows that its packets went through. It costs a few nanoseconds of a connection.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::names::hash;
use crate::service::{CLUSTER_CIDR, SERVICE_CIDR, Service, ServicePort};

/// Prefix of every command.
const TABLE: &str = "ip kube-proxy";

const BASE: &str = r#"add table ip kube-proxy { comment "rules for kube-proxy" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; comment "Active ClusterIPs" ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; comment "IPs that accept NodePort traffic" ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "destinations that are subject to LoadBalancerSourceRanges" ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to service nodeports with no endpoints" ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to services with no endpoints" ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; comment "NodePort traffic" ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain { comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
add rule ip kube-proxy cluster-ips-check ip daddr { SERVICE_CIDR } drop comment "Drop traffic to unallocated ClusterIPs"
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add element ip kube-proxy nodeport-ips { NODE_ADDRESS }
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
"#;

/// The chain that chooses an endpoint of a service port.
pub fn service_chain(port: &ServicePort<'_>) -> String {
    let name = base_name(port);
    format!("service-{}-{name}", hash(&name, 8))
}

/// The chain of what comes for a service port from outside.
fn external_chain(port: &ServicePort<'_>) -> String {
    service_chain(port).replacen("service-", "external-", 1)
}

fn endpoint_chain(port: &ServicePort<'_>, endpoint: Ipv4Addr) -> String {
    let name = format!("{}__{endpoint}/{}", base_name(port), port.target_port);
    format!("endpoint-{}-{name}", hash(&name, 8))
}

fn base_name(port: &ServicePort<'_>) -> String {
    format!(
        "{}/{}/{}/{}",
        port.namespace,
        port.service,
        port.transport.name(),
        port.port_name
    )
}

/// Name of the counter in the chain of a service port that is measured.
pub fn counter(port: &ServicePort<'_>) -> String {
    format!("bench-{}-{}", port.service, port.transport.name())
}

/// What is written once, when kube-proxy starts on a node with this address.
pub fn base(node: Ipv4Addr) -> String {
    BASE.replace("SERVICE_CIDR", SERVICE_CIDR)
        .replace("NODE_ADDRESS", &node.to_string())
}

/// All services, when there are none yet.
pub fn full(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        line(
            &mut text,
            format_args!("add element {TABLE} cluster-ips {{ {} }}", service.vip()),
        );
        for port in service.ports() {
            chains(&mut text, &port);
            let (vip, protocol, number) = (port.vip, port.transport.name(), port.port);
            line(
                &mut text,
                format_args!(
                    "add element {TABLE} service-ips {{ {vip} . {protocol} . {number} : goto {} }}",
                    service_chain(&port)
                ),
            );
            if let Some(external) = port.external {
                line(
                    &mut text,
                    format_args!(
                        "add element {TABLE} service-ips {{ {external} . {protocol} . {number} : goto {} }}",
                        external_chain(&port)
                    ),
                );
            }
        }
    }
    text
}

/// What is written when a service's endpoints changed: its chains anew, nothing of the others.
pub fn change(service: &Service) -> String {
    let mut text = String::new();
    for port in service.ports() {
        chains(&mut text, &port);
    }
    text
}

/// Chains and rules of one service port; chains that are there are emptied first.
fn chains(text: &mut String, port: &ServicePort<'_>) {
    let service = service_chain(port);
    let names: Vec<String> = port
        .endpoints
        .iter()
        .map(|endpoint| endpoint_chain(port, *endpoint))
        .collect();
    for chain in names.iter().chain([&service]) {
        line(text, format_args!("add chain {TABLE} {chain}"));
        line(text, format_args!("flush chain {TABLE} {chain}"));
    }
    if port.external.is_some() {
        let external = external_chain(port);
        line(text, format_args!("add chain {TABLE} {external}"));
        line(text, format_args!("flush chain {TABLE} {external}"));
        line(
            text,
            format_args!("add rule {TABLE} {external} jump mark-for-masquerade"),
        );
        line(text, format_args!("add rule {TABLE} {external} goto {service}"));
    }
    let vip = port.vip;
    if port.measured {
        let counter = counter(port);
        line(text, format_args!("add counter {TABLE} {counter}"));
        line(
            text,
            format_args!("add rule {TABLE} {service} counter name \"{counter}\""),
        );
    }
    line(
        text,
        format_args!("add rule {TABLE} {service} ip daddr {vip} ip saddr != {CLUSTER_CIDR} jump mark-for-masquerade"),
    );
    let verdicts: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, chain)| format!("{index} : goto {chain}"))
        .collect();
    line(
        text,
        format_args!(
            "add rule {TABLE} {service} numgen random mod {} vmap {{ {} }}",
            names.len(),
            verdicts.join(" , ")
        ),
    );
    let (protocol, target) = (port.transport.name(), port.target_port);
    for (endpoint, chain) in port.endpoints.iter().zip(&names) {
        line(
            text,
            format_args!("add rule {TABLE} {chain} ip saddr {endpoint} jump mark-for-masquerade"),
        );
        line(
            text,
            format_args!("add rule {TABLE} {chain} meta l4proto {protocol} dnat to {endpoint}:{target}"),
        );
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Packets that a counter has counted, as `nft` shows it.
pub fn counted_packets(shown: &str) -> Option<u64> {
    let line = shown.lines().find_map(|line| line.trim().strip_prefix("packets "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::services;

    fn backends() -> [Ipv4Addr; 2] {
        [Ipv4Addr::new(10, 244, 1, 10), Ipv4Addr::new(10, 244, 1, 11)]
    }

    #[test]
    fn a_service_is_an_element_that_leads_to_a_choice() {
        let services = services(1, &[], &backends(), false);
        let text = full(&services);
        let port = services[0].ports().next().unwrap();
        let [one, two] = [0, 1].map(|index| endpoint_chain(&port, port.endpoints[index]));
        let service = service_chain(&port);
        assert!(one.ends_with("-bench/svc-000000/tcp/http__10.128.0.0/8080"), "{one}");
        for expected in [
            "add element ip kube-proxy cluster-ips { 10.96.0.1 }".to_owned(),
            format!("add element ip kube-proxy service-ips {{ 10.96.0.1 . tcp . 80 : goto {service} }}"),
            format!(
                "add rule ip kube-proxy {service} ip daddr 10.96.0.1 ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
            ),
            format!("add rule ip kube-proxy {service} numgen random mod 2 vmap {{ 0 : goto {one} , 1 : goto {two} }}"),
            format!("add rule ip kube-proxy {one} ip saddr 10.128.0.0 jump mark-for-masquerade"),
            format!("add rule ip kube-proxy {one} meta l4proto tcp dnat to 10.128.0.0:8080"),
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\nnot in\n{text}");
        }
        assert!(!text.contains("counter"), "only measured services are counted");
    }

    #[test]
    fn a_change_touches_one_service_only() {
        let services = services(3, &[1], &backends(), false);
        let text = change(&services[1]);
        assert!(text.contains("svc-000001/tcp") && text.contains("svc-000001/udp"));
        assert!(!text.contains("svc-000000") && !text.contains("service-ips"));
        assert_eq!(text.matches("add counter ip kube-proxy bench-svc-000001-").count(), 2);
    }

    #[test]
    fn counters_are_read_as_nft_shows_them() {
        let shown = "table ip kube-proxy {\n\tcounter bench-svc-000001-tcp {\n\t\tpackets 17 bytes 1020\n\t}\n}\n";
        assert_eq!(counted_packets(shown), Some(17));
        assert_eq!(counted_packets(""), None);
    }
}
