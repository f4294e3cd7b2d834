//! What a cluster's parts are called on the machine, and which addresses they have.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;

/// The cluster of `cargo xtask up`.
pub const DEV: &str = "dev";
/// Port of the control plane's API.
const CONTROL_PORT: u16 = 6550;
/// Longest cluster name.
const MAX_NAME: usize = 16;

/// Where the control plane keeps its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// In its own database.
    Embedded,
    /// In an etcd server started for the cluster.
    Etcd,
}

impl Store {
    /// Value of `causeway-control --store`.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        }
    }
}

/// Which addresses nodes, pods and services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum IpFamilies {
    /// Of IPv4 alone.
    #[default]
    Ipv4,
    /// Of IPv4, and of IPv6 beside them.
    Dual,
}

/// How pods of other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Routing {
    /// Through VXLAN tunnels.
    #[default]
    Vxlan,
    /// By routes between the nodes.
    Native,
}

impl Routing {
    /// Value of `causeway-agent run --routing`.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Native => "native",
        }
    }
}

/// A cluster's name, size and addresses; all other names follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name, part of every other name.
    pub name: String,
    /// Number of nodes, from 1.
    pub nodes: usize,
    /// Where the control plane keeps its objects.
    pub store: Store,
    /// First three bytes of the `/24` that stands for the network between the nodes.
    pub underlay: [u8; 3],
    /// Range of the pods' addresses, `/16`.
    pub cluster_cidr: String,
    /// Range of the services' virtual addresses.
    pub service_cidr: String,
    /// With [`IpFamilies::Dual`], ranges of IPv6 come on top.
    pub families: IpFamilies,
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Further arguments for `causeway-control`.
    pub control_args: Vec<String>,
}

impl Spec {
    /// With the default addresses.
    pub fn new(name: &str, nodes: usize, store: Store) -> Result<Self> {
        Self::check_name(name)?;
        if !(1..=50).contains(&nodes) {
            bail!("a cluster on one machine has 1 to 50 nodes, not {nodes}");
        }
        Ok(Self {
            name: name.to_owned(),
            nodes,
            store,
            underlay: [172, 30, 0],
            cluster_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            families: IpFamilies::default(),
            routing: Routing::default(),
            control_args: Vec::new(),
        })
    }

    /// Refuses names that are no good as part of a path, or that look like another cluster's.
    pub fn check_name(name: &str) -> Result<()> {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name.is_empty() || name.len() > MAX_NAME || !plain {
            bail!("cluster name {name:?}: use 1 to {MAX_NAME} lower-case letters and digits");
        }
        if ["node", "underlay"].contains(&name) {
            bail!("cluster name {name:?} is reserved");
        }
        Ok(())
    }

    /// `node-1`…
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("node-{number}")).collect()
    }

    /// Network namespace that stands for the network between the nodes; the control plane runs in it.
    pub fn underlay_netns(&self) -> String {
        format!("{}underlay", netns_prefix(&self.name))
    }

    /// Network namespace of a node.
    pub fn netns(&self, node: &str) -> String {
        format!("{}{node}", netns_prefix(&self.name))
    }

    /// Address of the bridge between the nodes.
    pub fn bridge_ip(&self) -> Ipv4Addr {
        let [a, b, c] = self.underlay;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// Address of a node, by its number from 1.
    pub fn node_ip(&self, number: usize) -> Ipv4Addr {
        let [a, b, c] = self.underlay;
        Ipv4Addr::new(a, b, c, 10 + number as u8)
    }

    /// Whether nodes, pods and services have IPv6 addresses too.
    pub fn has_ipv6(&self) -> bool {
        self.families == IpFamilies::Dual
    }

    /// IPv6 address of the bridge between the nodes.
    pub fn bridge_ip6(&self) -> Ipv6Addr {
        self.underlay_ip6(1)
    }

    /// IPv6 address of a node, by its number from 1.
    pub fn node_ip6(&self, number: usize) -> Ipv6Addr {
        self.underlay_ip6(10 + number as u16)
    }

    /// The bytes of the IPv4 network, read as hexadecimal digits: 172.30.0 is `fd00:172:30:0::/64`.
    fn underlay_ip6(&self, host: u16) -> Ipv6Addr {
        let [a, b, c] = self.underlay.map(|byte| {
            let (hundreds, tens, ones) = (byte / 100, byte / 10 % 10, byte % 10);
            u16::from(hundreds) << 8 | u16::from(tens) << 4 | u16::from(ones)
        });
        Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, host)
    }

    /// Value of `--node-ip`.
    pub fn node_ips(&self, number: usize) -> String {
        if self.has_ipv6() {
            format!("{},{}", self.node_ip(number), self.node_ip6(number))
        } else {
            self.node_ip(number).to_string()
        }
    }

    /// Value of `--cluster-cidr`.
    pub fn cluster_cidrs(&self) -> String {
        self.with_ipv6(&self.cluster_cidr, "fd00:244::/48")
    }

    /// Value of `--service-cidr`.
    pub fn service_cidrs(&self) -> String {
        self.with_ipv6(&self.service_cidr, "fd00:96::/112")
    }

    fn with_ipv6(&self, ipv4: &str, ipv6: &str) -> String {
        if self.has_ipv6() {
            format!("{ipv4},{ipv6}")
        } else {
            ipv4.to_owned()
        }
    }

    /// Where nodes reach the API.
    pub fn control_address(&self) -> SocketAddr {
        SocketAddrV4::new(self.bridge_ip(), CONTROL_PORT).into()
    }

    /// Where the machine's own shells reach the API.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// Value of `CAUSEWAY_SERVER`.
    pub fn server(&self) -> String {
        format!("unix://{}", self.control_socket().display())
    }

    /// Sockets and process ids.
    pub fn run_dir(&self) -> PathBuf {
        run_dir(&self.name)
    }

    /// Logs, images, pods, objects.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.name)
    }

    /// State directory of a node's agent.
    pub fn node_state_dir(&self, node: &str) -> PathBuf {
        self.state_dir().join(node)
    }

    /// Log files, one per process.
    pub fn logs_dir(&self) -> PathBuf {
        self.state_dir().join("logs")
    }

    /// Directory of a node's pins.
    pub fn bpffs(&self, node: &str) -> PathBuf {
        bpffs_dir(&self.name).join(node)
    }

    /// cgroup of a node, relative to a hierarchy's root.
    pub fn cgroup(&self, node: &str) -> String {
        format!("{}/{node}", cgroup(&self.name))
    }

    /// cgroup of the processes started for the cluster, relative to the v2 root; no BPF program is attached to it.
    pub fn system_cgroup(&self) -> String {
        format!("{}/system", cgroup(&self.name))
    }
}

