//! What the node is: found out once at start.

use std::{collections::BTreeMap, fs, net::IpAddr};

use causeway_proto::v1::{NodeAddress, NodeSystemInfo, Quantity};

/// The unchanging part of a node's status.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// Node name.
    pub name: String,
    /// Labels the agent keeps on its node.
    pub labels: BTreeMap<String, String>,
    /// What the machine has.
    pub capacity: BTreeMap<String, Quantity>,
    /// What pods may use.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Where it is reached.
    pub addresses: Vec<NodeAddress>,
    /// Versions and identities.
    pub info: NodeSystemInfo,
    /// Port of the agent's API.
    pub port: u16,
}

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// Node name.
    pub name: &'a str,
    /// Underlay addresses, the primary one first.
    pub addresses: &'a [IpAddr],
    /// Port of the agent's API.
    pub port: u16,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Processors pods may use, in thousandths; all when absent.
    pub cpu_millis: Option<u64>,
    /// Memory pods may use, in bytes; all when absent.
    pub memory_bytes: Option<u64>,
}

impl Facts {
    /// Looks at the machine.
    pub fn gather(given: &Given<'_>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = memory_bytes();
        let quantities = |cpu: String, memory: u64| {
            let pods = given.max_pods.to_string();
            [("cpu", cpu), ("memory", kibibytes(memory)), ("pods", pods)]
                .map(|(name, value)| (name.to_owned(), Quantity { value }))
                .into()
        };
        let cpu = given
            .cpu_millis
            .map_or_else(|| processors.to_string(), |millis| format!("{millis}m"));
        Self {
            name: given.name.to_owned(),
            labels: labels(given.name, std::env::consts::ARCH),
            capacity: quantities(processors.to_string(), memory),
            allocatable: quantities(cpu, given.memory_bytes.unwrap_or(memory)),
            addresses: addresses(given),
            info: system_info(),
            port: given.port,
        }
    }
}

fn addresses(given: &Given<'_>) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress {
        r#type: kind.to_owned(),
        address,
    };
    let internal = given.addresses.iter().map(|ip| address("InternalIP", ip.to_string()));
    internal.chain([address("Hostname", given.name.to_owned())]).collect()
}

fn labels(name: &str, arch: &str) -> BTreeMap<String, String> {
    let arch = architecture(arch);
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Go's names for processor architectures, which image indexes and node labels use.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn system_info() -> NodeSystemInfo {
    let line = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    NodeSystemInfo {
        machine_id: line("/etc/machine-id"),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&line("/etc/os-release")).unwrap_or_else(|| "Linux".to_owned()),
        operating_system: "linux".to_owned(),
        architecture: architecture(std::env::consts::ARCH).to_owned(),
        kubelet_version: format!("v{}", env!("CARGO_PKG_VERSION")),
        container_runtime_version: format!("causeway://{}", env!("CARGO_PKG_VERSION")),
    }
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// Memory of the machine, in bytes; 0 when /proc/meminfo cannot be read.
pub fn memory_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total(&text))
        .unwrap_or(0)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn kibibytes(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_machine_are_understood() {
        assert_eq!(total("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24576 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(text).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(labels("n", "x86_64")["kubernetes.io/arch"], "amd64");
    }

    #[test]
    fn allocatable_follows_the_operator() {
        let given = Given {
            name: "node-1",
            addresses: &["172.30.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            port: 6560,
            max_pods: 20,
            cpu_millis: Some(500),
            memory_bytes: Some(1 << 20),
        };
        let facts = Facts::gather(&given);
        let value = |name: &str| facts.allocatable[name].value.clone();
        assert_eq!(
            (value("cpu"), value("memory"), value("pods")),
            ("500m".into(), "1024Ki".into(), "20".into())
        );
        assert_ne!(facts.capacity["memory"].value, "0Ki");
        let addresses: Vec<_> = facts.addresses.iter().map(|address| address.address.as_str()).collect();
        assert_eq!(addresses, ["172.30.0.2", "fd00::2", "node-1"]);
    }
}
