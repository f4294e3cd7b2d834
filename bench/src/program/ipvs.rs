//! kube-proxy's services of IP Virtual Server in the node's namespace: the kernel's own table by generic netlink, all virtual
//! addresses on a link of their own, and a few rules with sets of addresses for what is to be masqueraded.

use std::{collections::HashSet, io, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::{
    Passed, Programmer, Variant, command, conntrack,
    genetlink::{Family, attribute, find, nested},
    memory::Account,
};
use crate::{
    rules::ipvs as rules,
    service::{Service, ServicePort, Transport},
    site::Site,
};

/// Name and version of the family (`include/uapi/linux/ip_vs.h`), whose numbers follow.
const FAMILY: (&str, u8) = ("IPVS", 1);
const NEW_SERVICE: u8 = 1;
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const SERVICE_FAMILY: u16 = 1;
const SERVICE_PROTOCOL: u16 = 2;
const SERVICE_ADDRESS: u16 = 3;
const SERVICE_PORT: u16 = 4;
const SERVICE_SCHEDULER: u16 = 6;
const SERVICE_FLAGS: u16 = 7;
const SERVICE_TIMEOUT: u16 = 8;
const SERVICE_NETMASK: u16 = 9;
const SERVICE_STATISTICS: u16 = 12;
const DESTINATION_ADDRESS: u16 = 1;
const DESTINATION_PORT: u16 = 2;
const DESTINATION_METHOD: u16 = 3;
const DESTINATION_WEIGHT: u16 = 4;
const DESTINATION_UPPER: u16 = 5;
const DESTINATION_LOWER: u16 = 6;
const DESTINATION_FAMILY: u16 = 11;
const CONNECTIONS: u16 = 1;
/// `IP_VS_CONN_F_MASQ`.
const MASQUERADE: u32 = 0;

/// The link that holds all virtual addresses.
const LINK: &str = "kube-ipvs0";

/// Why it cannot be measured here, if so: found by asking the kernel, which loads its module.
pub fn unavailable() -> Option<String> {
    match Family::open(FAMILY.0, FAMILY.1) {
        Ok(Some(_)) => ["iptables-restore", "ipset"]
            .into_iter()
            .find(|name| !super::is_installed(name))
            .map(|name| format!("there is no {name} in PATH")),
        Ok(None) => Some("this kernel has no IPVS (generic netlink family IPVS not found)".to_owned()),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Writes the table of IPVS.
#[derive(Debug)]
pub struct IpvsProgrammer {
    family: Family,
    account: Result<Account>,
    variant: Variant,
    /// Destinations in the table: address and port of the service, and the backend.
    destinations: HashSet<(Ipv4Addr, u16, Ipv4Addr)>,
}

impl IpvsProgrammer {
    /// On a node without services: makes what kube-proxy makes when it starts.
    pub fn new(site: &Site) -> Result<Self> {
        let family = site
            .node
            .run(|| Family::open(FAMILY.0, FAMILY.1))?
            .context("this kernel has no IPVS")?;
        let programmer = Self {
            family,
            account: Account::open("ipvs"),
            variant: Variant::quickest(),
            destinations: HashSet::new(),
        };
        site.hold_addresses(LINK, &[])?;
        site.node.run(|| {
            for (name, value) in [
                ("conntrack", "1"),
                ("expire_nodest_conn", "1"),
                ("expire_quiescent_template", "1"),
            ] {
                let path = format!("/proc/sys/net/ipv4/vs/{name}");
                std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
            }
            Ok(())
        })?;
        let account = programmer.account.as_ref().ok();
        command::run(&site.node, account, &["ipset", "restore", "-exist"], rules::SETS)?;
        let restore = [programmer.variant.restore, "-w", "5", "--noflush"];
        command::run(&site.node, account, &restore, rules::RULES)?;
        Ok(programmer)
    }

    fn add_service(&mut self, port: &ServicePort<'_>, address: Ipv4Addr) -> Result<()> {
        let mut service = identity(port, address);
        service.extend([
            attribute(SERVICE_SCHEDULER, b"rr\0"),
            attribute(SERVICE_FLAGS, &[[0; 4], [0xff; 4]].concat()),
            attribute(SERVICE_TIMEOUT, &0_u32.to_ne_bytes()),
            attribute(SERVICE_NETMASK, &u32::MAX.to_ne_bytes()),
        ]);
        self.family
            .request(NEW_SERVICE, &[nested(SERVICE, &service)])
            .with_context(|| format!("cannot add {} to IPVS", port.name()))?;
        self.set_destinations(port, address)
    }

    /// Backends that are new get new connections, those that are gone none; kube-proxy keeps the latter for their connections.
    fn set_destinations(&mut self, port: &ServicePort<'_>, address: Ipv4Addr) -> Result<()> {
        let of_port = |(of, number, _): &&(Ipv4Addr, u16, Ipv4Addr)| (*of, *number) == (address, port.port);
        let known: Vec<Ipv4Addr> = self.destinations.iter().filter(of_port).map(|known| known.2).collect();
        let wanted = port.endpoints.iter().map(|endpoint| (*endpoint, 1));
        let unwanted = known.iter().filter(|known| !port.endpoints.contains(known));
        for (endpoint, weight) in wanted.chain(unwanted.map(|endpoint| (*endpoint, 0))) {
            let command = if known.contains(&endpoint) {
                SET_DESTINATION
            } else {
                NEW_DESTINATION
            };
            let attributes = [
                nested(SERVICE, &identity(port, address)),
                nested(DESTINATION, &destination(endpoint, port.target_port, weight)),
            ];
            self.family
                .request(command, &attributes)
                .with_context(|| format!("cannot set a destination of {}", port.name()))?;
            self.destinations.insert((address, port.port, endpoint));
        }
        Ok(())
    }

    fn connections(&mut self, port: &ServicePort<'_>, address: Ipv4Addr) -> io::Result<u64> {
        let answer = self
            .family
            .request(GET_SERVICE, &[nested(SERVICE, &identity(port, address))])?
            .unwrap_or_default();
        let statistics = find(&answer, SERVICE).and_then(|service| find(service, SERVICE_STATISTICS));
        let number = statistics.and_then(|statistics| find(statistics, CONNECTIONS)?.first_chunk());
        number
            .map(|number| u64::from_ne_bytes(*number))
            .ok_or_else(|| io::Error::other("no statistics in the answer"))
    }
}

/// What a service is known by.
fn identity(port: &ServicePort<'_>, address: Ipv4Addr) -> Vec<Vec<u8>> {
    let protocol: u16 = match port.transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    };
    vec![
        attribute(SERVICE_FAMILY, &(libc::AF_INET as u16).to_ne_bytes()),
        attribute(SERVICE_PROTOCOL, &protocol.to_ne_bytes()),
        attribute(SERVICE_ADDRESS, &wide(address)),
        attribute(SERVICE_PORT, &port.port.to_be_bytes()),
    ]
}

fn destination(endpoint: Ipv4Addr, port: u16, weight: u32) -> Vec<Vec<u8>> {
    vec![
        attribute(DESTINATION_FAMILY, &(libc::AF_INET as u16).to_ne_bytes()),
        attribute(DESTINATION_ADDRESS, &wide(endpoint)),
        attribute(DESTINATION_PORT, &port.to_be_bytes()),
        attribute(DESTINATION_METHOD, &MASQUERADE.to_ne_bytes()),
        attribute(DESTINATION_WEIGHT, &weight.to_ne_bytes()),
        attribute(DESTINATION_UPPER, &0_u32.to_ne_bytes()),
        attribute(DESTINATION_LOWER, &0_u32.to_ne_bytes()),
    ]
}

/// `union nf_inet_addr`.
fn wide(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&address.octets());
    bytes
}

/// The addresses under which a port is reached.
fn addresses(port: &ServicePort<'_>) -> impl Iterator<Item = Ipv4Addr> {
    [Some(port.vip), port.external].into_iter().flatten()
}

impl Programmer for IpvsProgrammer {
    fn program(&mut self, site: &Site, services: &[Service]) -> Result<()> {
        let all: Vec<Ipv4Addr> = services
            .iter()
            .flat_map(|service| [Some(service.vip()), service.external()])
            .flatten()
            .collect();
        site.hold_addresses(LINK, &all)?;
        let account = self.account.as_ref().ok();
        command::run(
            &site.node,
            account,
            &["ipset", "restore", "-exist"],
            &rules::members(services),
        )?;
        for service in services {
            for port in service.ports() {
                for address in addresses(&port) {
                    self.add_service(&port, address)?;
                }
            }
        }
        Ok(())
    }

    fn change(&mut self, site: &Site, services: &[Service], changed: usize) -> Result<()> {
        let account = self.account.as_ref().ok();
        let members = rules::members(&services[changed..=changed]);
        command::run(&site.node, account, &["ipset", "restore", "-exist"], &members)?;
        for port in services[changed].ports() {
            for address in addresses(&port) {
                self.set_destinations(&port, address)?;
            }
        }
        Ok(())
    }

    fn passed(&mut self, _: &Site, service: &Service, transport: Transport) -> Result<Passed> {
        let port = service.ports().find(|port| port.transport == transport);
        let port = port.context("a service without such a port")?;
        let connections = self
            .connections(&port, service.called())
            .with_context(|| format!("IPVS does not tell of {}", port.name()))?;
        Ok(Passed {
            connections,
            ..Passed::default()
        })
    }

    fn memory(&self, _: &Site) -> Result<u64> {
        anyhow::bail!("the kernel does not charge the table of IPVS to anybody");
    }

    fn forget_flows(&mut self, site: &Site) -> Result<()> {
        conntrack::flush(&site.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_it_says_so_in_one_line() {
        // Whichever it is on this machine.
        if let Some(reason) = unavailable() {
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
        }
    }
}
