//! Links: look up, make, set up, delete.

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use nix::libc::ENODEV;
use rtnetlink::LinkUnspec;

use super::{Network, NetworkError, error::errno};

/// What is of interest of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<[u8; 6]>,
    pub mtu_bytes: u32,
    /// "veth", "vxlan"…; empty for physical ones.
    pub kind: String,
    /// Of a veth: index of the other end, in that end's namespace.
    pub peer_index: Option<u32>,
    /// UDP port and whether it is in collect-metadata mode, of a VXLAN device.
    pub vxlan: Option<(u16, bool)>,
}

impl Network {
    /// The link of this name, if there is one.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(error) if errno(&error) == Some(ENODEV) => Ok(None),
            Err(source) => Err(failed("look up", name, source)),
        }
    }

    /// The link of this name, which has to be there.
    pub(super) async fn existing_link(&self, name: &str) -> Result<Link, NetworkError> {
        self.link(name)
            .await?
            .ok_or_else(|| NetworkError::NoLink(name.to_owned()))
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| failed("list", "(all)", source))?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// Makes a link and looks it up.
    pub(super) async fn add_link(&self, name: &str, message: LinkMessage) -> Result<Link, NetworkError> {
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| failed("add", name, source))?;
        self.existing_link(name).await
    }

    /// Sets the MTU of a link and brings it up.
    pub(super) async fn bring_up(&self, link: &Link, mtu_bytes: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu_bytes).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(|source| failed("bring up", &link.name, source))
    }

    /// Deletes a link; one that is gone already is fine.
    pub(super) async fn delete_link(&self, link: &Link) -> Result<(), NetworkError> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if errno(&error) != Some(ENODEV) => Err(failed("delete", &link.name, error)),
            _ => Ok(()),
        }
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu_bytes: 0,
            kind: String::new(),
            peer_index: None,
            vxlan: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu_bytes = *mtu,
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.learn(info)),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn learn(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => {
                self.kind = match kind {
                    InfoKind::Veth => "veth".to_owned(),
                    InfoKind::Vxlan => "vxlan".to_owned(),
                    other => format!("{other:?}").to_lowercase(),
                }
            }
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                let port = data.iter().find_map(|info| {
                    if let InfoVxlan::Port(port) = info {
                        Some(*port)
                    } else {
                        None
                    }
                });
                let metadata = data.iter().any(|info| matches!(info, InfoVxlan::CollectMetadata(true)));
                self.vxlan = Some((port.unwrap_or_default(), metadata));
            }
            _ => {}
        }
    }

    /// The Ethernet address, which veth and VXLAN devices always have.
    pub fn ethernet(&self) -> Result<[u8; 6], NetworkError> {
        self.mac.ok_or_else(|| NetworkError::NoMac(self.name.clone()))
    }
}

fn failed(verb: &'static str, name: &str, source: rtnetlink::Error) -> NetworkError {
    NetworkError::Link {
        verb,
        name: name.to_owned(),
        source,
    }
}
