//! Direct server return: the node a client reaches sends its packets on to the backend's node as they are, and that one answers. Which
//! backend is meant stands in the MAC addresses of the frame inside the tunnel.
//!
//! The node that sends need write nothing down, so the model, which remembers every flow, asks more of it than its tables could tell: a
//! flow stays with its backend while that is there, whoever else comes, goes, or comes back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use causeway_abi::event::Verdict;
use causeway_abi::service::NO_BACKEND;

use super::choose::candidates;
use super::edit;
use super::flows::{Flow, Side, State, Tuple, patience};
use super::frame::{Packet, Quoted, flag, protocol};
use super::paths::MARK_TUNNEL_KEY;
use super::tables::{Backend, Route, Scope, Service, Vip};
use super::{Behalf, Expected, Fate, Model};
use causeway_abi::DropReason;

/// A flow that is sent on directly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectFlow {
    /// The backend's index.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// When a packet came last.
    pub heard: Duration,
    /// How often the service's table had changed then.
    pub changes: u32,
    /// As far as the client's packets tell.
    pub state: State,
}

/// The MAC addresses that name a backend: its port behind the first prefix, its address behind the second.
pub fn macs(backend: SocketAddr) -> Option<[u8; 12]> {
    let SocketAddr::V4(backend) = backend else { return None };
    let [high, low] = backend.port().to_be_bytes();
    let [a, b, c, d] = backend.ip().octets();
    Some([0x02, 0xcd, 0, 0, high, low, 0x02, 0xcd, a, b, c, d])
}

/// The backend that MAC addresses name.
pub fn named(frame: &[u8]) -> Option<SocketAddr> {
    match frame.get(..12)? {
        [0x02, 0xcd, 0, 0, high, low, 0x02, 0xcd, a, b, c, d] => Some(SocketAddr::new(
            Ipv4Addr::new(*a, *b, *c, *d).into(),
            u16::from_be_bytes([*high, *low]),
        )),
        _ => None,
    }
}

/// What a client's packet makes of its flow; `None` for one that was not known.
fn state_after(before: Option<State>, packet: &Packet) -> State {
    let flags = packet.tcp_flags();
    if packet.protocol != protocol::TCP {
        State::Established
    } else if flags & flag::RST != 0 {
        State::Reset
    } else if packet.opens() {
        State::Opening
    } else if let Some(state @ (State::Closing | State::Reset)) = before {
        state
    } else if flags & flag::FIN != 0 {
        State::Closing
    } else {
        State::Established
    }
}

impl Model {
    /// A client's packet that goes on as it is; `None` where it is for a backend of this node, or translated already.
    pub(super) fn directly(&mut self, frame: &[u8], packet: &Packet, service: &Service) -> Option<Expected> {
        let (client, vip) = packet.ends()?;
        if !self.tables.node.direct || !client.is_ipv4() {
            return None;
        }
        let tuple = Tuple {
            protocol: packet.protocol,
            source: client,
            destination: vip,
        };
        let went_to = self.hint.direct;
        if let Some(flow) = self.translated(&tuple, packet) {
            if went_to.is_some() && !flow.sent_here {
                self.complaints
                    .push("direct: a flow that is translated here was sent to another node".to_owned());
            }
            went_to?;
        }
        let index = match self.bound(&tuple, packet, service) {
            Some(index) => {
                let backend = self.tables.backends[&index];
                if went_to != Some(backend.address) {
                    self.complaints.push(format!(
                        "direct: a flow of {} was sent to {went_to:?}, or not directly",
                        backend.address
                    ));
                }
                index
            }
            None => self.free(tuple, packet, service, went_to?)?,
        };
        let backend = self.tables.backends[&index];
        let last = self.tables.direct.get(&tuple).filter(|last| {
            let is_same = (last.backend, last.generation) == (index, backend.generation);
            is_same && self.tables.now <= last.heard + patience(packet.protocol, last.state)
        });
        let last = last.map(|last| last.state);
        let flow = DirectFlow {
            backend: index,
            generation: backend.generation,
            heard: self.tables.now,
            changes: service.changes,
            state: state_after(last, packet),
        };
        self.tables.direct.insert(tuple, flow);
        let behalf = Behalf {
            service: service.id,
            backend: index,
            is_new: packet.opens(),
        };
        self.remember_fragments(packet, (packet.source, packet.destination), behalf);
        Some(Self::to_node(frame, &backend, behalf))
    }

    /// Whether a flow is known here as one that is translated.
    pub(super) fn translated_still(&self, tuple: &Tuple) -> bool {
        let flow = self.tables.flows.of_client(tuple);
        flow.is_some_and(|flow| flow.is_known_to(Side::Client, self.tables.now))
    }

    /// Whether a flow's packets could go to another node as they are.
    pub(super) fn may_go_directly(&self, flow: &Flow) -> bool {
        let is_elsewhere = self.tables.route(flow.answerer.ip()) == Some(Route::Tunnel);
        self.tables.node.direct && flow.client.is_ipv4() && is_elsewhere
    }

    /// The flow that a packet goes on with, if it is one that is translated.
    fn translated(&self, tuple: &Tuple, packet: &Packet) -> Option<&Flow> {
        self.tables.flows.of_client(tuple).filter(|flow| {
            let is_there = flow
                .backend
                .is_none_or(|(index, generation)| self.tables.backend(index, generation).is_some());
            is_there && flow.is_known_to(Side::Client, self.tables.now) && !packet.opens()
        })
    }

