//! What is compared, and what is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::program::ipvs;

/// A way from the client to a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The pod's own address through Causeway's pod network: the limit for Causeway's modes.
    Direct,
    /// The pod's own address, routed by the node without any rule: the limit for iptables and nftables.
    DirectRouted,
    /// Causeway, balanced once inside `connect`.
    CausewaySocket,
    /// Causeway, balanced packet by packet at the pod's interface.
    CausewayTc,
    /// Causeway, in XDP on the uplink before the stack; answers come back through the node.
    CausewayXdp,
    /// The same with direct server return: the backend's node answers the client.
    CausewayXdpDirect,
    /// kube-proxy's rules for iptables, written by the variant that is the quicker by far: `iptables-legacy` where there
    /// is one.
    Iptables,
    /// The same rules, translated to nftables by `iptables-nft`, which today's distributions call `iptables`.
    IptablesNft,
    /// kube-proxy's rules for nftables.
    Nftables,
    /// kube-proxy with IP Virtual Server.
    Ipvs,
}

impl Mode {
    /// As in options, tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectRouted => "direct-routed",
            Self::CausewaySocket => "causeway-socket",
            Self::CausewayTc => "causeway-tc",
            Self::CausewayXdp => "causeway-xdp",
            Self::CausewayXdpDirect => "causeway-xdp-direct",
            Self::Iptables => "iptables",
            Self::IptablesNft => "iptables-nft",
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        }
    }

    /// Whether it is the pod's own address that is called.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectRouted)
    }

    /// The same pods on the same kind of node, called by their own addresses: what `ratio_to_direct` compares with.
    #[must_use]
    pub fn direct(self) -> Self {
        match self {
            Self::Direct | Self::CausewaySocket | Self::CausewayTc | Self::CausewayXdp | Self::CausewayXdpDirect => {
                Self::Direct
            }
            Self::DirectRouted | Self::Iptables | Self::IptablesNft | Self::Nftables | Self::Ipvs => Self::DirectRouted,
        }
    }

    /// Which node it is measured on.
    pub fn site(self) -> SiteKind {
        match self {
            Self::Direct | Self::CausewaySocket | Self::CausewayTc => SiteKind::Causeway,
            Self::CausewayXdp => SiteKind::CausewayXdp,
            Self::CausewayXdpDirect => SiteKind::CausewayXdpDirect,
            Self::DirectRouted => SiteKind::Plain,
            Self::Ipvs => SiteKind::Ipvs,
            Self::Iptables => SiteKind::Iptables,
            Self::IptablesNft => SiteKind::IptablesNft,
            Self::Nftables => SiteKind::Nftables,
        }
    }

    /// Whether it is a way to backends there at all.
    pub fn is_for(self, backends: Backends) -> bool {
        match self {
            Self::CausewayXdp | Self::CausewayXdpDirect => backends == Backends::Remote,
            Self::CausewaySocket => backends == Backends::Local,
            _ => true,
        }
    }

    /// Why it cannot be measured here, with backends there, if so.
    pub fn unavailable(self, backends: Backends) -> Option<String> {
        match (self, backends) {
            (Self::CausewayXdp | Self::CausewayXdpDirect, Backends::Local) => {
                return Some("XDP forwards to other nodes only: --backends remote".to_owned());
            }
            (Self::CausewaySocket, Backends::Remote) => {
                return Some("the client is outside the cluster, where no socket is balanced".to_owned());
            }
            _ => {}
        }
        match self {
            Self::Ipvs => ipvs::unavailable(),
            Self::Iptables => missing_program("iptables-restore"),
            Self::IptablesNft => missing_program("iptables-nft-restore"),
            Self::Nftables => missing_program("nft"),
            _ => None,
        }
    }

    /// The largest number of services it is asked to hold unless told otherwise.
    pub fn most_services(self) -> usize {
        match self {
            // Rules are compared one after the other, and every change rewrites a list of all services; the kernel's time
            // for the nftables of so many services grows with their square.
            Self::Iptables | Self::Nftables => 10_000,
            // Ten thousand take it minutes, and each change of one endpoint too.
            Self::IptablesNft => 1_000,
            _ => usize::MAX,
        }
    }
}

