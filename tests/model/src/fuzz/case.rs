//! Sequences as people read and write them: JSON, one step after the other. A step names another by its number, so that a
//! sequence from which steps were taken away still makes sense: what names a step that is gone is left out too.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::model::Hook;
use crate::model::tables::Scope;

/// A sequence.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    #[serde(default)]
    pub note: String,
    /// Whether somebody watches every packet meanwhile. XDP then leaves all packets to the programs that tell of them.
    #[serde(default)]
    pub watched: bool,
    /// Whether backends' nodes answer clients directly.
    #[serde(default)]
    pub direct: bool,
    /// Whether the node has sent as many ICMP errors as it may.
    #[serde(default)]
    pub mute: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Something that happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its number.
    pub id: u32,
    /// What happens.
    #[serde(rename = "do")]
    pub action: Action,
}

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A backend comes, changes, or gives its index to another.
    Backend(BackendSpec),
    /// A backend goes; its index is free.
    NoBackend(u32),
    /// A service comes or changes.
    Service(ServiceSpec),
    /// A service goes.
    NoService(VipSpec),
    /// A packet made up from nothing.
    Packet(PacketSpec),
    /// An answer to what a packet became.
    Answer(AnswerSpec),
    /// An ICMP error about what a packet became.
    Error(ErrorSpec),
    /// So many seconds pass.
    Wait(u64),
    /// The collector runs.
    Collect,
    /// Slots forget whose they were, where nothing that is written down speaks against it.
    Settle,
}

/// A backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    /// Its index.
    pub index: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// Answers.
    pub ready: bool,
    /// About to leave.
    #[serde(default, skip_serializing_if = "is_default")]
    pub terminating: bool,
    /// Counts who had the index.
    pub generation: u32,
}

/// Where a service is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipSpec {
    /// From where.
    pub scope: Scope,
    /// TCP (6) or UDP (17).
    pub protocol: u8,
    /// Address and port.
    pub address: SocketAddr,
}

/// A service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its id.
    pub id: u32,
    /// Where it is asked for.
    pub vip: VipSpec,
    /// Its backends, in the order they take turns in its table.
    pub backends: Vec<u32>,
    /// Slots of its table, a power of two.
    pub slots: u32,
    /// Session affinity, in seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub affinity: u32,
    /// Whom it lets in from the network, when not everybody.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sources: Option<Vec<(IpAddr, u8)>>,
}

/// A packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketSpec {
    /// Where it is seen.
    pub at: Hook,
    /// Source; the port of an echo request is its identifier.
    pub from: SocketAddr,
    /// Destination; the port of an echo reply is its identifier.
    pub to: SocketAddr,
    /// What it carries.
    pub carries: Carries,
    /// Bytes of payload.
    #[serde(default, skip_serializing_if = "is_default")]
    pub payload: u16,
    /// What is odd about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub odd: Vec<Oddity>,
    /// The backend of this node that the one which sent it chose.
    #[serde(default, skip_serializing_if = "is_default")]
    pub chosen: Option<SocketAddr>,
    /// Its mark.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mark: u32,
}

/// What a packet carries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carries {
    /// A TCP segment with these flags, of the letters `FSRPA`.
    Tcp(String),
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request.
    Echo,
    /// An ICMP echo reply.
    EchoReply,
    /// Another protocol, by number.
    Other(u8),
}

/// What can be odd about a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oddity {
    /// So many words of IPv4 options, or of TCP options when there are extension headers to IPv6.
    Options(u8),
    /// So many words of TCP options.
    TcpOptions(u8),
    /// An IPv6 extension header of this kind, of so many further eight bytes.
    Extension(u8, u8),
    /// A fragment: at so many eight bytes, with more to come, of the datagram with this identification.
    Fragment(u16, bool, u16),
    /// A UDP datagram without checksum.
    NoChecksum,
    /// A wrong transport checksum.
    WrongChecksum,
    /// A wrong IPv4 header checksum.
    WrongHeaderChecksum,
    /// So many bytes behind the packet's end.
    Padding(u8),
    /// So many bytes are missing at the end.
    Cut(u16),
    /// A byte is another one.
    Byte(u16, u8),
    /// A VLAN tag.
    Vlan(u16),
    /// Time to live.
    Hops(u8),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerSpec {
    /// The step whose packet is answered.
    pub to: u32,
    /// TCP flags.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flags: String,
    /// Whether an answer from another node comes as it is on the wire, in the tunnel's headers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_wire: bool,
    /// Bytes of payload.
    #[serde(default, skip_serializing_if = "is_default")]
    pub payload: u16,
    /// What is odd about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub odd: Vec<Oddity>,
}

/// An ICMP error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorSpec {
    /// The step whose packet it is about.
    pub about: u32,
    /// The router that says so; else it is who the packet was for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub router: Option<IpAddr>,
    /// Type and code.
    pub kind: (u8, u8),
    /// Bytes that it quotes.
    pub quotes: u16,
    /// What is odd about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub odd: Vec<Oddity>,
}

impl Case {
    /// Reads a case.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no case", path.display()))
    }

    /// Writes a case, a step a line.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = format!(
            "{{\n  \"note\": {},\n  \"watched\": {},\n  \"direct\": {},\n  \"mute\": {},\n  \"steps\": [\n",
            serde_json::to_string(&self.note)?,
            self.watched,
            self.direct,
            self.mute
        );
        for (i, step) in self.steps.iter().enumerate() {
            let comma = if i + 1 == self.steps.len() { "" } else { "," };
            writeln!(text, "    {}{comma}", serde_json::to_string(step)?)?;
        }
        text.push_str("  ]\n}\n");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