/// What the names of a cluster's network namespaces start with.
pub(super) fn netns_prefix(cluster: &str) -> String {
    if cluster == DEV {
        "causeway-".to_owned()
    } else {
        format!("causeway-{cluster}-")
    }
}

/// Whether a network namespace belongs to `cluster`.
pub(super) fn owns_netns(cluster: &str, netns: &str) -> bool {
    netns.strip_prefix(&netns_prefix(cluster)).is_some_and(|rest| {
        rest == "underlay"
            || rest.starts_with("pod-")
            || rest
                .strip_prefix("node-")
                .is_some_and(|number| number.parse::<usize>().is_ok())
    })
}

/// Sockets and process ids of `cluster`.
pub(super) fn run_dir(cluster: &str) -> PathBuf {
    Path::new("/run/causeway").join(cluster)
}

/// State of `cluster`.
pub(super) fn state_dir(cluster: &str) -> PathBuf {
    Path::new("/var/lib/causeway").join(cluster)
}

/// Pins of `cluster`.
pub(super) fn bpffs_dir(cluster: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/causeway").join(cluster)
}

/// cgroup of `cluster`, relative to a hierarchy's root.
pub(super) fn cgroup(cluster: &str) -> String {
    format!("causeway/{cluster}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_one_cluster_are_never_taken_for_another_ones() {
        let dev = Spec::new(DEV, 2, Store::Embedded).unwrap();
        let other = Spec::new("t7", 2, Store::Embedded).unwrap();
        assert_eq!(dev.netns("node-2"), "causeway-node-2");
        assert_eq!(other.underlay_netns(), "causeway-t7-underlay");
        for (spec, stranger) in [(&dev, &other), (&other, &dev)] {
            for netns in spec
                .node_names()
                .iter()
                .map(|node| spec.netns(node))
                .chain([spec.underlay_netns()])
            {
                assert!(owns_netns(&spec.name, &netns));
                assert!(
                    !owns_netns(&stranger.name, &netns),
                    "{netns} of {} taken for {}'s",
                    spec.name,
                    stranger.name
                );
            }
        }
        assert!(!owns_netns(DEV, "causeway-node-x"));
    }

    #[test]
    fn both_families_are_there_only_when_asked_for() {
        let mut spec = Spec::new("t7", 2, Store::Embedded).unwrap();
        assert_eq!(
            (spec.node_ips(1).as_str(), spec.cluster_cidrs().as_str()),
            ("172.30.0.11", "10.244.0.0/16")
        );
        spec.families = IpFamilies::Dual;
        assert_eq!(spec.node_ips(2), "172.30.0.12,fd00:172:30::c");
        assert_eq!(spec.cluster_cidrs(), "10.244.0.0/16,fd00:244::/48");
        assert_eq!(spec.service_cidrs(), "10.96.0.0/16,fd00:96::/112");
    }

    #[test]
    fn names_that_would_confuse_are_refused() {
        for name in ["", "node", "underlay", "a-b", "../x", "Dev", "abcdefghijklmnopq"] {
            assert!(Spec::check_name(name).is_err(), "{name:?}");
        }
    }
}
