//! The command line of `causeway-control`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, ValueEnum};

use crate::{
    api::{
        RegistryOptions,
        pools::{MAX_HOST_BITS, MIN_HOST_BITS},
        server::Address,
    },
    cidr::{Cidr, Family},
    port_range::PortRange,
    reconcile::{
        ReconcileConfig,
        node_cidr::{Pool, PoolError},
        node_lifecycle::LifecycleTimes,
    },
};

/// Control plane of a Causeway cluster: serves the API over gRPC and runs the reconcilers and the scheduler.
#[derive(Clone, Debug, Parser)]
#[command(name = "causeway-control", version, about, max_term_width = 120)]
pub struct Config {
    /// Where to serve the API, HOST:PORT or unix:PATH; may be given several times
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CAUSEWAY_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:6550"
    )]
    pub listen: Vec<Address>,

    /// Where to serve /metrics, /healthz and /readyz over HTTP, such as 127.0.0.1:6551; not served if absent
    #[arg(long, value_name = "HOST:PORT", env = "CAUSEWAY_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,

    /// Where objects are kept: in this process's directory, or in an etcd cluster
    #[arg(long, value_enum, env = "CAUSEWAY_STORE", default_value_t = StoreKind::Embedded)]
    pub store: StoreKind,

    /// Directory of the embedded store
    #[arg(
        long,
        value_name = "PATH",
        env = "CAUSEWAY_DATA_DIR",
        default_value = "/var/lib/causeway/control"
    )]
    pub data_dir: PathBuf,

    /// URLs of the etcd members
    #[arg(
        long,
        value_name = "URL",
        env = "CAUSEWAY_ETCD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        value_parser = parse_endpoint
    )]
    pub etcd_endpoints: Vec<String>,

    /// What goes before all keys in etcd, so that clusters can share one
    #[arg(long, value_name = "PREFIX", env = "CAUSEWAY_ETCD_PREFIX", default_value = "causeway", value_parser = parse_prefix)]
    pub etcd_prefix: String,

    /// Range of service VIPs; with a comma, one of each family, the preferred family first
    #[arg(
        long,
        value_name = "CIDR",
        env = "CAUSEWAY_SERVICE_CIDR",
        value_delimiter = ',',
        default_value = "10.96.0.0/16",
        value_parser = parse_service_cidr
    )]
    pub service_cidr: Vec<Cidr>,

    /// Range of pod addresses, of which every node gets a part; with a comma, one of each family
    #[arg(
        long,
        value_name = "CIDR",
        env = "CAUSEWAY_CLUSTER_CIDR",
        value_delimiter = ',',
        default_value = "10.244.0.0/16"
    )]
    pub cluster_cidr: Vec<Cidr>,

    /// Prefix length of a node's part of the IPv4 pod range
    #[arg(
        long,
        value_name = "BITS",
        env = "CAUSEWAY_NODE_CIDR_MASK_SIZE",
        default_value_t = 24,
        value_parser = clap::value_parser!(u8).range(8..=30)
    )]
    pub node_cidr_mask_size: u8,

    /// Prefix length of a node's part of the IPv6 pod range
    #[arg(
        long,
        value_name = "BITS",
        env = "CAUSEWAY_NODE_CIDR_MASK_SIZE_IPV6",
        default_value_t = 64,
        value_parser = clap::value_parser!(u8).range(16..=126)
    )]
    pub node_cidr_mask_size_ipv6: u8,

    /// Ports that services may have on every node
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "CAUSEWAY_NODE_PORT_RANGE",
        default_value_t = PortRange::NODE_PORTS
    )]
    pub node_port_range: PortRange,

    /// Addresses for load-balancer services, which somebody routes to the nodes; may be given several times; without any, such
    /// services wait
    #[arg(
        long,
        value_name = "CIDR",
        env = "CAUSEWAY_LOAD_BALANCER_RANGE",
        value_delimiter = ',',
        value_parser = parse_load_balancer_range
    )]
    pub load_balancer_range: Vec<Cidr>,

    /// A node that is silent for so long is marked not ready, and its pods leave their services
    #[arg(
        long,
        value_name = "TIME",
        env = "CAUSEWAY_NODE_MONITOR_GRACE_PERIOD",
        default_value = "10s",
        value_parser = parse_time
    )]
    pub node_monitor_grace_period: Duration,

    /// Pods of a node that has not been ready for so long are deleted, to be replaced elsewhere
    #[arg(long, value_name = "TIME", env = "CAUSEWAY_POD_EVICTION_TIMEOUT", default_value = "5m", value_parser = parse_time)]
    pub pod_eviction_timeout: Duration,

    /// What to log: a level or directives
    #[arg(
        long,
        help = "What to log: error, warn, info, debug, trace, or directives such as info,causeway_control=debug",
        value_name = "FILTER",
        env = "CAUSEWAY_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,

    /// How to log
    #[arg(long, value_enum, env = "CAUSEWAY_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// In a directory, for one control plane.
    Embedded,
    /// In etcd, for several.
    Etcd,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Options that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address could be two things.
    #[error("{0} and {1} overlap")]
    Overlap(String, String),
    /// More than a range for each family.
    #[error("{option} takes one range, or one of each family")]
    Families {
        /// The option.
        option: &'static str,
    },
    /// VIPs without pods, or pods without VIPs.
    #[error("--service-cidr has a range of a family that --cluster-cidr has none of: {0}")]
    NoPods(Cidr),
    /// No node could get a part.
    #[error("--node-cidr-mask-size: {0}")]
    NodeMask(#[from] PoolError),
    /// Pods would be deleted before their node is known to be silent.
    #[error("--pod-eviction-timeout must not be shorter than --node-monitor-grace-period")]
    Eviction,
    /// The log filter has a syntax error.
    #[error("--log-level {text:?}: {reason}")]
    LogLevel {
        /// The filter.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Checks what concerns several options.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (option, ranges) in [
            ("--service-cidr", &self.service_cidr),
            ("--cluster-cidr", &self.cluster_cidr),
        ] {
            match ranges.as_slice() {
                [_] => {}
                [first, second] if first.family() != second.family() => {}
                _ => return Err(ConfigError::Families { option }),
            }
        }
        let has_pods = |range: &&Cidr| self.cluster_cidr.iter().any(|pods| pods.family() == range.family());
        if let Some(range) = self.service_cidr.iter().find(|range| !has_pods(range)) {
            return Err(ConfigError::NoPods(*range));
        }
        self.check_overlaps()?;
        if self.pod_eviction_timeout < self.node_monitor_grace_period {
            return Err(ConfigError::Eviction);
        }
        self.reconcile()?;
        self.log_filter().map(drop)
    }

    fn check_overlaps(&self) -> Result<(), ConfigError> {
        let named =
            |option: &'static str, ranges: &'_ [Cidr]| ranges.iter().map(|range| (option, *range)).collect::<Vec<_>>();
        let mut all = named("--service-cidr", &self.service_cidr);
        all.extend(named("--cluster-cidr", &self.cluster_cidr));
        all.extend(named("--load-balancer-range", &self.load_balancer_range));
        for (at, (option, range)) in all.iter().enumerate() {
            if let Some((other, second)) = all[at + 1..].iter().find(|(_, other)| other.overlaps(range)) {
                return Err(ConfigError::Overlap(
                    format!("{option} {range}"),
                    format!("{other} {second}"),
                ));
            }
        }
        Ok(())
    }

    /// What the registry is told.
    pub fn registry(&self) -> RegistryOptions {
        let [first, second @ ..] = self.service_cidr.as_slice() else {
            unreachable!("there is a default, and clap takes no empty list");
        };
        RegistryOptions {
            secondary_service_cidr: second.first().copied(),
            node_ports: self.node_port_range,
            load_balancer_ranges: self.load_balancer_range.clone(),
            ..RegistryOptions::new(*first)
        }
    }

    /// What the reconcilers are told.
    pub fn reconcile(&self) -> Result<ReconcileConfig, ConfigError> {
        let pool = |range: &Cidr| match range.family() {
            Family::V4 => Pool::new(*range, self.node_cidr_mask_size),
            Family::V6 => Pool::new(*range, self.node_cidr_mask_size_ipv6),
        };
        let pod_ranges = self.cluster_cidr.iter().map(pool).collect::<Result<_, _>>()?;
        let lifecycle = LifecycleTimes {
            grace_period: self.node_monitor_grace_period,
            eviction_timeout: self.pod_eviction_timeout,
        };
        Ok(ReconcileConfig {
            lifecycle,
            ..ReconcileConfig::new(pod_ranges)
        })
    }

    /// The log filter.
    pub fn log_filter(&self) -> Result<tracing_subscriber::EnvFilter, ConfigError> {
        tracing_subscriber::EnvFilter::try_new(&self.log_level).map_err(|error| ConfigError::LogLevel {
            text: self.log_level.clone(),
            reason: error.to_string(),
        })
    }
}

