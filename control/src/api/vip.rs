//! Which VIP a new service gets. What is taken is decided by the store, in the transaction that creates the service; here is only
//! a memory of what was seen taken, so that the first try nearly always succeeds.

use std::{
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::RngExt;

use super::stored;
use crate::{
    cidr::Cidr,
    store::{Store, StoreError},
};

/// The largest range; a bit per address is kept.
pub const MIN_PREFIX_LEN: u8 = 12;
/// The smallest range: two usable addresses.
pub const MAX_PREFIX_LEN: u8 = 30;

/// Proposes free addresses of the service range.
pub struct VipAllocator {
    range: Cidr,
    taken: Mutex<Taken>,
}

struct Taken {
    bits: Vec<u64>,
    count: u64,
}

impl VipAllocator {
    /// Nothing taken yet.
    pub fn new(range: Cidr) -> Self {
        let words = range.size().div_ceil(64) as usize;
        Self {
            range,
            taken: Mutex::new(Taken {
                bits: vec![0; words],
                count: 0,
            }),
        }
    }

    /// The service range.
    pub fn range(&self) -> Cidr {
        self.range
    }

    /// Addresses that services can have: all but the first and the last of the range.
    pub fn usable(&self) -> u64 {
        self.range.size().saturating_sub(2)
    }

    /// True for an address that a service may ask for.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        self.range
            .offset(ip)
            .is_some_and(|offset| (1..=self.usable()).contains(&offset))
    }

    /// An address not seen taken, and marks it; `None` when there is none. Random, so that an address is not soon used again;
    /// the lowest ones come last, so that they are free for services that ask for them.
    pub fn propose(&self) -> Option<Ipv4Addr> {
        let usable = self.usable();
        let reserved = if usable < 16 {
            0
        } else {
            (usable / 16).clamp(16, 256).min(usable / 2)
        };
        let mut taken = self.lock();
        if taken.count >= usable {
            return None;
        }
        let upper = usable - reserved;
        let start = rand::rng().random_range(0..upper);
        let high = (0..upper).map(|step| 1 + reserved + (start + step) % upper);
        let low = 1..=reserved;
        let offset = high.chain(low).find(|offset| !taken.has(*offset))?;
        taken.set(offset);
        self.range.address(offset)
    }

    /// Remembers an address as taken.
    pub fn mark(&self, ip: Ipv4Addr) {
        if let Some(offset) = self.range.offset(ip).filter(|_| self.contains(ip)) {
            self.lock().set(offset);
        }
    }

    /// Remembers an address as free.
    pub fn release(&self, ip: Ipv4Addr) {
        if let Some(offset) = self.range.offset(ip).filter(|_| self.contains(ip)) {
            self.lock().clear(offset);
        }
    }

    /// Reads from the store what is taken. Addresses that were proposed but not stored yet may be proposed again meanwhile; the store
    /// refuses the second.
    pub async fn reload(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut fresh = Taken {
            bits: vec![0; self.lock().bits.len()],
            count: 0,
        };
        let mut page = store.list(stored::VIP_PREFIX, None, 1000, None).await?;
        loop {
            let last = page.items.last().map(|item| item.key.clone());
            let addresses = page
                .items
                .iter()
                .filter_map(|item| item.key.strip_prefix(stored::VIP_PREFIX)?.parse().ok());
            for ip in addresses.filter(|ip| self.contains(*ip)) {
                self.range.offset(ip).into_iter().for_each(|offset| fresh.set(offset));
            }
            let Some(last) = last.filter(|_| page.more) else { break };
            page = store
                .list(stored::VIP_PREFIX, Some(&last), 1000, Some(page.revision))
                .await?;
        }
        *self.lock() = fresh;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn has(&self, offset: u64) -> bool {
        self.bits[(offset / 64) as usize] >> (offset % 64) & 1 == 1
    }

    fn set(&mut self, offset: u64) {
        if !self.has(offset) {
            self.bits[(offset / 64) as usize] |= 1 << (offset % 64);
            self.count += 1;
        }
    }

    fn clear(&mut self, offset: u64) {
        if self.has(offset) {
            self.bits[(offset / 64) as usize] &= !(1 << (offset % 64));
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_usable_address_is_proposed_once() {
        let vips = VipAllocator::new("10.96.0.0/24".parse().unwrap());
        let proposed: BTreeSet<_> = std::iter::from_fn(|| vips.propose()).collect();
        assert_eq!(proposed.len(), 254);
        assert!(!proposed.contains(&Ipv4Addr::new(10, 96, 0, 0)), "network address");
        assert!(!proposed.contains(&Ipv4Addr::new(10, 96, 0, 255)), "broadcast address");
        vips.release(Ipv4Addr::new(10, 96, 0, 7));
        assert_eq!(vips.propose(), Some(Ipv4Addr::new(10, 96, 0, 7)));
        assert_eq!(vips.propose(), None);
    }

    #[test]
    fn low_addresses_are_kept_for_those_who_ask() {
        let vips = VipAllocator::new("10.96.0.0/16".parse().unwrap());
        for _ in 0..1000 {
            assert!(vips.propose().unwrap() > Ipv4Addr::new(10, 96, 1, 0));
        }
    }

    #[test]
    fn the_smallest_range_has_two() {
        let vips = VipAllocator::new("10.0.0.0/30".parse().unwrap());
        assert_eq!(std::iter::from_fn(|| vips.propose()).count(), 2);
        assert!(!vips.contains(Ipv4Addr::new(10, 0, 0, 0)));
        assert!(!vips.contains(Ipv4Addr::new(10, 0, 0, 3)));
        assert!(!vips.contains(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn marking_twice_counts_once() {
        let vips = VipAllocator::new("10.0.0.0/29".parse().unwrap());
        vips.mark(Ipv4Addr::new(10, 0, 0, 1));
        vips.mark(Ipv4Addr::new(10, 0, 0, 1));
        vips.mark(Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(std::iter::from_fn(|| vips.propose()).count(), 5);
    }
}
