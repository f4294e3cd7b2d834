//! The hooks, one function each.

use causeway_abi::DropReason;
use causeway_abi::event::Verdict;

use super::edit;
use super::flows::Tuple;
use super::frame::{Frame, Packet, Part, protocol};
use super::steps::into_tunnel;
use super::tables::{Route, Scope, Vip, within};
use super::{Behalf, Expected, Hook, Model, untouched};

/// Mark of packets that have their tunnel key already.
pub const MARK_TUNNEL_KEY: u32 = 0x6377_0001;

impl Model {
    pub(super) fn at(&mut self, hook: Hook, frame: &[u8], mark: u32, read: &Frame) -> Expected {
        let keeps_mark = Expected {
            mark,
            ..Expected::to_stack(untouched(frame), Behalf::NOBODY)
        };
        let expected = match (hook, read) {
            (Hook::ToTunnel, _) if mark == MARK_TUNNEL_KEY => {
                return Expected {
                    mark: 0,
                    is_told: false,
                    ..keeps_mark
                };
            }
            // The stack may judge what is malformed, where no pod is to be protected from it.
            (_, Frame::NotIp) | (Hook::FromUplink | Hook::ToUplink, Frame::Malformed) => return keeps_mark,
            (_, Frame::Malformed) => Expected::dropped(DropReason::MalformedPacket, frame, 0),
            (Hook::FromPod, Frame::Ip(packet)) => self.sent_by_pod(frame, packet),
            (Hook::FromTunnel, Frame::Ip(packet)) => self.out_of_tunnel(frame, packet),
            (Hook::ToTunnel, Frame::Ip(packet)) => self.leaving_for_other_nodes(frame, packet),
            (Hook::FromUplink, Frame::Ip(packet)) => self.sent_by_network(frame, packet),
            (Hook::ToUplink, Frame::Ip(packet)) => self.leaving(frame, packet),
        };
        let mark = if expected.mark == 0 { mark } else { expected.mark };
        Expected { mark, ..expected }
    }

    /// Everything a pod sends: only with an address of its own. A service's packets go to a backend, answers back to who asked.
    fn sent_by_pod(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        if packet.is_link_control() {
            return Expected::to_stack(untouched(frame), Behalf::NOBODY);
        }
        let sender = self.tables.pods.get(&packet.source);
        if sender.is_none_or(|pod| pod.ifindex != self.tables.node.ifindex) {
            return Expected::dropped(DropReason::SourceAddressNotPods, frame, 0);
        }
        if edit::hops(frame) <= 1 && self.is_routed(packet, Scope::Cluster) {
            return Expected::at_its_end(frame, packet, self.tables.node.router_beside(packet.source));
        }
        if let Some(service) = self.service(packet, Scope::Cluster) {
            return match self.balance(frame, packet, &service, Scope::Cluster) {
                Ok(sent) => sent,
                Err(reason) => Self::turned_away(reason, frame, packet, service.id),
            };
        }
        if let Some(sent) = self
            .answer(frame, packet, false)
            .or_else(|| self.related(frame, packet))
        {
            return sent;
        }
        self.remember_as_it_is(packet);
        self.onwards(untouched(frame), packet.destination, Behalf::NOBODY)
    }

    /// Everything other nodes send through the tunnel: for pods and for the node itself.
    fn out_of_tunnel(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        if edit::hops(frame) <= 1 && self.is_routed(packet, Scope::Node) {
            let router = self.tables.node.router_beside(packet.source);
            return self.sent_back(Expected::at_its_end(frame, packet, router), packet.source);
        }
        if let (Some(backend), Some(_)) = (super::direct::named(frame), packet.ends()) {
            return self.sent_directly(frame, packet, backend);
        }
        if let Some(sent) = self
            .answer(frame, packet, false)
            .or_else(|| self.related(frame, packet))
        {
            return sent;
        }
        self.remember_as_it_is(packet);
        if self.tables.pods.contains_key(&packet.destination) {
            return self.onwards(untouched(frame), packet.destination, Behalf::NOBODY);
        }
        if self.tables.node.owns(packet.destination) {
            return Expected::to_stack(untouched(frame), Behalf::NOBODY);
        }
        Expected::dropped(DropReason::NoSuchPod, frame, 0)
    }

    /// What the node's own processes send to pods elsewhere.
    fn leaving_for_other_nodes(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        if packet.is_link_control() {
            return Expected::to_stack(untouched(frame), Behalf::NOBODY);
        }
        if self.tables.route(packet.destination).is_none() {
            return Expected::dropped(DropReason::NoSuchPod, frame, 0);
        }
        // Pods know the node by its address among them; by another one they know only a service of it.
        let is_by_service = self.tables.node.addresses.contains(&packet.source);
        let answer = if is_by_service {
            self.answer_of_node(frame, packet)
        } else {
            None
        };
        let sent = answer.unwrap_or_else(|| Expected::to_stack(untouched(frame), Behalf::NOBODY));
        Expected {
            verdict: Verdict::ToNode,
            ..sent
        }
    }

