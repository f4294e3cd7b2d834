//! How a packet that was only tried out fared.

use serde::{Deserialize, Serialize};

use super::{BackendView, ServiceView};

/// Where a packet comes from, as a node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// A pod of another node: out of the tunnel.
    OtherNode,
    /// A process of the node itself.
    Node,
    /// Anybody else: in through the uplink.
    World,
}

/// Where a packet goes from here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum NextHop {
    /// A pod of this node.
    Pod {
        /// Its address.
        address: String,
        /// Index of the host side of its veth pair.
        ifindex: u32,
    },
    /// Another node.
    Node {
        /// Its underlay address.
        address: String,
        /// VXLAN network identifier; 0 without a tunnel.
        #[serde(rename = "tunnelId")]
        tunnel_id: u32,
        /// The packet goes there as it is, for that node to answer the client itself.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        direct: bool,
    },
    /// The node's own network stack.
    Stack,
    /// Out of the uplink again.
    Network,
    /// Nowhere.
    None,
}

/// What the programs made of one packet.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// "TCP" or "UDP".
    pub protocol: String,
    /// "address:port".
    pub source: String,
    /// "address:port".
    pub destination: String,
    /// Where the node thinks it is from.
    pub origin: Origin,
    /// Name of the program that ran; absent where no program sees such a packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// An XDP program sees the packet before that one, and may send it on by itself. It is not tried out.
    #[serde(default)]
    pub xdp: bool,
    /// The service at that destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
    /// How the backend was come by: "conntrack", "maglev", "clientHash", "affinity", "reply".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// Hash of the flow or client; where slots were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<u32>,
    /// The slot the hash led to, from the beginning of the service's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_slot: Option<u32>,
    /// Slots that were passed over because their backends take no connections.
    pub skipped_slots: u32,
    /// The backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendView>,
    /// "to-pod", "to-node", "to-stack", "drop", …
    pub verdict: String,
    /// Name of the drop reason; empty for none.
    pub reason: String,
    /// Source as the packet went on, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<String>,
    /// Destination as the packet went on, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<String>,
    /// Where it goes.
    pub next_hop: NextHop,
}