    /// The backend that a packet must go to, because its flow did before.
    fn bound(&self, tuple: &Tuple, packet: &Packet, service: &Service) -> Option<u32> {
        let flow = self.tables.direct.get(tuple)?;
        let backend = self.tables.backend(flow.backend, flow.generation)?;
        let takes = backend.ready && !backend.terminating;
        // A connection is one until its client opens another. Datagrams do not tell, so theirs stay while their backend is there for
        // new ones too.
        let stays = if packet.protocol == protocol::TCP {
            !packet.opens()
        } else {
            takes
        };
        let is_fresh = self.tables.now <= flow.heard + patience(packet.protocol, flow.state);
        // A slot remembers one backend that it had before: who was silent while it changed twice is not known any more.
        // One that is translated is known first.
        let is_remembered = !service.table.is_empty() && !self.translated_still(tuple);
        (stays && is_fresh && is_remembered && service.changes <= flow.changes + 1).then_some(flow.backend)
    }

    /// The backend that a packet without one went to.
    fn free(&mut self, tuple: Tuple, packet: &Packet, service: &Service, went_to: SocketAddr) -> Option<u32> {
        // Datagrams may stay where they were also while that takes no new connections.
        let known = self.tables.direct.get(&tuple).filter(|flow| {
            // Where the table alone decides, nothing says how far it had come.
            let state = match service.affinity {
                Some(_) => flow.state,
                None => State::Established,
            };
            !packet.opens() && self.tables.now <= flow.heard + patience(packet.protocol, state)
        });
        if let Some(flow) = known
            && let Some(backend) = self.tables.backend(flow.backend, flow.generation)
            && backend.address == went_to
        {
            return Some(flow.backend);
        }
        self.hint.ends = Some((tuple.source, went_to));
        if packet.opens() || service.affinity.is_some() {
            return self.choose(tuple, service);
        }
        let mut table = service.table.clone();
        table.extend(&service.previous);
        let allowed = if packet.protocol == protocol::TCP {
            // The rest of a connection that began before anybody remembers: wherever it was.
            table
        } else {
            let mut ready = candidates(&table, &self.tables.backends);
            ready.extend(candidates(&service.table, &self.tables.backends));
            ready
        };
        let is_it = |index: &u32| {
            self.tables
                .backends
                .get(index)
                .is_some_and(|backend| backend.address == went_to)
        };
        let found = allowed.into_iter().find(is_it);
        if found.is_none() {
            self.complaints
                .push(format!("direct: sent to {went_to}, which may not be chosen"));
        }
        found
    }

    /// An ICMP error about an answer that a backend on another node gave to a client goes to that backend.
    pub(super) fn error_directly(&mut self, frame: &[u8], quoted: &Quoted) -> Option<Expected> {
        let went_to = self.hint.direct?;
        let vip = Vip {
            scope: Scope::Node,
            protocol: quoted.protocol,
            address: quoted.source,
        };
        let service = self.tables.services.get(&vip).filter(|_| self.tables.node.direct)?;
        let sent = Tuple {
            protocol: quoted.protocol,
            source: quoted.destination,
            destination: quoted.source,
        };
        let known = self.tables.direct.get(&sent).map(|flow| &flow.backend);
        let all = service.table.iter().chain(&service.previous).chain(known);
        let (index, backend) = all
            .filter_map(|index| Some((*index, *self.tables.backends.get(index)?)))
            .find(|(_, backend)| backend.address == went_to)?;
        let behalf = Behalf {
            backend: index,
            ..Behalf::NOBODY
        };
        Some(Self::to_node(frame, &backend, behalf))
    }

    /// A later fragment of a datagram that went on directly. Its first one's backend may have left meanwhile; then it does not matter
    /// where it goes.
    pub(super) fn fragment_directly(&self, frame: &[u8], behalf: Behalf) -> Expected {
        if let Some(backend) = self.tables.backends.get(&behalf.backend) {
            return Self::to_node(frame, backend, behalf);
        }
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let backend = Backend {
            address: self.hint.direct.unwrap_or(nowhere),
            ready: false,
            terminating: false,
            generation: 0,
        };
        Self::to_node(frame, &backend, behalf)
    }

    fn to_node(frame: &[u8], backend: &Backend, behalf: Behalf) -> Expected {
        if edit::hops(frame) <= 1 {
            return Expected::dropped(DropReason::HopLimitExceeded, frame, behalf.service).naming(behalf);
        }
        let (mut frame, sums) = edit::pass_router((frame.to_vec(), Vec::new()));
        if let Some(macs) = macs(backend.address) {
            frame[..12].copy_from_slice(&macs);
        }
        Expected {
            mark: MARK_TUNNEL_KEY,
            ..Expected::of(Fate::Redirect, Verdict::ToNode, (frame, sums), behalf)
        }
    }

    /// A client's packet that another node sent here because of a backend of this one; without that backend it is refused.
    pub(super) fn sent_directly(&mut self, frame: &[u8], packet: &Packet, backend: SocketAddr) -> Expected {
        let Some(service) = self.service(packet, Scope::Node) else {
            return Expected::dropped(DropReason::NoSuchPod, frame, 0);
        };
        let all = service.table.iter().chain(&service.previous);
        let index = all.copied().find(|index| {
            self.tables
                .backends
                .get(index)
                .is_some_and(|known| known.address == backend)
        });
        self.meant = Some(index.unwrap_or(NO_BACKEND));
        let sent = self.balance(frame, packet, &service, Scope::Node);
        self.meant = None;
        match sent {
            Ok(sent) => sent,
            Err(reason) => {
                let said = Self::turned_away(reason, frame, packet, service.id);
                self.sent_back(said, packet.source)
            }
        }
    }
}
