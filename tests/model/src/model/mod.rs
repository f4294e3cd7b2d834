//! What should become of a packet.
//!
//! [`Model::expect`] takes a packet at a hook and says what the data path must do with it, and does the same to its own tables.
//! Where the data path is free to choose (a backend among those that are ready, a port out of a range), the model looks at what was
//! chosen, complains when that is not allowed, and goes on with it.
//!
//! | file | says |
//! |---|---|
//! | `frame` | what a frame is |
//! | `tables` | what there is to know |
//! | `flows` | who talks to whom, and for how long |
//! | `choose` | which backends and ports may be chosen |
//! | `direct` | what goes on as it is, for another node to answer |
//! | `edit` | what a changed frame looks like |
//! | `fragments` | what becomes of datagrams in pieces |
//! | `paths` | what each hook does |
//! | `steps` | what the hooks have in common |
//! | `sum` | checksums |

pub mod choose;
pub mod direct;
pub mod edit;
pub mod flows;
mod fragments;
pub mod frame;
mod paths;
mod steps;
pub mod sum;
pub mod tables;

use std::net::{IpAddr, SocketAddr};

use causeway_abi::DropReason;
use causeway_abi::event::{MARK_DRY_RUN, Verdict};

use choose::Preferences;
use edit::{Edited, Sum};
use frame::{Frame, Packet};
use tables::Tables;

pub use paths::MARK_TUNNEL_KEY;

/// Where a packet is seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// A pod sent it.
    FromPod,
    /// It came out of the tunnel.
    FromTunnel,
    /// It goes into the tunnel.
    ToTunnel,
    /// The network sent it.
    FromUplink,
    /// It leaves for the network.
    ToUplink,
}

impl Hook {
    /// Name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::FromPod => "cw_from_pod",
            Self::FromTunnel => "cw_from_tunnel",
            Self::ToTunnel => "cw_to_tunnel",
            Self::FromUplink => "cw_from_uplink",
            Self::ToUplink => "cw_to_uplink",
        }
    }
}

/// What the kernel is told to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Go on.
    Pass,
    /// Drop it.
    Drop,
    /// Send it elsewhere.
    Redirect,
}

/// What the data path made of a packet: where the model finds the choices that were made.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the kernel was told.
    pub fate: Fate,
    /// The frame.
    pub frame: Vec<u8>,
    /// The mark.
    pub mark: u32,
    /// What watchers were told; `None` where nothing was, or nobody watched.
    pub told: Option<Told>,
}

/// What watchers are told of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// [`Verdict`].
    pub verdict: u8,
    /// [`DropReason`], or 0.
    pub reason: u32,
    /// The service's id, or 0.
    pub service: u32,
    /// The backend's index, or `NO_BACKEND`.
    pub backend: u32,
}

/// What must become of a packet.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What the kernel is told.
    pub fate: Fate,
    /// In words.
    pub verdict: Verdict,
    /// Why it is dropped or refused.
    pub reason: Option<DropReason>,
    /// The frame; its checksums are judged by `sums`.
    pub frame: Vec<u8>,
    /// The checksums of the frame.
    pub sums: Vec<Sum>,
    /// The mark.
    pub mark: u32,
    /// The service on whose behalf it was translated or refused, or 0.
    pub service: u32,
    /// The backend's index, or `NO_BACKEND`.
    pub backend: u32,
    /// Whether it began a flow.
    pub is_new: bool,
    /// What was wrong with the choices that were made.
    pub complaints: Vec<String>,
    /// Whether watchers are told.
    pub is_told: bool,
    /// Whether its sender would have been told why, if fewer had been.
    pub is_suppressed: bool,
}

/// What the data path chose, as far as its output tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint {
    /// The packet's ends as it went on.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The backend that watchers were told.
    pub backend: Option<u32>,
    /// The reason it was dropped for, as watchers were told.
    pub reason: Option<u32>,
    /// Whether it was dropped.
    pub dropped: bool,
    /// The backend that its MAC addresses name.
    pub direct: Option<SocketAddr>,
}

impl Hint {
    fn of(seen: &Seen) -> Self {
        let ends = match frame::read(&seen.frame) {
            Frame::Ip(packet) => packet.ends().or_else(|| packet.echo_ends()),
            _ => None,
        };
        Self {
            ends,
            backend: seen.told.map(|told| told.backend),
            reason: seen.told.map(|told| told.reason),
            dropped: seen.fate == Fate::Drop,
            direct: direct::named(&seen.frame).filter(|_| seen.mark == MARK_TUNNEL_KEY),
        }
    }
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it knows.
    pub tables: Tables,
    preferences: Preferences,
    pub(crate) hint: Hint,
    /// The backend that another node chose, or `NO_BACKEND` when there is no such any more.
    pub(crate) meant: Option<u32>,
    pub(crate) complaints: Vec<String>,
}

