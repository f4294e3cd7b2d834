//! Command line and environment of `causeway-agent`; [`resolve`] fills in what depends on the machine.

mod resolve;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::resolve::{Config, ConfigError};
use crate::{
    bpf::MapSizes,
    image::cli::ImageCommand,
    net::{Prefix, Ranges, Routing},
    reconcile::pods::{backoff, model::Delays},
};

/// The node agent of Causeway: runs the pods bound to its node and keeps the node's eBPF data path.
#[derive(Debug, Parser)]
#[command(name = "causeway-agent", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent of one node, in the network namespace it is started in.
    ///
    /// SIGTERM and SIGINT end the agent only: its pods and its data path go on, and the next start takes them over.
    Run(Box<Run>),
    /// Manage the images of a node.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Try everything the agent needs of this machine and print what was found.
    Check,
}

/// Parameters of a node. Everything the agent makes on a machine hangs on them, so several nodes fit on one.
#[derive(Debug, Args)]
pub struct Run {
    /// Name of the cluster; default directories and cgroups are below it.
    #[arg(long, env = "CAUSEWAY_AGENT_CLUSTER", default_value = "dev")]
    pub cluster: String,
    /// Name of the node [default: the host's name].
    #[arg(long, env = "CAUSEWAY_AGENT_NODE_NAME")]
    pub node_name: Option<String>,
    /// Control plane: `http://HOST:PORT` or `unix:///PATH` [default: `unix:///run/causeway/CLUSTER/control.sock`].
    #[arg(long, env = "CAUSEWAY_AGENT_CONTROL")]
    pub control: Option<String>,
    /// Address by which other nodes reach this one, or one of each family with a comma between them [default: the uplink's
    /// first address of each of the cluster's families].
    #[arg(long, env = "CAUSEWAY_AGENT_NODE_IP", value_delimiter = ',', value_name = "ADDRESS")]
    pub node_ip: Vec<IpAddr>,
    /// Interface that leads to the other nodes [default: that of the default route].
    #[arg(long, env = "CAUSEWAY_AGENT_UPLINK")]
    pub uplink: Option<String>,
    /// State directory [default: /var/lib/causeway/CLUSTER/NODE].
    #[arg(long, env = "CAUSEWAY_AGENT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// The node's cgroup below every hierarchy's root [default: causeway/CLUSTER/NODE].
    #[arg(long, env = "CAUSEWAY_AGENT_CGROUP")]
    pub cgroup: Option<String>,
    /// Where bpffs is, or is to be, mounted; pins go to causeway/CLUSTER/NODE below it.
    #[arg(long, env = "CAUSEWAY_AGENT_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where the agent's gRPC API (health) listens.
    #[arg(long, env = "CAUSEWAY_AGENT_LISTEN", default_value = "0.0.0.0:6560")]
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served.
    #[arg(long, env = "CAUSEWAY_AGENT_METRICS_LISTEN", default_value = "127.0.0.1:6561")]
    pub metrics_listen: SocketAddr,
    /// UDP port of the tunnel between nodes.
    #[arg(long, env = "CAUSEWAY_AGENT_VXLAN_PORT", default_value_t = 8472)]
    pub vxlan_port: u16,

