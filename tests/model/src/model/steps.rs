//! What the hooks have in common: balancing, answers, errors, fragments, and the way on.

use std::net::{IpAddr, SocketAddr};

use causeway_abi::DropReason;
use causeway_abi::event::Verdict;
use causeway_abi::service::NO_BACKEND;

use super::choose::{Ports, Question, TRIES, candidates, taken};
use super::edit::{self, Edited};
use super::flows::{Flow, Half, Side, State, Tuple};
use super::frame::{self, Packet, Part, protocol};
use super::paths::MARK_TUNNEL_KEY;
use super::tables::{Affinity, Route, Scope, Service};
use super::{Behalf, Expected, Fate, Model};

/// What a pod sees when it reaches itself through a VIP: its next hop.
const HAIRPIN: [&str; 2] = ["169.254.1.1", "fe80::1"];
/// Destination and source MAC address of frames in the tunnel.
const TUNNEL_MACS: [u8; 12] = [0x02, b'c', b'w', 0, 0, 2, 0x02, b'c', b'w', 0, 0, 1];

impl Model {
    /// A client's packet on its way to a backend.
    pub(super) fn balance(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        service: &Service,
        scope: Scope,
    ) -> Result<Expected, DropReason> {
        let Some((client, vip)) = packet.ends() else {
            return Err(DropReason::MalformedPacket);
        };
        let tuple = Tuple {
            protocol: packet.protocol,
            source: client,
            destination: vip,
        };
        let was_known = self.translated_still(&tuple);
        let known = self.known(&tuple, packet)?;
        let (flow, is_new) = match known {
            Some(flow) => (flow, false),
            None => (self.open(tuple, service, scope)?, true),
        };
        // Who begins again where a translated flow was is translated too.
        if is_new && scope == Scope::Node && self.meant.is_none() && !was_known && self.may_go_directly(&flow) {
            self.complaints
                .push(format!("direct: a flow to {} was translated", flow.answerer));
        }
        let behalf = Behalf {
            service: flow.service,
            backend: flow.backend.map_or(NO_BACKEND, |(index, _)| index),
            is_new,
        };
        self.remember_fragments(packet, (flow.shown.ip(), flow.answerer.ip()), behalf);
        let edited = edit::translate(frame, packet, flow.shown, flow.answerer);
        Ok(if flow.shown.ip() == client.ip() {
            self.onwards(edited, flow.answerer.ip(), behalf)
        } else {
            self.back(edited, flow.answerer.ip(), behalf)
        })
    }

    /// The flow a client's packet goes on with. A connection cannot go on when its backend is gone.
    fn known(&mut self, tuple: &Tuple, packet: &Packet) -> Result<Option<Flow>, DropReason> {
        let now = self.tables.now;
        let Some(flow) = self.tables.flows.of_client(tuple).copied() else {
            return Ok(None);
        };
        if !flow.is_known_to(Side::Client, now) || (packet.opens() && flow.may_begin_again()) {
            self.tables.flows.remove(tuple);
            return Ok(None);
        }
        let is_gone = flow
            .backend
            .is_some_and(|(index, generation)| self.tables.backend(index, generation).is_none());
        if is_gone {
            self.tables.flows.remove(tuple);
            return if packet.protocol == protocol::TCP && !packet.opens() {
                Err(DropReason::BackendGone)
            } else {
                Ok(None)
            };
        }
        if let Some(flow) = self.tables.flows.change(tuple) {
            flow.hear(Side::Client, packet, now);
        }
        Ok(Some(flow))
    }

    fn open(&mut self, tuple: Tuple, service: &Service, scope: Scope) -> Result<Flow, DropReason> {
        let index = match self.meant {
            Some(index) => index,
            None => self.choose(tuple, service).ok_or(DropReason::NoReadyBackend)?,
        };
        let Some(backend) = self.tables.backends.get(&index).copied() else {
            return Err(DropReason::NoReadyBackend);
        };
        let client = tuple.source;
        let (shown, ports) = if backend.address.ip() == client.ip() {
            // Nobody else sends from there.
            (hairpin(client.ip()), Ports::Own)
        } else {
            let node = &self.tables.node;
            match (self.lives(backend.address.ip()), scope) {
                (Lives::Here, Scope::Node) => (client.ip(), Ports::Own),
                (Lives::Here | Lives::AmongPods, Scope::Cluster) => (client.ip(), Ports::Unused),
                (Lives::Outside, Scope::Cluster) if !node.masquerade => (client.ip(), Ports::Unused),
                // An answer must come back through here.
                (Lives::AmongPods, Scope::Node) => {
                    let router = node.router_beside(client.ip());
                    (router.ok_or(DropReason::ConntrackFull)?, Ports::Node)
                }
                (Lives::Outside, _) => {
                    let address = node.address_beside(client.ip());
                    (address.ok_or(DropReason::ConntrackFull)?, Ports::Node)
                }
            }
        };
        if scope == Scope::Node {
            // Whichever way it went before, from now on it goes this one.
            self.tables.direct.remove(&tuple);
        }
        let flow = self.begin(
            tuple,
            Some((index, backend.generation)),
            service.id,
            shown,
            backend.address,
            ports,
        );
        flow.ok_or(DropReason::ConntrackFull)
    }