impl Model {
    /// A model that knows this.
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            preferences: Preferences::default(),
            hint: Hint::default(),
            meant: None,
            complaints: Vec::new(),
        }
    }

    /// What must become of a packet, given what did; the tables follow.
    pub fn expect(&mut self, hook: Hook, frame: &[u8], mark: u32, seen: &Seen) -> Expected {
        self.hint = Hint::of(seen);
        let read = frame::read(frame);
        let mut expected = if mark == MARK_DRY_RUN {
            self.try_out(hook, frame, &read)
        } else {
            self.at(hook, frame, mark, &read)
        };
        if self.tables.is_mute && mark != MARK_DRY_RUN && expected.is_icmp_error() {
            expected = expected.suppressed(frame);
        }
        expected.complaints.append(&mut self.complaints);
        if expected.is_told {
            self.count(frame, &read, &expected);
        }
        expected
    }

    /// A packet that is only tried out: it leaves nothing behind, and nobody is told. Its port is the one that would be tried first.
    fn try_out(&mut self, hook: Hook, frame: &[u8], read: &Frame) -> Expected {
        let before = self.tables.clone();
        let expected = self.at(hook, frame, MARK_DRY_RUN, read);
        self.tables = before;
        self.complaints.retain(|complaint| !complaint.starts_with("port"));
        Expected {
            is_told: false,
            ..expected
        }
    }

    fn count(&mut self, frame: &[u8], read: &Frame, expected: &Expected) {
        let (length, bytes) = match read {
            Frame::Ip(packet) => (packet.end, packet.end - frame::ETHERNET),
            _ => (frame.len(), 0),
        };
        if let Some(reason) = expected.reason {
            self.tables.count_drop(reason, length);
        }
        if expected.is_suppressed {
            self.tables.count_drop(DropReason::IcmpErrorSuppressed, length);
        }
        if expected.service != 0 {
            let count = self.tables.counts.entry(expected.service).or_default();
            if expected.reason.is_some() {
                count.drops += 1;
            } else {
                count.packets += 1;
                count.bytes += bytes as u64;
                count.connections += u64::from(expected.is_new);
            }
        }
    }
}

/// Who a packet was translated for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behalf {
    service: u32,
    backend: u32,
    is_new: bool,
}

impl Behalf {
    pub(crate) const NOBODY: Self = Self {
        service: 0,
        backend: causeway_abi::service::NO_BACKEND,
        is_new: false,
    };
}

impl Expected {
    fn of(fate: Fate, verdict: Verdict, (frame, sums): Edited, behalf: Behalf) -> Self {
        Self {
            fate,
            verdict,
            reason: None,
            frame,
            sums,
            mark: 0,
            service: behalf.service,
            backend: behalf.backend,
            is_new: behalf.is_new,
            complaints: Vec::new(),
            is_told: true,
            is_suppressed: false,
        }
    }

    /// Whether it is answered by a message that is limited: by anything but a reset.
    fn is_icmp_error(&self) -> bool {
        self.verdict == Verdict::Refuse
            && matches!(frame::read(&self.frame), Frame::Ip(answer) if answer.protocol != frame::protocol::TCP)
    }

    /// The same without that message.
    fn suppressed(self, frame: &[u8]) -> Self {
        Self {
            fate: Fate::Drop,
            verdict: Verdict::Drop,
            frame: frame.to_vec(),
            sums: Vec::new(),
            is_suppressed: true,
            ..self
        }
    }

    /// Left to the node's own stack.
    fn to_stack(edited: Edited, behalf: Behalf) -> Self {
        Self::of(Fate::Pass, Verdict::ToStack, edited, behalf)
    }

    /// Dropped. What a dropped packet looks like does not matter; it stays as it was.
    fn dropped(reason: DropReason, frame: &[u8], service: u32) -> Self {
        let behalf = Behalf {
            service,
            ..Behalf::NOBODY
        };
        Self {
            reason: Some(reason),
            ..Self::of(Fate::Drop, Verdict::Drop, untouched(frame), behalf)
        }
    }

    /// Kept until its first fragment comes.
    fn held(frame: &[u8]) -> Self {
        Self::of(Fate::Drop, Verdict::Held, untouched(frame), Behalf::NOBODY)
    }

    /// Too old to pass this router, which says so itself.
    fn at_its_end(frame: &[u8], packet: &Packet, speaker: Option<IpAddr>) -> Self {
        let reason = DropReason::HopLimitExceeded;
        let answer = speaker.and_then(|speaker| edit::icmp_error(frame, packet, speaker, edit::HOPS_EXCEEDED));
        let Some(answer) = answer else {
            return Self::dropped(reason, frame, 0);
        };
        Self {
            reason: Some(reason),
            ..Self::of(Fate::Redirect, Verdict::Refuse, answer, Behalf::NOBODY)
        }
    }

    /// The same, telling on whose behalf it was translated before.
    fn naming(self, behalf: Behalf) -> Self {
        Self {
            backend: behalf.backend,
            ..self
        }
    }

    /// Answered on behalf of who is not there; dropped where there is no way to say so.
    fn refused(reason: DropReason, frame: &[u8], packet: &Packet, service: u32) -> Self {
        let answer = match packet.protocol {
            frame::protocol::TCP if packet.part == frame::Part::Whole => edit::reset(frame, packet),
            frame::protocol::UDP => edit::icmp_error(frame, packet, packet.destination, edit::PORT_UNREACHABLE),
            _ => None,
        };
        let Some(answer) = answer else {
            return Self::dropped(reason, frame, service);
        };
        let behalf = Behalf {
            service,
            ..Behalf::NOBODY
        };
        Self {
            reason: Some(reason),
            ..Self::of(Fate::Redirect, Verdict::Refuse, answer, behalf)
        }
    }
}

/// A frame as it came.
fn untouched(frame: &[u8]) -> Edited {
    (frame.to_vec(), Vec::new())
}
