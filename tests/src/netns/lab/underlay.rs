//! The wire between nodes: a bridge, and a veth pair to each of them.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoKind, InfoVeth},
    },
};

use super::addresses::{underlay_address, underlay_address6};
use crate::netns::{Netns, offload::leave_no_checksums};

/// A node's end of its pair.
pub(super) const UPLINK: &str = "cw-up0";
const BRIDGE: &str = "cw-br0";

/// The bridge's end of a node's pair.
pub(super) fn port_name(number: u8) -> String {
    format!("cw-port{number}")
}

/// A new namespace on the bridge of `underlay`, with the addresses of a number. With `own_checksums` it leaves no checksum of what it
/// sends to the other end, as XDP there wants it.
pub(super) fn join(underlay: &Netns, number: u8, ipv6: bool, own_checksums: bool) -> Netns {
    let netns = Netns::new();
    let descriptor = netns.as_fd().as_raw_fd();
    underlay.block_on(|| plug(port_name(number), descriptor));
    let mut addresses = vec![(underlay_address(number), 24)];
    if ipv6 {
        addresses.push((underlay_address6(number), 64));
    }
    netns.block_on(|| address_uplink(addresses));
    if own_checksums {
        netns.run(|| leave_no_checksums(UPLINK));
    }
    netns
}

/// Makes the bridge in this thread's namespace.
pub(super) async fn make_bridge() {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    handle
        .link()
        .add(LinkBridge::new(BRIDGE).up().build())
        .execute()
        .await
        .expect("a bridge");
}

/// A veth pair between the bridge and the uplink of the namespace behind a descriptor.
async fn plug(port: String, netns: i32) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(UPLINK.to_owned())
        .setns_by_fd(netns)
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(port.clone())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .unwrap_or_else(|error| panic!("the link {port}: {error}"));
    let (bridge, port) = (index(BRIDGE), index(&port));
    let change = LinkUnspec::new_with_index(port).controller(bridge).up().build();
    handle.link().set(change).execute().await.expect("a port of the bridge");
}

/// Gives the uplink of this thread's namespace its addresses, and sets it and loopback up.
async fn address_uplink(addresses: Vec<(IpAddr, u8)>) {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let uplink = index(UPLINK);
    for (address, prefix_len) in addresses {
        let mut request = handle.address().add(uplink, address, prefix_len);
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.expect("an address for the uplink");
    }
    for link in [uplink, index("lo")] {
        handle
            .link()
            .set(LinkUnspec::new_with_index(link).up().build())
            .execute()
            .await
            .expect("a link that is up");
    }
}

/// The index of an interface of this thread's namespace.
pub(super) fn index(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap_or_else(|error| panic!("the link {link}: {error}"))
}