    /// Whether packets that pods send out of the cluster get the node's address as their source.
    #[arg(long, env = "CAUSEWAY_AGENT_MASQUERADE", action = clap::ArgAction::Set, default_value_t = true, value_name = "BOOL")]
    pub masquerade: bool,
    /// Where packets from the network for services are sent on to other nodes, if not where all others are: in XDP on the
    /// uplink, before the kernel makes a socket buffer of them.
    #[arg(long, env = "CAUSEWAY_AGENT_XDP", value_enum, default_value_t = Xdp::Off)]
    pub xdp: Xdp,
    /// How packets from the network reach backends on other nodes: with this node as their source, or as they came, so that the
    /// backend's node answers the client directly. The same on all nodes.
    #[arg(long, env = "CAUSEWAY_AGENT_LOAD_BALANCER_MODE", value_enum, default_value_t = LoadBalancerMode::Snat)]
    pub load_balancer_mode: LoadBalancerMode,
    /// VXLAN network identifier.
    #[arg(long, env = "CAUSEWAY_AGENT_VNI", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vni: u32,
    /// Range that holds the pods of all nodes, or one of each family with a comma between them, as the control plane has them.
    #[arg(long, env = "CAUSEWAY_AGENT_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: Ranges,
    /// How pods of other nodes are reached.
    #[arg(long, env = "CAUSEWAY_AGENT_ROUTING", value_enum, default_value_t)]
    pub routing: Routing,
    /// Prefixes outside of the cluster whose machines know the way to pods, with commas between them: packets that pods send
    /// there keep the pod's address as their source.
    #[arg(
        long,
        env = "CAUSEWAY_AGENT_NATIVE_CIDRS",
        value_delimiter = ',',
        value_name = "PREFIX"
    )]
    pub native_cidrs: Vec<Prefix>,
    /// Time between heartbeats.
    #[arg(long, env = "CAUSEWAY_AGENT_HEARTBEAT_INTERVAL", default_value = "2s", value_parser = duration)]
    pub heartbeat_interval: Duration,
    /// Most pods on this node.
    #[arg(long, env = "CAUSEWAY_AGENT_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Processors that pods may use, in thousandths [default: all].
    #[arg(long, env = "CAUSEWAY_AGENT_CPU_MILLIS")]
    pub cpu_millis: Option<u64>,
    /// Memory that pods may use, in bytes [default: all].
    #[arg(long, env = "CAUSEWAY_AGENT_MEMORY_BYTES")]
    pub memory_bytes: Option<u64>,
    /// Most processes and threads in one pod.
    #[arg(long, env = "CAUSEWAY_AGENT_POD_PIDS", default_value_t = 4096)]
    pub pod_pids: u64,
    /// File that becomes the pods' `/etc/resolv.conf`.
    #[arg(long, env = "CAUSEWAY_AGENT_RESOLV_CONF", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Restart delays.
    #[command(flatten)]
    pub restart: Restart,
    /// Map sizes.
    #[command(flatten)]
    pub maps: Maps,
    /// What to log: a level, or directives such as `info,causeway_agent::bpf=debug`.
    #[arg(long, env = "CAUSEWAY_AGENT_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look.
    #[arg(long, env = "CAUSEWAY_AGENT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Values of `--xdp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Xdp {
    /// Not at all.
    Off,
    /// In the interface's driver.
    Native,
    /// In the kernel's generic receive path: for trials, with drivers that have no XDP.
    Generic,
}

/// Values of `--load-balancer-mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LoadBalancerMode {
    /// Source network address translation.
    Snat,
    /// Direct server return.
    Dsr,
}

/// Delays of restarts.
#[derive(Debug, Args)]
pub struct Restart {
    /// Delay before the second restart of a crashing container; it doubles from there.
    #[arg(long, env = "CAUSEWAY_AGENT_RESTART_BACKOFF_BASE", default_value = "10s", value_parser = duration)]
    pub restart_backoff_base: Duration,
    /// Longest delay before a restart.
    #[arg(long, env = "CAUSEWAY_AGENT_RESTART_BACKOFF_MAX", default_value = "5m", value_parser = duration)]
    pub restart_backoff_max: Duration,
    /// A container that ran this long starts afresh.
    #[arg(long, env = "CAUSEWAY_AGENT_RESTART_BACKOFF_RESET", default_value = "10m", value_parser = duration)]
    pub restart_backoff_reset: Duration,
    /// Time between taking an ending pod out of services and asking its containers to end.
    #[arg(long, env = "CAUSEWAY_AGENT_DRAIN_DELAY", default_value = "500ms", value_parser = duration)]
    pub drain_delay: Duration,
}