fn parse_service_cidr(text: &str) -> Result<Cidr, String> {
    parse_range(text, MIN_HOST_BITS)
}

fn parse_load_balancer_range(text: &str) -> Result<Cidr, String> {
    parse_range(text, 0)
}

/// A range of which each address is remembered.
fn parse_range(text: &str, min_host_bits: u8) -> Result<Cidr, String> {
    let cidr = Cidr::from_str(text).map_err(|error| error.to_string())?;
    if (min_host_bits..=MAX_HOST_BITS).contains(&cidr.host_bits()) {
        return Ok(cidr);
    }
    let bits = cidr.family().bits();
    let (shortest, longest) = (bits - MAX_HOST_BITS, bits - min_host_bits);
    Err(format!("the prefix length must be between {shortest} and {longest}"))
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("must be a URL such as http://127.0.0.1:2379".into()),
    }
}

fn parse_prefix(text: &str) -> Result<String, String> {
    match text.trim_matches('/') {
        "" => Err("must not be empty".into()),
        prefix => Ok(prefix.to_owned()),
    }
}

/// Reads "40s", "5m", "1m30s", "500ms".
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a time such as 40s, 5m, 1m30s or 500ms".to_owned();
    let (mut rest, mut total) = (text, Duration::ZERO);
    if text.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_len = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        let millis = match &rest[digits..digits + unit_len] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[digits + unit_len..];
    }
    if total.is_zero() {
        Err("must be longer than 0".into())
    } else {
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("causeway-control").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_consistent() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.listen, ["127.0.0.1:6550".parse().unwrap()]);
        assert_eq!(config.metrics_listen, None);
        assert_eq!(config.node_monitor_grace_period, Duration::from_secs(10));
    }

    #[test]
    fn several_addresses_are_taken() {
        let config = parse(&["--listen", "0.0.0.0:1", "--listen", "unix:/run/a.sock"]).unwrap();
        assert_eq!(config.listen.len(), 2);
    }

    #[test]
    fn wrong_values_are_named_with_what_would_be_right() {
        for (args, part) in [
            (["--listen", "6550"], "must be HOST:PORT or unix:/path"),
            (["--service-cidr", "10.96.0.1/16"], "did you mean 10.96.0.0/16?"),
            (["--service-cidr", "10.0.0.0/8"], "between 12 and 30"),
            (["--service-cidr", "fd00::/64"], "between 108 and 126"),
            (["--load-balancer-range", "192.0.2.0/8"], "did you mean 192.0.0.0/8?"),
            (["--node-port-range", "32767-30000"], "such as 30000-32767"),
            (["--cluster-cidr", "pods"], "must be a valid address range"),
            (["--node-cidr-mask-size", "31"], "31 is not in 8..=30"),
            (["--node-monitor-grace-period", "40"], "must be a time such as 40s"),
            (["--etcd-endpoints", "127.0.0.1:2379"], "must be a URL"),
            (["--store", "redis"], "possible values: embedded, etcd"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(part) && error.contains(args[0]), "{args:?}: {error}");
        }
    }

    #[test]
    fn a_cluster_may_have_both_families() {
        let config = parse(&[
            "--service-cidr",
            "10.96.0.0/16,fd00:96::/112",
            "--cluster-cidr",
            "10.244.0.0/16,fd00:244::/48",
            "--load-balancer-range",
            "192.0.2.0/28,2001:db8::/124",
        ])
        .unwrap();
        assert_eq!(config.check(), Ok(()));
        let registry = config.registry();
        assert_eq!(registry.secondary_service_cidr, Some("fd00:96::/112".parse().unwrap()));
        assert_eq!(registry.load_balancer_ranges.len(), 2);
        assert_eq!(config.reconcile().unwrap().pod_ranges.len(), 2);
    }

    #[test]
    fn contradictions_are_found() {
        let check = |args: &[&str]| parse(args).unwrap().check().unwrap_err();
        assert_eq!(
            check(&["--service-cidr", "10.244.8.0/24"]).to_string(),
            "--service-cidr 10.244.8.0/24 and --cluster-cidr 10.244.0.0/16 overlap"
        );
        assert!(matches!(
            check(&["--load-balancer-range", "10.96.3.0/24"]),
            ConfigError::Overlap(..)
        ));
        assert_eq!(
            check(&["--service-cidr", "10.96.0.0/24,10.97.0.0/24"]),
            ConfigError::Families {
                option: "--service-cidr"
            }
        );
        assert!(matches!(
            check(&["--service-cidr", "10.96.0.0/16,fd00:96::/112"]),
            ConfigError::NoPods(_)
        ));
        assert!(matches!(
            check(&["--node-cidr-mask-size", "15"]),
            ConfigError::NodeMask(_)
        ));
        assert_eq!(check(&["--pod-eviction-timeout", "1s"]), ConfigError::Eviction);
        assert!(matches!(check(&["--log-level", "a=b=c"]), ConfigError::LogLevel { .. }));
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "s", "5", "5d", "1m30", "-1s", "0s", "99999999999999999999s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
