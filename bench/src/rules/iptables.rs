//! kube-proxy's iptables rules, as input for `iptables-restore --noflush`.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::names::hash;
use crate::service::{CLUSTER_CIDR, ENDPOINTS, Service, ServicePort};

/// More endpoints than this, and kube-proxy leaves comments of endpoint rules out (`largeClusterEndpointsThreshold`).
const LARGE_CLUSTER_ENDPOINTS: usize = 1_000;

/// Chains that are there once, and the jumps into them from the kernel's own.
const JUMPS: &str = r#"*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
COMMIT
*nat
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
COMMIT
"#;

const FILTER: &str = r#"*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

const NAT_CHAINS: &str = "*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const NAT_FIXED: &str = r#"-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
"#;

const NODE_PORTS: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
"#;

/// The chain that chooses an endpoint of a service port.
pub fn service_chain(port: &ServicePort<'_>) -> String {
    format!(
        "KUBE-SVC-{}",
        hash(&format!("{}{}", port.name(), port.transport.name()), 16)
    )
}

/// The chain that sends packets to an endpoint of a service port.
fn endpoint_chain(port: &ServicePort<'_>, endpoint: Ipv4Addr) -> String {
    let text = format!(
        "{}{}{endpoint}:{}",
        port.name(),
        port.transport.name(),
        port.target_port
    );
    format!("KUBE-SEP-{}", hash(&text, 16))
}

/// What is written once, when kube-proxy starts.
pub fn jumps() -> &'static str {
    JUMPS
}

/// A full synchronisation: all services.
pub fn full(services: &[Service]) -> String {
    sync(services, |_| true)
}

/// What is written when one service's endpoints changed: the list of all services anew (a chain is replaced whole), and the
/// chains of that service.
pub fn change(services: &[Service], changed: usize) -> String {
    sync(services, |index| index == changed)
}

fn sync(services: &[Service], writes_chains_of: impl Fn(usize) -> bool) -> String {
    let comments = services.len() * ENDPOINTS <= LARGE_CLUSTER_ENDPOINTS;
    let (mut chains, mut rules) = (String::new(), String::new());
    for service in services {
        for port in service.ports() {
            portal(&mut rules, &port);
            if writes_chains_of(service.index) {
                balancing(&mut chains, &mut rules, &port, comments);
            }
        }
    }
    [FILTER, NAT_CHAINS, &chains, NAT_FIXED, &rules, NODE_PORTS, "COMMIT\n"].concat()
}

/// From the list of all services to the chain of this one.
fn portal(rules: &mut String, port: &ServicePort<'_>) {
    let (name, chain) = (port.name(), service_chain(port));
    line(
        rules,
        format_args!(
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {} -j {chain}",
            destination(port, port.vip)
        ),
    );
    if let Some(external) = port.external {
        line(
            rules,
            format_args!(
                "-A KUBE-SERVICES -m comment --comment \"{name} external IP\" {} -j {}",
                destination(port, external),
                external_chain(port)
            ),
        );
    }
}

/// The chain of what comes for a service port from outside.
fn external_chain(port: &ServicePort<'_>) -> String {
    service_chain(port).replace("KUBE-SVC-", "KUBE-EXT-")
}

/// Chains and rules of one service port.
fn balancing(chains: &mut String, rules: &mut String, port: &ServicePort<'_>, comments: bool) {
    let (name, chain, protocol) = (port.name(), service_chain(port), port.transport.name());
    let comment = |text: String| {
        if comments {
            format!("-m comment --comment {text} ")
        } else {
            String::new()
        }
    };
    line(chains, format_args!(":{chain} - [0:0]"));
    line(
        rules,
        format_args!(
            "-A {chain} -m comment --comment \"{name} cluster IP\" {} ! -s {CLUSTER_CIDR} -j KUBE-MARK-MASQ",
            destination(port, port.vip)
        ),
    );
    if port.external.is_some() {
        let external = external_chain(port);
        line(chains, format_args!(":{external} - [0:0]"));
        let text = comment(format!("\"masquerade traffic for {name} external destinations\""));
        line(rules, format_args!("-A {external} {text}-j KUBE-MARK-MASQ"));
        line(rules, format_args!("-A {external} -j {chain}"));
    }
    for (index, endpoint) in port.endpoints.iter().enumerate() {
        let left = port.endpoints.len() - index;
        let chance = if left > 1 {
            let share = 1.0 / left as f64;
            format!("-m statistic --mode random --probability {share:.10} ")
        } else {
            String::new()
        };
        let text = comment(format!("\"{name} -> {endpoint}:{}\"", port.target_port));
        line(
            rules,
            format_args!("-A {chain} {text}{chance}-j {}", endpoint_chain(port, *endpoint)),
        );
    }
    for endpoint in port.endpoints {
        let chain = endpoint_chain(port, *endpoint);
        line(chains, format_args!(":{chain} - [0:0]"));
        let text = comment(name.clone());
        line(rules, format_args!("-A {chain} {text}-s {endpoint} -j KUBE-MARK-MASQ"));
        line(
            rules,
            format_args!(
                "-A {chain} {text}-m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}:{}",
                port.target_port
            ),
        );
    }
}