/// Sizes of the BPF maps, fixed when they are first made.
#[derive(Debug, Args)]
pub struct Maps {
    /// Service ports, once for each address, and for each side (pods, the network), that they are reached at.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_SERVICES", default_value_t = MapSizes::default().services)]
    pub map_services: u32,
    /// Slots of all services' Maglev tables.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_SLOTS", default_value_t = MapSizes::default().slots)]
    pub map_slots: u32,
    /// Backends.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_BACKENDS", default_value_t = MapSizes::default().backends)]
    pub map_backends: u32,
    /// Pods of this node.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_PODS", default_value_t = MapSizes::default().pods)]
    pub map_pods: u32,
    /// Pod ranges of other nodes.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_ROUTES", default_value_t = MapSizes::default().routes)]
    pub map_routes: u32,
    /// Flow directions of established traffic that no socket hook saw.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_CONNTRACK", default_value_t = MapSizes::default().conntrack)]
    pub map_conntrack: u32,
    /// Flow directions of such traffic of which only the client was seen.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_CONNTRACK_NEW", default_value_t = MapSizes::default().conntrack_new)]
    pub map_conntrack_new: u32,
    /// Flows to backends on other nodes, with direct server return, that are written down.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_DIRECT_FLOWS", default_value_t = MapSizes::default().direct_flows)]
    pub map_direct_flows: u32,
    /// Sockets that are connected through a virtual address.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_SOCKETS", default_value_t = MapSizes::default().sockets)]
    pub map_sockets: u32,
    /// Unconnected UDP sockets times the backends they sent to.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_SOCKET_REPLIES", default_value_t = MapSizes::default().socket_replies)]
    pub map_socket_replies: u32,
    /// Clients of services with session affinity, once for each service.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_AFFINITY", default_value_t = MapSizes::default().affinity)]
    pub map_affinity: u32,
    /// Prefixes of clients that services let in from the network.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_SOURCE_RANGES", default_value_t = MapSizes::default().source_ranges)]
    pub map_source_ranges: u32,
    /// Datagrams in fragments, the first of which was seen or is waited for.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_FRAGMENTS", default_value_t = MapSizes::default().fragments)]
    pub map_fragments: u32,
    /// Fragments that wait for the first one of their datagram, 2 KiB each.
    #[arg(long, env = "CAUSEWAY_AGENT_MAP_HELD_FRAGMENTS", default_value_t = MapSizes::default().held_fragments)]
    pub map_held_fragments: u16,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Run {
    /// Delays of the pods' planner.
    pub fn delays(&self) -> Delays {
        Delays {
            restart: backoff::Policy {
                base: self.restart.restart_backoff_base,
                max: self.restart.restart_backoff_max,
                reset_after: self.restart.restart_backoff_reset,
            },
            drain: self.restart.drain_delay,
            ..Delays::default()
        }
    }

    /// Sizes of the maps.
    pub fn map_sizes(&self) -> MapSizes {
        MapSizes {
            services: self.maps.map_services,
            slots: self.maps.map_slots,
            backends: self.maps.map_backends,
            pods: self.maps.map_pods,
            routes: self.maps.map_routes,
            conntrack: self.maps.map_conntrack,
            conntrack_new: self.maps.map_conntrack_new,
            direct_flows: self.maps.map_direct_flows,
            sockets: self.maps.map_sockets,
            socket_replies: self.maps.map_socket_replies,
            affinity: self.maps.map_affinity,
            source_ranges: self.maps.map_source_ranges,
            fragments: self.maps.map_fragments,
            held_fragments: self.maps.map_held_fragments,
        }
    }
}

/// "250ms", "10s", "5m", "1h".
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits]
        .parse()
        .map_err(|_| "must be a number with a unit, such as 10s".to_owned())?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => return Err("must have a unit: ms, s, m or h".to_owned()),
    };
    duration.ok_or_else(|| "is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    pub(super) fn run(arguments: &[&str]) -> Run {
        let all = ["causeway-agent", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        for bad in ["5", "s", "", "1d", "-1s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn restart_delays_come_from_the_command_line() {
        let delays = run(&["--restart-backoff-base", "1s", "--drain-delay", "0s"]).delays();
        assert_eq!(
            (delays.restart.base, delays.drain),
            (Duration::from_secs(1), Duration::ZERO)
        );
    }
}
