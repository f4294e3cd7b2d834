//! Fragments: the later ones, which have no ports, follow the first; those that come before it wait for it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use causeway_abi::event::Verdict;
use causeway_abi::fragment::held_place;
use causeway_abi::service::NO_BACKEND;
use causeway_abi::{Address, DropReason};

use super::edit;
use super::frame::{Packet, Part};
use super::tables::{FragmentKey, FragmentRoute, Held};
use super::{Behalf, Expected, Fate, Model};

/// How long the fragments of a datagram may take to arrive, in seconds (`net.ipv4.ipfrag_time`).
const REASSEMBLY_SECONDS: u64 = 30;
/// Places tried for a fragment that waits.
const PLACES_TRIED: u32 = 8;

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

    /// Keeps a fragment that comes before its first one.
    fn hold(&mut self, frame: &[u8], packet: &Packet) -> Expected {
        let key = fragment_key(packet);
        let Some(place) = self.place(&key, u32::from(packet.offset)) else {
            return Expected::dropped(DropReason::FragmentNotHeld, frame, 0);
        };
        let now = self.tables.now;
        let held = Held {
            datagram: key,
            seen: now,
            number: self.tables.held_ever,
            length: frame.len(),
        };
        self.tables.held_ever += 1;
        self.tables.held.insert(place, held);
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

    /// Makes a place for a fragment: that of its KiB of the datagram or one of the next, which is free or whose fragment has waited for
    /// too long; else that of the fragment of another datagram which has waited longest there.
    fn place(&mut self, key: &FragmentKey, offset: u32) -> Option<u32> {
        let home = abi_key(key).home();
        let number = |step| held_place(home, (offset >> 10) + step, self.tables.node.held_fragments);
        let places: Vec<u32> = (0..PLACES_TRIED).filter_map(number).collect();
        let free = places.iter().copied().find(|place| {
            let held = self.tables.held.get(place);
            held.is_none_or(|held| !self.is_fresh(held.seen))
        });
        let taken = places.iter().copied().filter(|place| {
            let held = self.tables.held.get(place);
            held.is_some_and(|held| held.datagram != *key)
        });
        let (place, reason) = if let Some(place) = free {
            (place, DropReason::FragmentExpired)
        } else {
            let oldest = taken.min_by_key(|place| self.tables.held[place].number)?;
            (oldest, DropReason::FragmentEvicted)
        };
        if let Some(lost) = self.tables.held.remove(&place) {
            self.tables.count_drop(reason, lost.length);
        }
        Some(place)
    }

    /// The fragments of a datagram that wait do not any more; those that have waited for too long are lost.
    fn release(&mut self, datagram: &FragmentKey) {
        let theirs = self.tables.held.iter().filter(|(_, held)| held.datagram == *datagram);
        let places: Vec<u32> = theirs.map(|(place, _)| *place).collect();
        for place in places {
            if let Some(held) = self.tables.held.remove(&place)
                && !self.is_fresh(held.seen)
            {
                self.tables.count_drop(DropReason::FragmentExpired, held.length);
            }
        }
    }

    /// Remembers what became of the first fragment of a datagram of the node's own stack, which sends it before the others: nothing
    /// waits for it.
    pub(super) fn remember_own(&mut self, packet: &Packet, (source, destination): (IpAddr, IpAddr), behalf: Behalf) {
        if packet.part == Part::First {
            self.insert_route(packet, (source, destination), behalf);
        }
    }

    /// Forgets an earlier datagram of the node's own stack with the identification of this one.
    pub(super) fn forget_own(&mut self, packet: &Packet) {
        if packet.part == Part::First {
            self.tables.fragments.remove(&fragment_key(packet));
        }
    }

    /// What a later fragment of the node's own stack becomes, like its first one.
    pub(super) fn own_fragment(&self, frame: &[u8], packet: &Packet) -> Option<Expected> {
        let route = self.tables.fragments.get(&fragment_key(packet))?;
        let is_answer = self.is_fresh(route.seen)
            && !route.source.is_unspecified()
            && route.source != packet.source
            && route.destination == packet.destination;
        let behalf = Behalf {
            service: route.service,
            backend: route.backend,
            is_new: false,
        };
        let (source, destination) = (SocketAddr::new(route.source, 0), SocketAddr::new(route.destination, 0));
        is_answer.then(|| {
            let edited = edit::translate(frame, packet, source, destination);
            Expected::of(Fate::Pass, Verdict::ToStack, edited, behalf)
        })
    }

    fn insert_route(
        &mut self,
        packet: &Packet,
        (source, destination): (IpAddr, IpAddr),
        behalf: Behalf,
    ) -> Option<FragmentRoute> {
        let route = FragmentRoute {
            source,
            destination,
            service: behalf.service,
            backend: behalf.backend,
            seen: self.tables.now,
        };
        self.tables.fragments.insert(fragment_key(packet), route)
    }

    /// The first fragment of a datagram that goes on as it is.
    pub(super) fn remember_as_it_is(&mut self, packet: &Packet) {
        self.remember_fragments(packet, (packet.source, packet.destination), Behalf::NOBODY);
    }

    /// Remembers what became of a datagram's first fragment; those that waited for it follow.
    pub(super) fn remember_fragments(&mut self, packet: &Packet, ends: (IpAddr, IpAddr), behalf: Behalf) {
        if packet.part == Part::First {
            let before = self.insert_route(packet, ends, behalf);
            if before.is_some_and(|before| before.source.is_unspecified()) {
                self.release(&fragment_key(packet));
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

/// The key as the programs have it: it decides where in their table fragments wait.
fn abi_key(key: &FragmentKey) -> causeway_abi::fragment::FragmentKey {
    let address = |address| match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::new(v6.octets()),
    };
    causeway_abi::fragment::FragmentKey {
        source: address(key.source),
        destination: address(key.destination),
        identification_be: key.identification,
        protocol: key.protocol,
        reserved: [0; 3],
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