    fn lives(&self, backend: IpAddr) -> Lives {
        if self.tables.pods.contains_key(&backend) || self.tables.node.owns(backend) {
            Lives::Here
        } else if self.tables.route(backend).is_some() {
            Lives::AmongPods
        } else {
            Lives::Outside
        }
    }

    /// An answer of the node's own stack to whom it was asked for, on its way out: it gets the VIP's address where it is. So do all of
    /// its fragments, and an ICMP error in its place.
    pub(super) fn answer_of_node(&mut self, frame: &[u8], packet: &Packet) -> Option<Expected> {
        let answer = match packet.part {
            Part::Later => return self.own_fragment(frame, packet),
            _ if packet.is_error() => self.error(frame, packet, Way::Chosen),
            _ => self.own_answer(frame, packet),
        };
        if answer.is_none() {
            self.forget_own(packet);
        }
        answer
    }

    fn own_answer(&mut self, frame: &[u8], packet: &Packet) -> Option<Expected> {
        let (source, destination) = packet.ends()?;
        let tuple = Tuple {
            protocol: packet.protocol,
            source,
            destination,
        };
        let now = self.tables.now;
        let flow = *self.tables.flows.of_backend(&tuple)?;
        if !flow.is_known_to(Side::Backend, now) {
            return None;
        }
        if let Some(flow) = self.tables.flows.change(&flow.forward()) {
            flow.hear(Side::Backend, packet, now);
        }
        if flow.client.ip() != packet.destination {
            return None;
        }
        let behalf = on_behalf_of(&flow);
        self.remember_own(packet, (flow.vip.ip(), flow.client.ip()), behalf);
        let edited = edit::translate(frame, packet, flow.vip, flow.client);
        Some(Expected::of(Fate::Pass, Verdict::ToStack, edited, behalf))
    }

    /// The backend for a new flow.
    pub(super) fn choose(&mut self, tuple: Tuple, service: &Service) -> Option<u32> {
        let client = tuple.source.ip();
        let key = (client, service.id);
        if let (Some(patience), Some(last)) = (service.affinity, self.tables.affinity.get(&key).copied()) {
            let is_open = self
                .tables
                .backend(last.backend, last.generation)
                .is_some_and(|backend| backend.ready && !backend.terminating);
            if is_open && self.tables.now < last.seen + patience {
                self.keep(key, last.backend);
                return Some(last.backend);
            }
        }
        let candidates = candidates(&service.table, &self.tables.backends);
        let first = *candidates.first()?;
        let chosen = self.chosen(&candidates).unwrap_or(first);
        let asker = if service.affinity.is_some() {
            (0, SocketAddr::new(client, 0), None)
        } else {
            (tuple.protocol, tuple.source, Some(tuple.destination))
        };
        let question = Question {
            service: if service.affinity.is_some() { service.id } else { 0 },
            asker,
            table: service.table.clone(),
        };
        self.complaints
            .extend(self.preferences.note(question, &candidates, chosen));
        if service.affinity.is_some() {
            self.keep(key, chosen);
        }
        Some(chosen)
    }

    /// Which of the candidates the data path took, by what it made of the packet.
    fn chosen(&self, candidates: &[u32]) -> Option<u32> {
        let is_it = |index: &u32| {
            let backend = &self.tables.backends[index];
            self.hint.ends.is_none_or(|(_, to)| to == backend.address)
        };
        let told = self
            .hint
            .backend
            .filter(|index| candidates.contains(index) && is_it(index));
        told.or_else(|| candidates.iter().copied().find(is_it))
    }

