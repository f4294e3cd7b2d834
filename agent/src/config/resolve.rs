//! Parameters of a node with every default filled in.

use std::{fs, net::IpAddr, path::PathBuf};

use super::Run;
use crate::net::{Prefix, Ranges};

/// The parameters with every default filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Node name.
    pub node_name: String,
    /// Control plane.
    pub control: String,
    /// Underlay addresses, at most one of each family; that of the cluster's primary family first.
    pub node_ips: Vec<IpAddr>,
    /// Uplink.
    pub uplink: String,
    /// State directory.
    pub state_dir: PathBuf,
    /// cgroup path below every hierarchy's root.
    pub cgroup: String,
    /// Directory of the pins below the bpffs root.
    pub pin_dir: PathBuf,
}

impl Config {
    /// Whether the node's tunnel ends at an IPv6 address.
    pub fn has_ipv6_underlay(&self) -> bool {
        self.node_ips.iter().all(IpAddr::is_ipv6)
    }
}

/// A parameter is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No name.
    #[error("the host has no usable name; give one with --node-name")]
    NoName,
    /// A name that cannot be part of paths and of API objects.
    #[error("{what} \"{name}\" must be a DNS label: lower-case letters, digits and '-', at most 63")]
    BadName {
        /// Which name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// No default route.
    #[error("there is no default route to tell the uplink by; give it with --uplink")]
    NoUplink,
    /// No address.
    #[error(
        "interface {0} does not exist in this network namespace or has no address of the cluster's families; give one with \
         --node-ip"
    )]
    NoAddress(String),
    /// Two addresses of one family, or more than two.
    #[error("--node-ip takes one address, or one of each family")]
    NodeAddresses,
}

impl Run {
    /// Fills in the defaults that depend on the machine.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let node_name = self
            .node_name
            .clone()
            .or_else(host)
            .filter(|name| !name.is_empty())
            .ok_or(ConfigError::NoName)?;
        for (what, name) in [("node name", &node_name), ("cluster name", &self.cluster)] {
            if !is_label(name) {
                return Err(ConfigError::BadName {
                    what,
                    name: name.clone(),
                });
            }
        }
        let uplink = match &self.uplink {
            Some(uplink) => uplink.clone(),
            None => default_route().ok_or(ConfigError::NoUplink)?,
        };
        let node_ips = self.node_addresses(&uplink)?;
        let own = format!("causeway/{}/{node_name}", self.cluster);
        Ok(Config {
            control: self
                .control
                .clone()
                .unwrap_or_else(|| format!("unix:///run/causeway/{}/control.sock", self.cluster)),
            state_dir: self
                .state_dir
                .clone()
                .unwrap_or_else(|| PathBuf::from("/var/lib").join(&own)),
            cgroup: self.cgroup.clone().unwrap_or_else(|| own.clone()),
            pin_dir: causeway_maps::pins::node_dir(&self.bpffs, &self.cluster, &node_name),
            node_name,
            node_ips,
            uplink,
        })
    }

    fn node_addresses(&self, uplink: &str) -> Result<Vec<IpAddr>, ConfigError> {
        let prefers_ipv4 = self.cluster_cidr.primary().is_ipv4();
        if !self.node_ip.is_empty() {
            let given: Vec<Prefix> = self.node_ip.iter().map(|address| Prefix::host(*address)).collect();
            Ranges::new(&given).ok_or(ConfigError::NodeAddresses)?;
            let mut addresses = self.node_ip.clone();
            addresses.sort_by_key(|address| address.is_ipv4() != prefers_ipv4);
            return Ok(addresses);
        }
        let ranges = self.cluster_cidr.iter();
        let found: Vec<_> = ranges
            .filter_map(|range| first_address(uplink, range.is_ipv4()))
            .collect();
        if found.is_empty() {
            return Err(ConfigError::NoAddress(uplink.to_owned()));
        }
        Ok(found)
    }
}

fn is_label(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(inside) && !name.starts_with('-') && !name.ends_with('-')
}

/// The interface of the IPv4 default route, in this network namespace.
fn default_route() -> Option<String> {
    parse_default_route(&fs::read_to_string("/proc/thread-self/net/route").ok()?)
}

/// Columns: interface, destination, gateway, flags, …, mask (`proc_pid_net(5)`).
fn parse_default_route(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (columns.get(1) == Some(&"00000000") && columns.get(7) == Some(&"00000000")).then(|| columns[0].to_owned())
    })
}

/// The first address of a family that an interface has and other machines can use.
fn first_address(interface: &str, is_ipv4: bool) -> Option<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().ok()?;
    let of_interface = addresses.filter(|address| address.interface_name == interface);
    of_interface.filter_map(|address| address.address).find_map(|address| {
        if is_ipv4 {
            return Some(IpAddr::V4(address.as_sockaddr_in()?.ip()));
        }
        let address = address.as_sockaddr_in6()?.ip();
        (!address.is_unicast_link_local()).then_some(IpAddr::V6(address))
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::tests::run, *};
    use crate::net::Routing;

    #[test]
    fn paths_follow_from_cluster_and_node() {
        let config = run(&["--cluster", "c1", "--node-name", "n1", "--uplink", "lo"])
            .resolve()
            .unwrap();
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/causeway/c1/n1"));
        assert_eq!(config.pin_dir, PathBuf::from("/sys/fs/bpf/causeway/c1/n1"));
        assert_eq!(config.cgroup, "causeway/c1/n1");
        assert_eq!(config.control, "unix:///run/causeway/c1/control.sock");
        assert_eq!(config.node_ips, [Ipv4Addr::LOCALHOST]);
    }

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for name in ["N1", "a/b", "..", "-a", "a-", ""] {
            let error = run(&[&format!("--node-name={name}"), "--cluster", "c", "--uplink", "lo"])
                .resolve()
                .unwrap_err();
            assert!(
                matches!(error, ConfigError::BadName { .. } | ConfigError::NoName),
                "{name}: {error:?}"
            );
        }
        let error = run(&["--node-name", "n", "--uplink", "cw-none"]).resolve().unwrap_err();
        assert!(matches!(error, ConfigError::NoAddress(name) if name == "cw-none"));
    }

    #[test]
    fn node_addresses_are_one_of_each_family_in_the_clusters_order() {
        let resolve = |arguments: &[&str]| {
            let common = ["--node-name", "n", "--uplink", "lo"];
            run(&[&common, arguments].concat()).resolve()
        };
        let both = "--cluster-cidr=fd00:244::/48,10.244.0.0/16";
        let texts = |arguments: &[&str]| -> Vec<String> {
            let config = resolve(arguments).unwrap();
            config.node_ips.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            texts(&["--node-ip=172.30.0.1,fd00::1", both]),
            ["fd00::1", "172.30.0.1"]
        );
        assert_eq!(texts(&["--node-ip=172.30.0.1,fd00::1"]), ["172.30.0.1", "fd00::1"]);
        assert_eq!(texts(&["--node-ip=172.30.0.1", both]), ["172.30.0.1"]);
        let error = resolve(&["--node-ip=172.30.0.1,172.30.0.2"]).unwrap_err();
        assert!(matches!(error, ConfigError::NodeAddresses));
        let native = run(&["--routing", "native", "--native-cidrs", "192.168.0.0/16,fd00:9::/48"]);
        assert_eq!((native.routing, native.native_cidrs.len()), (Routing::Native, 2));
    }

    #[test]
    fn the_uplink_is_the_default_routes_interface() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                     cw0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(parse_default_route(table).as_deref(), Some("eth0"));
        assert_eq!(parse_default_route("Iface\n"), None);
    }
}