fn destination(port: &ServicePort<'_>, address: Ipv4Addr) -> String {
    let protocol = port.transport.name();
    format!("-m {protocol} -p {protocol} -d {address} --dport {}", port.port)
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Packets that the rules of a chain have matched, from `iptables -t nat -nvx -L CHAIN`: the rules that jump to an
/// endpoint's chain.
pub fn matched_packets(listing: &str) -> u64 {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let packets = words.next()?.parse::<u64>().ok()?;
            words.nth(1)?.starts_with("KUBE-SEP-").then_some(packets)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::services;

    fn two() -> Vec<Service> {
        services(
            2,
            &[1],
            &[Ipv4Addr::new(10, 244, 1, 10), Ipv4Addr::new(10, 244, 1, 11)],
            false,
        )
    }

    #[test]
    fn a_service_port_is_a_portal_a_choice_and_endpoints() {
        let services = two();
        let port = services[0].ports().next().unwrap();
        let (mut chains, mut rules) = (String::new(), String::new());
        portal(&mut rules, &port);
        balancing(&mut chains, &mut rules, &port, true);
        let svc = service_chain(&port);
        let [one, two] = [0, 1].map(|index| endpoint_chain(&port, port.endpoints[index]));
        let name = "bench/svc-000000:http";
        assert_eq!(chains, format!(":{svc} - [0:0]\n:{one} - [0:0]\n:{two} - [0:0]\n"));
        let expected = [
            format!(
                "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j {svc}"
            ),
            format!(
                "-A {svc} -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ"
            ),
            format!(
                "-A {svc} -m comment --comment \"{name} -> 10.128.0.0:8080\" -m statistic --mode random --probability 0.5000000000 -j {one}"
            ),
            format!("-A {svc} -m comment --comment \"{name} -> 10.128.0.1:8080\" -j {two}"),
            format!("-A {one} -m comment --comment {name} -s 10.128.0.0 -j KUBE-MARK-MASQ"),
            format!("-A {one} -m comment --comment {name} -m tcp -p tcp -j DNAT --to-destination 10.128.0.0:8080"),
            format!("-A {two} -m comment --comment {name} -s 10.128.0.1 -j KUBE-MARK-MASQ"),
            format!("-A {two} -m comment --comment {name} -m tcp -p tcp -j DNAT --to-destination 10.128.0.1:8080"),
        ];
        assert_eq!(rules.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_list_of_services_ends_with_the_node_ports() {
        let text = full(&two());
        let portals: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("-A KUBE-SERVICES"))
            .collect();
        assert_eq!(portals.len(), 4, "three service ports and the node ports");
        assert!(portals[3].ends_with("-j KUBE-NODEPORTS"));
        assert!(portals[2].contains("-m udp -p udp -d 10.96.0.2 --dport 53"));
    }

    #[test]
    fn a_change_rewrites_the_list_and_one_service() {
        let services = two();
        let text = change(&services, 1);
        assert_eq!(text.matches("-A KUBE-SERVICES ").count(), 4);
        let changed = service_chain(&services[1].ports().next().unwrap());
        let other = service_chain(&services[0].ports().next().unwrap());
        assert!(text.contains(&format!(":{changed} - [0:0]")));
        assert!(!text.contains(&format!(":{other} - [0:0]")));
    }

    #[test]
    fn large_clusters_lose_the_comments_of_endpoints_only() {
        let text = full(&services(501, &[], &[], false));
        assert!(!text.contains(" -> "));
        assert_eq!(text.matches("cluster IP").count(), 2 * 501);
    }

    #[test]
    fn what_comes_from_outside_is_marked_for_masquerade() {
        let services = services(1, &[0], &[Ipv4Addr::new(10, 244, 2, 10)], true);
        let text = full(&services);
        let port = services[0].ports().next().unwrap();
        let (external, service) = (external_chain(&port), service_chain(&port));
        for expected in [
            format!("external IP\" -m tcp -p tcp -d 198.18.0.1 --dport 80 -j {external}\n"),
            format!(
                "-A {external} -m comment --comment \"masquerade traffic for {} external destinations\" -j KUBE-MARK-MASQ\n",
                port.name()
            ),
            format!("-A {external} -j {service}\n"),
        ] {
            assert!(text.contains(&expected), "{expected} in {text}");
        }
    }

    #[test]
    fn counters_are_read_from_a_listing() {
        let listing = "Chain KUBE-SVC-A (1 references)\n    pkts      bytes target     prot opt in     out     source               destination         \n\
                       \x20      3      180 KUBE-MARK-MASQ  tcp  --  *      *      !10.244.0.0/16        10.96.0.1\n\
                       \x20      40     2400 KUBE-SEP-X  all  --  *      *       0.0.0.0/0            0.0.0.0/0            statistic mode random probability 0.5\n\
                       \x20      41     2460 KUBE-SEP-Y  all  --  *      *       0.0.0.0/0            0.0.0.0/0\n";
        assert_eq!(matched_packets(listing), 81);
    }
}
