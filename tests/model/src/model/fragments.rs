//! Fragments: the later ones, which have no ports, follow the first; those that come before it wait for it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use causeway_abi::DropReason;
use causeway_abi::event::Verdict;
use causeway_abi::service::NO_BACKEND;

use super::edit;
use super::frame::{Packet, Part};
use super::tables::{FragmentKey, FragmentRoute};
use super::{Behalf, Expected, Fate, Model};

/// How long the fragments of a datagram may take to arrive, in seconds (`net.ipv4.ipfrag_time`).
const REASSEMBLY_SECONDS: u64 = 30;
/// Places for the fragments of a datagram that wait for their first, and how many are tried for one.
const PLACES: u8 = 64;
const PLACES_TRIED: u8 = 8;

impl Model {
    pub(super) fn fragment(&mut self, frame: &[u8], packet: &Packet) -> Option<Expected> {
        let known = self.tables.fragments.get(&fragment_key(packet)).copied();
        let known = known.filter(|route| self.is_fresh(route.seen) && !route.source.is_unspecified());
        let Some(route) = known else {
            return Some(self.hold(frame, packet));
        };
        let is_translated = (route.source, route.destination) != (packet.source, packet.destination);
        if !is_translated && route.backend == NO_BACKEND {
            // As its first one did, it goes on as it is.
            return None;
        }
        let behalf = Behalf {
            service: route.service,
            backend: route.backend,
            is_new: false,
        };
        if !is_translated {
            return Some(self.fragment_directly(frame, behalf));
        }
        let edited = edit::translate(
            frame,
            packet,
            SocketAddr::new(route.source, 0),
            SocketAddr::new(route.destination, 0),
        );
        Some(self.back(edited, route.destination, behalf))
    }

    fn is_fresh(&self, seen: Duration) -> bool {
        self.tables.now.saturating_sub(seen).as_secs() <= REASSEMBLY_SECONDS
    }

    /// Keeps a fragment that comes before its first one: at the place of its KiB of the datagram, or one of the next.
    fn hold(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        let key = fragment_key(packet);
        let first = (packet.offset >> 10) as u8;
        let place = (0..PLACES_TRIED)
            .map(|step| first.wrapping_add(step) % PLACES)
            .find(|place| !self.tables.held.contains_key(&(key, *place)));
        let Some(place) = place else {
            return Expected::dropped(DropReason::FragmentNotHeld, frame, 0);
        };
        let now = self.tables.now;
        self.tables.held.insert((key, place), now);
        let is_waiting = self
            .tables
            .fragments
            .get(&key)
            .is_some_and(|route| route.source.is_unspecified());
        if !is_waiting {
            let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let route = FragmentRoute {
                source: nobody,
                destination: nobody,
                service: 0,
                backend: NO_BACKEND,
                seen: now,
            };
            self.tables.fragments.insert(key, route);
        }
        Expected::held(frame)
    }

    /// The first fragment of a datagram that goes on as it is.
    pub(super) fn remember_as_it_is(&mut self, packet: &Packet) {
        self.remember_fragments(packet, (packet.source, packet.destination), Behalf::NOBODY);
    }

    /// Remembers what became of a datagram's first fragment; those that waited for it follow.
    pub(super) fn remember_fragments(
        &mut self,
        packet: &Packet,
        (source, destination): (IpAddr, IpAddr),
        behalf: Behalf,
    ) {
        if packet.part == Part::First {
            let route = FragmentRoute {
                source,
                destination,
                service: behalf.service,
                backend: behalf.backend,
                seen: self.tables.now,
            };
            let key = fragment_key(packet);
            let before = self.tables.fragments.insert(key, route);
            if before.is_some_and(|before| before.source.is_unspecified()) {
                self.tables.held.retain(|(datagram, _), _| *datagram != key);
            }
        }
    }

    /// A later fragment of a pod's datagram to the network: the address is the same for all.
    pub(super) fn masqueraded_fragment(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        let Some(node) = self.tables.node.address_beside(packet.source) else {
            return Expected::to_stack((frame.to_vec(), Vec::new()), Behalf::NOBODY);
        };
        let edited = edit::translate(
            frame,
            packet,
            SocketAddr::new(node, 0),
            SocketAddr::new(packet.destination, 0),
        );
        Expected::of(Fate::Pass, Verdict::ToNetwork, edited, Behalf::NOBODY)
    }
}

fn fragment_key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        identification: packet.identification,
        protocol: if packet.source.is_ipv4() { packet.protocol } else { 0 },
    }
}
