//! Links, addresses and routes of a namespace, by netlink.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, anyhow};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};

use super::Netns;

/// A netlink socket in the present namespace; needs a tokio runtime, which then drives it.
pub(super) struct Wire {
    handle: Handle,
}

/// Index of a link in the present namespace.
pub(super) fn index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(|error| anyhow!("no link {name}: {error}"))
}

impl Wire {
    pub(super) fn new() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn add(&self, name: &str, message: LinkMessage) -> Result<()> {
        let request = self.handle.link().add(message);
        request.execute().await.with_context(|| format!("cannot make {name}"))
    }

    /// A pair of links, one end of it in another namespace if that is given.
    pub(super) async fn pair(&self, name: &str, peer_name: &str, peer_netns: Option<&Netns>) -> Result<()> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(peer_name).build();
        if let Some(netns) = peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        }
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.add(name, pair).await
    }

    /// A bridge.
    pub(super) async fn bridge(&self, name: &str) -> Result<()> {
        self.add(name, LinkBridge::new(name).build()).await
    }

    /// A link that swallows everything.
    pub(super) async fn dummy(&self, name: &str) -> Result<()> {
        self.add(name, LinkDummy::new(name).build()).await
    }

    /// A tunnel to one other machine.
    pub(super) async fn tunnel(
        &self,
        name: &str,
        (own, remote): (Ipv4Addr, Ipv4Addr),
        port: u16,
        mtu: u32,
    ) -> Result<()> {
        let link = LinkVxlan::new(name, 1).local(own).remote(remote).port(port).mtu(mtu);
        self.add(name, link.build()).await
    }

    /// Makes a link a port of a bridge.
    pub(super) async fn enslave(&self, name: &str, bridge: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(index(name)?)
            .controller(index(bridge)?)
            .build();
        let request = self.handle.link().change(message);
        request
            .execute()
            .await
            .with_context(|| format!("cannot make {name} a port of {bridge}"))
    }

    /// Brings links up.
    pub(super) async fn up(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let message = LinkUnspec::new_with_index(index(name)?).up().build();
            let request = self.handle.link().change(message);
            request
                .execute()
                .await
                .with_context(|| format!("cannot bring {name} up"))?;
        }
        Ok(())
    }

    /// Gives a link an address.
    pub(super) async fn address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = self.handle.address().add(index(name)?, IpAddr::from(address), prefix);
        request
            .execute()
            .await
            .with_context(|| format!("cannot give {name} an address"))
    }

    /// Leads a prefix to a router behind a link, which counts as a neighbour there whatever its address is.
    pub(super) async fn route(&self, (prefix, length): (Ipv4Addr, u8), router: Ipv4Addr, name: &str) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix, length)
            .gateway(router)
            .output_interface(index(name)?)
            .onlink()
            .build();
        let request = self.handle.route().add(route);
        request
            .execute()
            .await
            .with_context(|| format!("cannot route {prefix}/{length} by {router}"))
    }

    /// A permanent neighbour.
    pub(super) async fn neighbour(&self, name: &str, address: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
        let request = self.handle.neighbours().add(index(name)?, IpAddr::from(address));
        request
            .link_layer_address(&mac)
            .execute()
            .await
            .with_context(|| format!("cannot make {address} a neighbour"))
    }
}