    fn keep(&mut self, key: (IpAddr, u32), backend: u32) {
        let generation = self.tables.backends[&backend].generation;
        let affinity = Affinity {
            backend,
            generation,
            seen: self.tables.now,
        };
        self.tables.affinity.insert(key, affinity);
    }

    /// Begins a flow with the port that was chosen for its client; `None` when none was left.
    fn begin(
        &mut self,
        tuple: Tuple,
        backend: Option<(u32, u32)>,
        service: u32,
        shown: IpAddr,
        answerer: SocketAddr,
        ports: Ports,
    ) -> Option<Flow> {
        // Its own earlier self makes room.
        self.tables.flows.remove(&tuple);
        let now = self.tables.now;
        let taken = taken(&self.tables, tuple.protocol, answerer, shown);
        let turned_away = self
            .hint
            .reason
            .map_or(self.hint.dropped, |reason| reason == DropReason::ConntrackFull as u32);
        if turned_away && Ports::may_be_exhausted(&taken) {
            return None;
        }
        let port = self.hint.ends.map_or(tuple.source.port(), |(from, _)| from.port());
        self.complaints
            .extend(ports.complaint(port, tuple.source.port(), answerer.port(), &taken));
        let half = Half {
            state: State::Opening,
            heard: now,
        };
        let flow = Flow {
            protocol: tuple.protocol,
            service,
            backend,
            client: tuple.source,
            vip: tuple.destination,
            shown: SocketAddr::new(shown, port),
            answerer,
            halves: [half, half],
            sent_here: self.meant.is_some(),
            settled: false,
        };
        if let Some(other) = self.tables.flows.of_backend(&flow.reply())
            && other.is_live(now)
            && !other.is_reset()
            && !(other.is_closed() && taken.len() >= TRIES)
        {
            self.complaints.push(format!(
                "port: {} > {} is known to {answerer} as {} too",
                other.client, other.vip, flow.shown
            ));
        }
        self.tables.flows.insert(flow);
        Some(flow)
    }

    /// An answer on its way back, if the packet is one.
    pub(super) fn answer(&mut self, frame: &[u8], packet: &Packet, echoes: bool) -> Option<Expected> {
        let echo = packet.echo_ends().filter(|_| echoes);
        let (source, destination) = packet.ends().or(echo)?;
        let tuple = Tuple {
            protocol: packet.protocol,
            source,
            destination,
        };
        let now = self.tables.now;
        let flow = *self.tables.flows.of_backend(&tuple)?;
        if !flow.is_known_to(Side::Backend, now) {
            return None;
        }
        if let Some(flow) = self.tables.flows.change(&flow.forward()) {
            flow.hear(Side::Backend, packet, now);
        }
        let behalf = on_behalf_of(&flow);
        self.remember_fragments(packet, (flow.vip.ip(), flow.client.ip()), behalf);
        let edited = edit::translate(frame, packet, flow.vip, flow.client);
        Some(self.back(edited, flow.client.ip(), behalf))
    }

    /// A packet without ports that belongs to a flow: a later fragment, or an ICMP error.
    pub(super) fn related(&mut self, frame: &[u8], packet: &Packet) -> Option<Expected> {
        if packet.ends().is_some() {
            return None;
        }
        if packet.part == Part::Later {
            return self.fragment(frame, packet);
        }
        self.error(frame, packet, Way::Open)
    }

    /// An ICMP error about a flow: whoever sent the packet it quotes hears of the packet as it was sent. The end of the flow
    /// speaks by the address the other knows it by; routers on the way speak for themselves.
    fn error(&mut self, frame: &[u8], packet: &Packet, way: Way) -> Option<Expected> {
        if !packet.is_error() {
            return None;
        }
        let quoted = frame::quoted(frame, packet)?;
        let other_way = Tuple {
            protocol: quoted.protocol,
            source: quoted.destination,
            destination: quoted.source,
        };
        let (flow, end, speaker, listener, sent) = if let Some(flow) = self.tables.flows.of_backend(&other_way) {
            // About a client's packet, as its backend got it.
            (flow, flow.answerer, flow.vip, flow.client, (flow.client, flow.vip))
        } else {
            // About an answer, as its client got it.
            let Some(flow) = self.tables.flows.of_client(&other_way) else {
                return match way {
                    Way::Open => self.error_directly(frame, &quoted),
                    Way::Chosen => None,
                };
            };
            (
                flow,
                flow.client,
                flow.shown,
                flow.answerer,
                (flow.answerer, flow.shown),
            )
        };
        let source = if packet.source == end.ip() {
            speaker.ip()
        } else {
            packet.source
        };
        let behalf = on_behalf_of(flow);
        let edited = edit::translate_error(frame, packet, (source, listener.ip()), &quoted, sent);
        match way {
            Way::Open => Some(self.back(edited, listener.ip(), behalf)),
            Way::Chosen if listener.ip() == packet.destination => {
                Some(Expected::of(Fate::Pass, Verdict::ToStack, edited, behalf))
            }
            Way::Chosen => None,
        }
    }

