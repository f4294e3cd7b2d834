//! Which address a pod gets: a pure allocator over the node's pod range.
//!
//! The allocator holds no state of its own that matters: every address in use is written in its pod's record before it is
//! used, and a restarted agent builds the allocator from those records. A released address goes to the end of the line, so
//! that peers with stale knowledge of the old pod do not meet a new one at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    str::FromStr,
};

/// An IPv4 prefix such as a node's pod range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    network: Ipv4Addr,
    length: u8,
}

/// Text is no IPv4 prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not an IPv4 prefix such as 10.244.1.0/24")]
pub struct ParsePrefixError(pub String);

impl Prefix {
    /// The prefix of `length` bits that holds `address`; `None` when `length` is over 32.
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        let mask = mask(length)?;
        Some(Self {
            network: Ipv4Addr::from_bits(address.to_bits() & mask),
            length,
        })
    }

    /// First address.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Bits that count.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The range's second address, which is the node's own.
    pub fn router(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + u32::from(self.length < 32))
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        mask(self.length).is_some_and(|mask| address.to_bits() & mask == self.network.to_bits())
    }

    /// Addresses pods may have: all but the network's, the router's and the broadcast address.
    fn pod_addresses(self) -> std::ops::Range<u32> {
        let first = self.network.to_bits();
        let size = 1_u64 << (32 - u32::from(self.length));
        let last = (u64::from(first) + size - 1) as u32;
        first.saturating_add(2)..last
    }
}

fn mask(length: u8) -> Option<u32> {
    match length {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - u32::from(length))),
        _ => None,
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePrefixError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(refuse)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let prefix = Self::new(address, length.parse().map_err(|_| refuse())?).ok_or_else(refuse)?;
        if prefix.network == address {
            Ok(prefix)
        } else {
            Err(refuse())
        }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// Every address of the range has a pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the node's pod range {0} has no free address")]
pub struct RangeFull(pub Prefix);

/// Pod addresses of one node, each owned by at most one pod uid.
#[derive(Debug)]
pub struct Allocator {
    range: Prefix,
    by_pod: BTreeMap<String, Ipv4Addr>,
    used: BTreeSet<u32>,
    /// Where the next search begins: just behind the last address handed out.
    cursor: u32,
}

impl Allocator {
    /// An allocator over `range` in which `owned` addresses (pod uid → address) are taken; the search goes on behind `last`.
    pub fn new(range: Prefix, owned: impl IntoIterator<Item = (String, Ipv4Addr)>, last: Option<Ipv4Addr>) -> Self {
        let by_pod: BTreeMap<_, _> = owned.into_iter().collect();
        let used = by_pod.values().map(|address| address.to_bits()).collect();
        let cursor = last.map_or(0, |last| last.to_bits().wrapping_add(1));
        Self {
            range,
            by_pod,
            used,
            cursor,
        }
    }

    /// The range addresses come from.
    pub fn range(&self) -> Prefix {
        self.range
    }

    /// The address of pod `uid`: the one it has already, or the next free one.
    pub fn allocate(&mut self, uid: &str) -> Result<Ipv4Addr, RangeFull> {
        if let Some(&address) = self.by_pod.get(uid) {
            return Ok(address);
        }
        let range = self.range.pod_addresses();
        let start = if range.contains(&self.cursor) {
            self.cursor
        } else {
            range.start
        };
        let free = (start..range.end)
            .chain(range.start..start)
            .find(|address| !self.used.contains(address));
        let address = free.ok_or(RangeFull(self.range))?;
        self.used.insert(address);
        self.cursor = address.wrapping_add(1);
        self.by_pod.insert(uid.to_owned(), Ipv4Addr::from_bits(address));
        Ok(Ipv4Addr::from_bits(address))
    }

    /// Gives the address of pod `uid` back.
    pub fn release(&mut self, uid: &str) -> Option<Ipv4Addr> {
        let address = self.by_pod.remove(uid)?;
        // Two records with one address can only come from a damaged state directory; keep it taken while one owner lives.
        if !self.by_pod.values().any(|other| *other == address) {
            self.used.remove(&address.to_bits());
        }
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_parse_only_when_host_bits_are_clear() {
        assert_eq!(range("10.244.1.0/24").router(), Ipv4Addr::new(10, 244, 1, 1));
        for bad in [
            "10.244.1.0",
            "10.244.1.1/24",
            "10.244.1.0/33",
            "fd00::/64",
            "10.244.1.0/x",
            "",
        ] {
            assert_eq!(bad.parse::<Prefix>(), Err(ParsePrefixError(bad.to_owned())));
        }
        assert!(range("10.244.0.0/16").contains(Ipv4Addr::new(10, 244, 255, 255)));
        assert!(!range("10.244.0.0/16").contains(Ipv4Addr::new(10, 245, 0, 0)));
        assert!(range("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn network_router_and_broadcast_are_never_handed_out() {
        let mut allocator = Allocator::new(range("10.0.0.0/29"), [], None);
        let got: Vec<_> = (0..5)
            .map(|pod| allocator.allocate(&format!("{pod}")).unwrap().octets()[3])
            .collect();
        assert_eq!(got, [2, 3, 4, 5, 6]);
        assert_eq!(allocator.allocate("one more"), Err(RangeFull(range("10.0.0.0/29"))));
    }

    #[test]
    fn a_released_address_is_the_last_to_come_back() {
        let mut allocator = Allocator::new(range("10.0.0.0/29"), [], None);
        let first = allocator.allocate("a").unwrap();
        assert_eq!(allocator.release("a"), Some(first));
        let next: Vec<_> = (0..5)
            .map(|pod| allocator.allocate(&format!("{pod}")).unwrap())
            .collect();
        assert_eq!(next.last(), Some(&first));
        assert_eq!(allocator.release("a"), None);
    }

    #[test]
    fn a_rebuilt_allocator_keeps_owners_and_goes_on_behind_the_last() {
        let owned = [("a".to_owned(), Ipv4Addr::new(10, 0, 0, 3))];
        let mut allocator = Allocator::new(range("10.0.0.0/28"), owned, Some(Ipv4Addr::new(10, 0, 0, 5)));
        assert_eq!(allocator.allocate("a").unwrap(), Ipv4Addr::new(10, 0, 0, 3));
        assert_eq!(allocator.allocate("b").unwrap(), Ipv4Addr::new(10, 0, 0, 6));
    }

    proptest! {
        #[test]
        fn no_two_pods_share_an_address(steps in prop::collection::vec((any::<bool>(), 0_u8..20), 1..200)) {
            let mut allocator = Allocator::new(range("10.0.0.0/28"), [], None);
            let mut model: BTreeMap<String, Ipv4Addr> = BTreeMap::new();
            for (add, pod) in steps {
                let uid = pod.to_string();
                if add {
                    if let Ok(address) = allocator.allocate(&uid) {
                        prop_assert!(allocator.range().contains(address));
                        let before = model.insert(uid, address);
                        prop_assert!(before.is_none_or(|before| before == address));
                    } else {
                        prop_assert_eq!(model.len(), 13);
                    }
                } else {
                    prop_assert_eq!(allocator.release(&uid), model.remove(&uid));
                }
                let distinct: BTreeSet<_> = model.values().collect();
                prop_assert_eq!(distinct.len(), model.len());
            }
        }
    }
}
