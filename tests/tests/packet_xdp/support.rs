//! A node between its clients' network and another node.

use anyhow::Result;
use causeway_tests::packet::{Action, CLIENT_IFINDEX, Datapath, Frame, ServiceOptions, xdp::NEIGHBOUR_MAC};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const VIP: &str = "198.51.100.10:80";
pub const CLIENT: &str = "192.0.2.7:40000";
pub const NODE: &str = "172.30.0.11";
pub const OTHER: &str = "172.30.0.12";
/// The MAC addresses of a frame that tells the backend's node of the backend: its port and its address, each behind a prefix.
pub const TO_BACKEND: [u8; 12] = [0x02, 0xcd, 0, 0, 0x1f, 0x90, 0x02, 0xcd, 10, 244, 2, 6];

pub const FROM_NETWORK: ServiceOptions = ServiceOptions::FROM_NETWORK;

/// A node with one pod that knows another node, and its clients' network.
pub fn node() -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.1.6", CLIENT_IFINDEX)?;
    datapath.route("10.244.2.0", 24, OTHER)?;
    datapath.neighbour(OTHER)?;
    datapath.neighbour("192.0.2.7")?;
    Ok(datapath)
}

/// A node that sends directly to a backend on another, and the service's id.
pub fn direct() -> Result<(Datapath, u32)> {
    let mut datapath = node()?;
    datapath.return_directly()?;
    datapath.remote_backend(0, "10.244.2.6:8080", OTHER)?;
    let id = datapath.service_with(VIP, TCP, &[0], FROM_NETWORK)?;
    Ok((datapath, id))
}

/// The other node, with a backend under an index of its own.
pub fn backends_node(index: u32, address: &str) -> Result<Datapath> {
    let mut datapath = Datapath::load()?;
    datapath.pod("10.244.2.6", CLIENT_IFINDEX)?;
    datapath.return_directly()?;
    datapath.backend(index, address)?;
    Ok(datapath)
}

/// A packet of a client to the service.
pub fn request(flags: u8) -> Vec<u8> {
    Frame::tcp(CLIENT, VIP, flags).payload(b"odd").build()
}

/// A packet of a flow; `flags` are of TCP.
pub fn packet(protocol: u8, from: &str, to: &str, flags: u8) -> Vec<u8> {
    if protocol == TCP {
        Frame::tcp(from, to, flags).payload(b"odd").build()
    } else {
        Frame::udp(from, to).payload(b"question").build()
    }
}

/// The MAC address of a neighbour.
pub fn last_mac(address: u8) -> [u8; 6] {
    let mut mac = [address; 6];
    mac[..5].copy_from_slice(&NEIGHBOUR_MAC);
    mac
}

/// That XDP leaves a frame to the next program, as it is.
pub fn assert_passes(datapath: &Datapath, frame: &[u8], what: &str) -> Result<()> {
    let (action, out) = datapath.run_xdp(frame)?;
    assert_eq!((action, out.as_slice()), (Action::Pass, frame), "{what}");
    Ok(())
}

/// That nothing was written down of any flow.
pub fn assert_stateless(datapath: &Datapath) -> Result<()> {
    assert_eq!(datapath.flows("CONNTRACK")?, []);
    assert_eq!(datapath.flows("CONNTRACK_NEW")?, []);
    assert_eq!(datapath.direct_flows()?, []);
    Ok(())
}