    /// A pod's packet to the network, behind the node's address.
    pub(super) fn masquerade(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        (source, destination): (SocketAddr, SocketAddr),
    ) -> Expected {
        let tuple = Tuple {
            protocol: packet.protocol,
            source,
            destination,
        };
        let Some(node) = self.tables.node.address_beside(source.ip()) else {
            // The node has no address of this family to lend.
            return Expected::to_stack((frame.to_vec(), Vec::new()), Behalf::NOBODY);
        };
        let known = self.known(&tuple, packet).ok().flatten();
        let is_new = known.is_none();
        let flow = known.or_else(|| self.begin(tuple, None, 0, node, destination, Ports::Node));
        let Some(flow) = flow else {
            return Expected::dropped(DropReason::ConntrackFull, frame, 0);
        };
        let behalf = Behalf {
            is_new,
            ..on_behalf_of(&flow)
        };
        let edited = edit::translate(frame, packet, flow.shown, flow.answerer);
        Expected::of(Fate::Pass, Verdict::ToNetwork, edited, behalf)
    }

    /// On to wherever the destination is: a pod here, a pod elsewhere; what is neither is the kernel's to route.
    pub(super) fn onwards(&self, edited: Edited, destination: IpAddr, behalf: Behalf) -> Expected {
        let pod = self.tables.pods.get(&destination);
        if pod.is_none() && self.tables.route(destination) != Some(Route::Tunnel) {
            return Expected::to_stack(edited, behalf);
        }
        if edit::hops(&edited.0) <= 1 {
            return Expected::dropped(DropReason::HopLimitExceeded, &edited.0, behalf.service).naming(behalf);
        }
        let (mut frame, sums) = edit::pass_router(edited);
        if let Some(pod) = pod {
            frame[..6].copy_from_slice(&pod.mac);
            frame[6..12].copy_from_slice(&pod.host_mac);
            return Expected::of(Fate::Redirect, Verdict::ToPod, (frame, sums), behalf);
        }
        Expected {
            mark: MARK_TUNNEL_KEY,
            ..Expected::of(Fate::Redirect, Verdict::ToNode, (into_tunnel(frame), sums), behalf)
        }
    }

    /// The same for what was translated back: to the network it goes past the stack, which would take it for forged.
    pub(super) fn back(&self, edited: Edited, destination: IpAddr, behalf: Behalf) -> Expected {
        let sent = self.onwards(edited, destination, behalf);
        if sent.verdict != Verdict::ToStack || self.tables.node.owns(destination) {
            return sent;
        }
        if edit::hops(&sent.frame) <= 1 {
            return Expected::dropped(DropReason::HopLimitExceeded, &sent.frame, behalf.service).naming(behalf);
        }
        let edited = edit::pass_router((sent.frame, sent.sums));
        Expected::of(Fate::Redirect, Verdict::ToNetwork, edited, behalf)
    }
}

/// Who decides where a message goes.
#[derive(Clone, Copy)]
enum Way {
    /// These programs.
    Open,
    /// The node's own stack has.
    Chosen,
}

/// Where a backend is.
#[derive(Clone, Copy)]
enum Lives {
    /// A pod of this node, or the node itself.
    Here,
    /// Elsewhere, where the way to pods is known.
    AmongPods,
    /// Anywhere else.
    Outside,
}

/// A frame as it goes into the tunnel, where the addresses mean nothing.
pub(super) fn into_tunnel(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..12].copy_from_slice(&TUNNEL_MACS);
    frame
}

fn on_behalf_of(flow: &Flow) -> Behalf {
    Behalf {
        service: flow.service,
        backend: flow.backend.map_or(NO_BACKEND, |(index, _)| index),
        is_new: false,
    }
}

fn hairpin(client: IpAddr) -> IpAddr {
    let text = HAIRPIN[usize::from(client.is_ipv6())];
    text.parse().unwrap_or(client)
}