/// Where the backends are, and with them the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backends {
    /// On the node that balances; the client is a pod there too.
    Local,
    /// On another node, behind a tunnel; the client is outside the cluster.
    Remote,
}

impl Backends {
    /// As in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Local => "client and backends on the node that balances",
            Self::Remote => "client outside the cluster, backends on another node",
        }
    }
}

fn missing_program(name: &str) -> Option<String> {
    (!crate::program::is_installed(name)).then(|| format!("there is no {name} in PATH"))
}

/// A node that modes share when they need the same things in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SiteKind {
    /// Causeway's BPF programs and maps.
    Causeway,
    /// The same with XDP on the uplink.
    CausewayXdp,
    /// The same with direct server return too.
    CausewayXdpDirect,
    /// Routing alone.
    Plain,
    /// kube-proxy's iptables rules.
    Iptables,
    /// The same by way of nftables.
    IptablesNft,
    /// kube-proxy's nftables rules.
    Nftables,
    /// kube-proxy's services of IPVS.
    Ipvs,
}

impl SiteKind {
    /// Whether Causeway runs on it.
    pub fn has_causeway(self) -> bool {
        matches!(self, Self::Causeway | Self::CausewayXdp | Self::CausewayXdpDirect)
    }
}

/// Where among all services the measured one stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// Before all others.
    First,
    /// Half before, half after.
    Middle,
    /// After all others.
    Last,
}

impl Position {
    /// All that differ among this many services.
    pub fn among(services: usize) -> &'static [Self] {
        if services < 3 {
            &[Self::First]
        } else {
            &[Self::First, Self::Middle, Self::Last]
        }
    }

    /// Index of the service there.
    pub fn index(self, services: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Middle => services / 2,
            Self::Last => services - 1,
        }
    }

    /// As in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Middle => "middle",
            Self::Last => "last",
        }
    }
}

/// Which of two values is the better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    /// The smaller.
    Less,
    /// The larger.
    More,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Median time of `connect`, one connection at a time.
    ConnectLatencyP50,
    /// 99th percentile of it.
    ConnectLatencyP99,
    /// Share of connects that took longer than 5 ms, where the server closes in good order and its side rests in TIME-WAIT.
    SlowConnects,
    /// Connections with one request each, several at a time.
    ConnectionsPerSecond,
    /// Processor time of such a connection, all processors, client, servers and softirq together.
    CpuPerConnection,
    /// Requests on connections that stay open, several at a time.
    RequestsPerSecond,
    /// Median time of such a request.
    RequestLatencyP50,
    /// 99th percentile of it.
    RequestLatencyP99,
    /// Processor time of such a request.
    CpuPerRequest,
    /// Bytes over one connection.
    Throughput,
    /// Processor time for them.
    CpuPerGigabyte,
    /// UDP requests, each from a new socket, one at a time.
    UdpPerSecond,
    /// Median time of such a request and its answer.
    UdpLatencyP50,
    /// 99th percentile of it.
    UdpLatencyP99,
    /// Processor time of such a request.
    CpuPerUdp,
    /// From no service to all of them.
    ProgrammingTime,
    /// Processor time for that.
    ProgrammingCpu,
    /// From the decision to change one endpoint until the first connection that goes to the new one.
    EndpointChange,
    /// From a probe's verdict until the first connection that avoids the backend.
    ReadinessFlip,
    /// Kernel memory of maps or rules.
    Memory,
}

