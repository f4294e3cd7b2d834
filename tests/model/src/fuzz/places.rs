//! What sequences choose from.

use crate::model::Hook;

/// Ports of clients: some that Linux gives to sockets, and some that the data path gives to them.
pub const CLIENT_PORTS: [u16; 6] = [40_000, 40_001, 53_211, 61_000, 64_712, 10_000];
/// Where backends listen.
pub const BACKENDS: [&str; 18] = [
    "10.244.1.6:8080",
    "10.244.1.7:8080",
    "10.244.1.7:9090",
    "10.244.1.9:8080",
    "10.244.2.9:8080",
    "10.244.2.10:8080",
    "10.244.3.4:9090",
    "198.51.100.7:8080",
    "203.0.113.9:80",
    "172.30.0.11:8080",
    "[fd00:1::6]:8080",
    "[fd00:1::7]:8080",
    "[fd00:1::7]:9090",
    "[fd00:1::9]:8080",
    "[fd00:2::9]:8080",
    "[fd00:2::10]:8080",
    "[2001:db8:1::7]:8080",
    "[2001:db8:30::11]:8080",
];
/// Those of them that are pods of other nodes.
pub const PODS_ELSEWHERE: [&str; 5] = [
    "10.244.2.9:8080",
    "10.244.2.10:8080",
    "10.244.3.4:9090",
    "[fd00:2::9]:8080",
    "[fd00:2::10]:8080",
];
/// Where pods ask for services.
pub const CLUSTER_VIPS: [&str; 6] = [
    "10.96.0.10:80",
    "10.96.0.10:53",
    "10.96.0.11:80",
    "203.0.113.50:443",
    "[fd00:96::10]:80",
    "[fd00:96::11]:53",
];
/// Where the network asks for them.
pub const NODE_VIPS: [&str; 4] = [
    "172.30.0.11:30080",
    "203.0.113.50:443",
    "203.0.113.51:80",
    "[2001:db8:50::1]:443",
];
/// Hosts of the network.
pub const HOSTS: [&str; 4] = ["192.0.2.7", "192.0.2.8", "198.51.100.20", "2001:db8::7"];
/// Any address there is, and some that there are not.
pub const ANYWHERE: [&str; 20] = [
    "10.244.1.5",
    "10.244.1.6",
    "10.244.1.9",
    "10.244.1.200",
    "10.244.1.1",
    "10.244.2.9",
    "10.244.3.4",
    "10.244.3.200",
    "172.30.0.11",
    "172.30.0.12",
    "192.0.2.7",
    "198.51.100.20",
    "169.254.1.1",
    "10.96.0.10",
    "fd00:1::5",
    "fd00:1::9",
    "fd00:2::9",
    "fe80::1",
    "ff02::1",
    "2001:db8::7",
];
pub const HOOKS: [Hook; 5] = [
    Hook::FromPod,
    Hook::FromTunnel,
    Hook::ToTunnel,
    Hook::FromUplink,
    Hook::ToUplink,
];
pub const TCP_FLAGS: [&str; 10] = ["S", "S", "S", "A", "PA", "SA", "FA", "R", "RA", "F"];
/// Of connections that mostly go on.
pub const CALM_TCP_FLAGS: [&str; 10] = ["S", "S", "A", "A", "A", "PA", "PA", "PA", "FA", "R"];
/// Multiples of seven, so that no sum of them comes within a second of a time-out: the clock also goes on by itself.
pub const WAITS: [u64; 8] = [7, 28, 35, 63, 70, 301, 7_931, 8_001];
pub const AFFINITIES: [u32; 6] = [0, 0, 0, 0, 10, 3_600];