    /// Everything the network sends: to services as the network knows them, and answers to who left behind the node's address.
    fn sent_by_network(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        if packet.is_link_control() || self.is_tunnel(packet) {
            // Where the network's MTU is small, the tunnel's own packets are divided.
            self.remember_as_it_is(packet);
            return Expected::to_stack(untouched(frame), Behalf::NOBODY);
        }
        if edit::hops(frame) <= 1 && self.is_routed(packet, Scope::Node) {
            return Expected::at_its_end(frame, packet, self.tables.node.address_beside(packet.source));
        }
        if let Some(service) = self.service(packet, Scope::Node) {
            let let_in = service.sources.as_ref().is_none_or(|sources| {
                sources
                    .iter()
                    .any(|(prefix, bits)| within(packet.source, *prefix, *bits))
            });
            if !let_in {
                return Expected::dropped(DropReason::SourceNotAllowed, frame, service.id);
            }
            if let Some(sent) = self.directly(frame, packet, &service) {
                return sent;
            }
            return match self.balance(frame, packet, &service, Scope::Node) {
                Ok(sent) => sent,
                Err(reason) => Self::turned_away(reason, frame, packet, service.id),
            };
        }
        if let Some(sent) = self.answer(frame, packet, true).or_else(|| self.related(frame, packet)) {
            return sent;
        }
        self.remember_as_it_is(packet);
        if self.tables.pods.contains_key(&packet.destination) {
            return self.onwards(untouched(frame), packet.destination, Behalf::NOBODY);
        }
        Expected::to_stack(untouched(frame), Behalf::NOBODY)
    }

    /// Whether a packet is sent on here, so that this node is a router on its way: to a service, to a pod, or back to who asked. What is
    /// left to the kernel is the kernel's to count.
    fn is_routed(&self, packet: &Packet, scope: Scope) -> bool {
        let is_answer = packet
            .ends()
            .or_else(|| packet.echo_ends())
            .is_some_and(|(source, destination)| {
                let tuple = Tuple {
                    protocol: packet.protocol,
                    source,
                    destination,
                };
                self.tables.flows.of_backend(&tuple).is_some()
            });
        is_answer
            || self.service(packet, scope).is_some()
            || self.tables.pods.contains_key(&packet.destination)
            || self.tables.route(packet.destination) == Some(Route::Tunnel)
    }

    /// What this node says to a packet that came out of the tunnel goes back through it, or to the network.
    pub(super) fn sent_back(&self, said: Expected, to: std::net::IpAddr) -> Expected {
        if said.verdict != Verdict::Refuse || self.tables.route(to) != Some(Route::Tunnel) {
            return said;
        }
        let (frame, sums) = edit::pass_router((said.frame, said.sums));
        Expected {
            frame: into_tunnel(frame),
            sums,
            mark: MARK_TUNNEL_KEY,
            ..said
        }
    }

    /// Everything that leaves for the network: pods leave behind the node's address, unless the network knows the way to them.
    fn leaving(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        if self.tables.node.addresses.contains(&packet.source) {
            let to_tunnel = packet.protocol == protocol::UDP
                && packet
                    .ends()
                    .is_some_and(|(_, to)| to.port() == self.tables.node.tunnel_port);
            let answered = if to_tunnel {
                None
            } else {
                self.answer_of_node(frame, packet)
            };
            return answered.unwrap_or_else(|| Expected::to_stack(untouched(frame), Behalf::NOBODY));
        }
        let is_inside = match self.tables.route(packet.destination) {
            Some(Route::Tunnel | Route::Native) => true,
            None => false,
        };
        if !self.tables.node.masquerade || is_inside || !self.tables.pods.contains_key(&packet.source) {
            return Expected::to_stack(untouched(frame), Behalf::NOBODY);
        }
        if packet.part == Part::Later {
            return self.masqueraded_fragment(frame, packet);
        }
        let ends = packet
            .ends()
            .or_else(|| packet.echo_ends().filter(|_| packet.is_echo_request()));
        let Some(ends) = ends else {
            return Expected::dropped(DropReason::NotMasqueradable, frame, 0);
        };
        self.masquerade(frame, packet, ends)
    }

    /// A packet of the tunnel's own.
    fn is_tunnel(&self, packet: &Packet) -> bool {
        packet.protocol == protocol::UDP
            && packet.ends().is_some_and(|(_, to)| {
                to.port() == self.tables.node.tunnel_port && self.tables.node.addresses.contains(&to.ip())
            })
    }

    /// The service a packet asks for.
    pub(super) fn service(&self, packet: &Packet, scope: Scope) -> Option<super::tables::Service> {
        let (_, address) = packet.ends()?;
        let vip = Vip {
            scope,
            protocol: packet.protocol,
            address,
        };
        self.tables.services.get(&vip).cloned()
    }

    /// Refused where that helps the client; it is no answer that this node has no room.
    pub(super) fn turned_away(reason: DropReason, frame: &[u8], packet: &Packet, service: u32) -> Expected {
        match reason {
            DropReason::NoReadyBackend | DropReason::BackendGone => Expected::refused(reason, frame, packet, service),
            _ => Expected::dropped(reason, frame, service),
        }
    }
}