impl Measure {
    /// As in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectLatencyP50 => "connect_latency_p50",
            Self::ConnectLatencyP99 => "connect_latency_p99",
            Self::SlowConnects => "slow_connects",
            Self::ConnectionsPerSecond => "connections_per_second",
            Self::CpuPerConnection => "cpu_per_connection",
            Self::RequestsPerSecond => "requests_per_second",
            Self::RequestLatencyP50 => "request_latency_p50",
            Self::RequestLatencyP99 => "request_latency_p99",
            Self::CpuPerRequest => "cpu_per_request",
            Self::Throughput => "throughput",
            Self::CpuPerGigabyte => "cpu_per_gigabyte",
            Self::UdpPerSecond => "udp_per_second",
            Self::UdpLatencyP50 => "udp_latency_p50",
            Self::UdpLatencyP99 => "udp_latency_p99",
            Self::CpuPerUdp => "cpu_per_udp",
            Self::ProgrammingTime => "programming_time",
            Self::ProgrammingCpu => "programming_cpu",
            Self::EndpointChange => "endpoint_change",
            Self::ReadinessFlip => "readiness_flip",
            Self::Memory => "memory",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::ConnectLatencyP50 => "connect, p50",
            Self::ConnectLatencyP99 => "connect, p99",
            Self::SlowConnects => "connects over 5 ms (TIME-WAIT)",
            Self::ConnectionsPerSecond => "connections",
            Self::CpuPerConnection => "CPU per connection",
            Self::RequestsPerSecond => "requests (keep-alive)",
            Self::RequestLatencyP50 => "request, p50",
            Self::RequestLatencyP99 => "request, p99",
            Self::CpuPerRequest => "CPU per request",
            Self::Throughput => "throughput",
            Self::CpuPerGigabyte => "CPU per gigabyte",
            Self::UdpPerSecond => "UDP exchanges",
            Self::UdpLatencyP50 => "UDP exchange, p50",
            Self::UdpLatencyP99 => "UDP exchange, p99",
            Self::CpuPerUdp => "CPU per UDP exchange",
            Self::ProgrammingTime => "programming all",
            Self::ProgrammingCpu => "CPU for programming",
            Self::EndpointChange => "one endpoint changed",
            Self::ReadinessFlip => "readiness flipped",
            Self::Memory => "kernel memory",
        }
    }

    /// Unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::ConnectLatencyP50
            | Self::ConnectLatencyP99
            | Self::RequestLatencyP50
            | Self::RequestLatencyP99
            | Self::UdpLatencyP50
            | Self::UdpLatencyP99
            | Self::CpuPerConnection
            | Self::CpuPerRequest
            | Self::CpuPerUdp => "µs",
            Self::SlowConnects => "%",
            Self::ConnectionsPerSecond | Self::RequestsPerSecond | Self::UdpPerSecond => "1/s",
            Self::Throughput => "Gbit/s",
            Self::CpuPerGigabyte
            | Self::ProgrammingTime
            | Self::ProgrammingCpu
            | Self::EndpointChange
            | Self::ReadinessFlip => "ms",
            Self::Memory => "MiB",
        }
    }

    /// Which of two values is the better.
    pub fn better(self) -> Better {
        match self {
            Self::ConnectionsPerSecond | Self::RequestsPerSecond | Self::Throughput | Self::UdpPerSecond => {
                Better::More
            }
            _ => Better::Less,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_compare_with_the_direct_way_over_their_own_network() {
        assert_eq!(Mode::CausewayTc.direct(), Mode::Direct);
        assert_eq!(Mode::Nftables.direct(), Mode::DirectRouted);
        for mode in Mode::value_variants() {
            assert_eq!(mode.direct().direct(), mode.direct(), "{}", mode.name());
        }
    }

    #[test]
    fn names_on_the_command_line_and_in_files_are_the_same() {
        for mode in Mode::value_variants() {
            assert_eq!(mode.to_possible_value().unwrap().get_name(), mode.name());
            assert_eq!(serde_json::to_string(mode).unwrap(), format!("\"{}\"", mode.name()));
        }
        let name = serde_json::to_string(&Measure::CpuPerUdp).unwrap();
        assert_eq!(name, format!("\"{}\"", Measure::CpuPerUdp.name()));
    }

    #[test]
    fn positions_stay_inside() {
        for services in [1, 3, 10_000] {
            for position in Position::among(services) {
                assert!(position.index(services) < services);
            }
        }
        assert_eq!(Position::among(1), [Position::First]);
    }
}
