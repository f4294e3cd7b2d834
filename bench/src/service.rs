//! The services that are programmed: values from which every mode's rules or map entries are made.

use std::net::Ipv4Addr;

/// Port of every service, TCP.
pub const VIP_TCP: u16 = 80;
/// UDP port of the services that are measured.
pub const VIP_UDP: u16 = 53;
/// Where backends listen, TCP.
pub const POD_TCP: u16 = 8080;
/// Where backends listen, UDP.
pub const POD_UDP: u16 = 5353;
/// Endpoints of each service.
pub const ENDPOINTS: usize = 2;
/// Namespace of all services.
pub const NAMESPACE: &str = "bench";
/// All pods of the cluster.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// All virtual addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/12";

/// Addresses under which clients outside the cluster reach services: a range for benchmarks (RFC 2544).
pub const EXTERNAL_CIDR: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);

/// TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// As rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A service with one TCP port and, if it is one that is measured, one UDP port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its place among all, from 0.
    pub index: usize,
    /// Whether packets will be sent to it.
    pub measured: bool,
    /// Addresses of its backends.
    pub endpoints: Vec<Ipv4Addr>,
    /// Whether clients outside the cluster reach it, and its backends are on another node.
    pub is_external: bool,
}

/// One port of a service: what proxies call a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort<'a> {
    /// Namespace of the service.
    pub namespace: &'static str,
    /// Name of the service.
    pub service: String,
    /// Name of the port.
    pub port_name: &'static str,
    /// TCP or UDP.
    pub transport: Transport,
    /// Its virtual address.
    pub vip: Ipv4Addr,
    /// Its address for clients outside the cluster.
    pub external: Option<Ipv4Addr>,
    /// Its port.
    pub port: u16,
    /// Where backends listen.
    pub target_port: u16,
    /// Backends.
    pub endpoints: &'a [Ipv4Addr],
    /// Whether packets will be sent to it.
    pub measured: bool,
}

impl ServicePort<'_> {
    /// "namespace/name:port".
    pub fn name(&self) -> String {
        format!("{}/{}:{}", self.namespace, self.service, self.port_name)
    }
}

impl Service {
    /// Its name.
    pub fn name(&self) -> String {
        format!("svc-{:06}", self.index)
    }

    /// Its virtual address: the one after the network address for the first service, and so on.
    pub fn vip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + self.index as u32)
    }

    /// Its address for clients outside the cluster, if they reach it.
    pub fn external(&self) -> Option<Ipv4Addr> {
        let address = EXTERNAL_CIDR.0.to_bits() + 1 + self.index as u32;
        self.is_external.then(|| Ipv4Addr::from_bits(address))
    }

    /// The address that clients call.
    pub fn called(&self) -> Ipv4Addr {
        self.external().unwrap_or_else(|| self.vip())
    }

    /// Its ports.
    pub fn ports(&self) -> impl Iterator<Item = ServicePort<'_>> {
        let tcp = (Transport::Tcp, "http", VIP_TCP, POD_TCP);
        let udp = self.measured.then_some((Transport::Udp, "dns", VIP_UDP, POD_UDP));
        [Some(tcp), udp]
            .into_iter()
            .flatten()
            .map(|(transport, port_name, port, target_port)| ServicePort {
                namespace: NAMESPACE,
                service: self.name(),
                port_name,
                transport,
                vip: self.vip(),
                external: self.external(),
                port,
                target_port,
                endpoints: &self.endpoints,
                measured: self.measured,
            })
    }
}

/// `count` services; those at `measured` have `backends` behind them, the others addresses that nobody has. The measured ones are
/// reached from outside the cluster, and served on another node, if `external`.
pub fn services(count: usize, measured: &[usize], backends: &[Ipv4Addr], external: bool) -> Vec<Service> {
    let nobody = Ipv4Addr::new(10, 128, 0, 0).to_bits();
    let endpoint = |index: usize, number: usize| Ipv4Addr::from_bits(nobody + (index * ENDPOINTS + number) as u32);
    (0..count)
        .map(|index| {
            let measured = measured.contains(&index);
            let endpoints = if measured {
                backends.to_vec()
            } else {
                (0..ENDPOINTS).map(|number| endpoint(index, number)).collect()
            };
            Service {
                index,
                measured,
                endpoints,
                is_external: measured && external,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_services_share_an_address() {
        let backends = [Ipv4Addr::new(10, 244, 1, 10), Ipv4Addr::new(10, 244, 1, 11)];
        let all = services(100_000, &[0, 50_000, 99_999], &backends, false);
        let vips: HashSet<_> = all.iter().map(Service::vip).collect();
        assert_eq!(vips.len(), 100_000);
        let endpoints: HashSet<_> = all.iter().flat_map(|service| &service.endpoints).collect();
        assert_eq!(endpoints.len(), (100_000 - 3) * ENDPOINTS + 2);
        assert!(
            vips.iter()
                .all(|vip| vip.octets()[0] == 10 && (96..112).contains(&vip.octets()[1]))
        );
    }

    #[test]
    fn only_measured_services_have_a_udp_port() {
        let all = services(3, &[1], &[Ipv4Addr::new(10, 244, 1, 10)], false);
        let ports: Vec<_> = all.iter().map(|service| service.ports().count()).collect();
        assert_eq!(ports, [1, 2, 1]);
        assert_eq!(all[1].ports().next().unwrap().name(), "bench/svc-000001:http");
    }
}
