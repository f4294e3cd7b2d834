//! Which address a pod gets: a pure allocator over the node's pod range.
//!
//! The allocator holds no state of its own that matters: every address in use is written in its pod's record before it is
//! used, and a restarted agent builds the allocator from those records. A released address goes to the end of the line, so
//! that peers with stale knowledge of the old pod do not meet a new one at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::net::to_bits;
pub use crate::net::{Prefix, Ranges};

/// Every address of the range has a pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the node's pod range {0} has no free address")]
pub struct RangeFull(pub Prefix);

/// Pod addresses of one node and one family, each owned by at most one pod uid.
#[derive(Debug)]
pub struct Allocator {
    range: Prefix,
    by_pod: BTreeMap<String, IpAddr>,
    used: BTreeSet<u128>,
    /// Where the next search begins: just behind the last address handed out.
    cursor: u128,
}

impl Allocator {
    /// An allocator over `range` in which `owned` addresses of its family (pod uid → address) are taken; the search goes on
    /// behind `last`.
    pub fn new(range: Prefix, owned: impl IntoIterator<Item = (String, IpAddr)>, last: Option<IpAddr>) -> Self {
        let by_pod: BTreeMap<_, _> = owned.into_iter().collect();
        let used = by_pod.values().map(|address| to_bits(*address)).collect();
        let cursor = last.map_or(0, |last| to_bits(last).wrapping_add(1));
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
    pub fn allocate(&mut self, uid: &str) -> Result<IpAddr, RangeFull> {
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
        let bits = free.ok_or(RangeFull(self.range))?;
        let address = self.range.address(bits);
        self.used.insert(bits);
        self.cursor = bits.wrapping_add(1);
        self.by_pod.insert(uid.to_owned(), address);
        Ok(address)
    }

    /// Gives the address of pod `uid` back.
    pub fn release(&mut self, uid: &str) -> Option<IpAddr> {
        let address = self.by_pod.remove(uid)?;
        // Two records with one address can only come from a damaged state directory; keep it taken while one owner lives.
        if !self.by_pod.values().any(|other| *other == address) {
            self.used.remove(&to_bits(address));
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_router_and_broadcast_are_never_handed_out() {
        let mut allocator = Allocator::new(range("10.0.0.0/29"), [], None);
        let got: Vec<_> = (0..5)
            .map(|pod| allocator.allocate(&format!("{pod}")).unwrap())
            .collect();
        assert_eq!(
            got,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(ip)
        );
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
        let owned = [("a".to_owned(), ip("10.0.0.3"))];
        let mut allocator = Allocator::new(range("10.0.0.0/28"), owned, Some(ip("10.0.0.5")));
        assert_eq!(allocator.allocate("a").unwrap(), ip("10.0.0.3"));
        assert_eq!(allocator.allocate("b").unwrap(), ip("10.0.0.6"));
    }

    #[test]
    fn an_ipv6_range_has_no_broadcast_address_and_no_end_in_practice() {
        let mut allocator = Allocator::new(range("fd00::/126"), [], None);
        assert_eq!(allocator.allocate("a").unwrap(), ip("fd00::2"));
        assert_eq!(allocator.allocate("b").unwrap(), ip("fd00::3"));
        assert!(allocator.allocate("c").is_err());
        let mut large = Allocator::new(range("fd00:0:0:1::/64"), [], Some(ip("fd00:0:0:1:ffff:ffff:ffff:ffff")));
        assert_eq!(large.allocate("a").unwrap(), ip("fd00:0:0:1::2"));
    }

    proptest! {
        #[test]
        fn no_two_pods_share_an_address(steps in prop::collection::vec((any::<bool>(), 0_u8..20), 1..200)) {
            let mut allocator = Allocator::new(range("10.0.0.0/28"), [], None);
            let mut model: BTreeMap<String, IpAddr> = BTreeMap::new();
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
