//! What kube-proxy needs beside the table of IPVS: sets of addresses, as input for `ipset restore`, and rules that look into
//! them, as input for `iptables-restore --noflush`.

use std::fmt::Write as _;

use crate::service::Service;

/// The sets, empty.
pub const SETS: &str = "create KUBE-LOOP-BACK hash:ip,port,ip maxelem 1048576
create KUBE-CLUSTER-IP hash:ip,port maxelem 1048576
create KUBE-EXTERNAL-IP hash:ip,port maxelem 1048576
";

/// The rules, which do not depend on the services.
pub const RULES: &str = r#"*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

/// What services are in the sets with.
pub fn members(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        for port in service.ports() {
            let (protocol, number) = (port.transport.name(), port.port);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "add KUBE-CLUSTER-IP {},{protocol}:{number}", port.vip);
            if let Some(external) = port.external {
                let _ = writeln!(text, "add KUBE-EXTERNAL-IP {external},{protocol}:{number}");
            }
            for endpoint in port.endpoints {
                let target = port.target_port;
                let _ = writeln!(text, "add KUBE-LOOP-BACK {endpoint},{protocol}:{target},{endpoint}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::service::services;

    #[test]
    fn members_are_portals_and_hairpins() {
        let services = services(1, &[0], &[Ipv4Addr::new(10, 244, 2, 10)], true);
        let text = members(&services);
        let expected = [
            "add KUBE-CLUSTER-IP 10.96.0.1,tcp:80",
            "add KUBE-EXTERNAL-IP 198.18.0.1,tcp:80",
            "add KUBE-LOOP-BACK 10.244.2.10,tcp:8080,10.244.2.10",
            "add KUBE-CLUSTER-IP 10.96.0.1,udp:53",
            "add KUBE-EXTERNAL-IP 198.18.0.1,udp:53",
            "add KUBE-LOOP-BACK 10.244.2.10,udp:5353,10.244.2.10",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
