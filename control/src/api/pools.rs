//! Where addresses and node ports of services come from. What is taken is decided by the store, in the transaction that writes the
//! service; here is only a memory of what was seen taken, so that the first try nearly always succeeds.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::RngExt;

use super::allocation::{Allocation, PREFIX, Protocol};
use crate::{
    cidr::{Cidr, Family},
    port_range::PortRange,
    store::{Store, StoreError},
};

/// Bits in which the addresses of the largest range differ; a bit of memory per address is kept.
pub const MAX_HOST_BITS: u8 = 20;
/// Bits in which the addresses of the smallest service range differ: two usable addresses.
pub const MIN_HOST_BITS: u8 = 2;

/// Numbers from 0, each taken or not.
#[derive(Debug)]
struct Numbers {
    bits: Vec<u64>,
    count: u64,
    len: u64,
    /// The lowest, which are given last, so that they are free for services that ask for them.
    reserved: u64,
}

impl Numbers {
    fn new(len: u64) -> Self {
        let reserved = if len < 16 {
            0
        } else {
            (len / 16).clamp(16, 256).min(len / 2)
        };
        Self {
            bits: vec![0; len.div_ceil(64) as usize],
            count: 0,
            len,
            reserved,
        }
    }

    fn has(&self, number: u64) -> bool {
        self.bits[(number / 64) as usize] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: u64) {
        if !self.has(number) {
            self.bits[(number / 64) as usize] |= 1 << (number % 64);
            self.count += 1;
        }
    }

    fn clear(&mut self, number: u64) {
        if self.has(number) {
            self.bits[(number / 64) as usize] &= !(1 << (number % 64));
            self.count -= 1;
        }
    }

    /// Takes a free one: random, so that one is not soon used again.
    fn take_any(&mut self) -> Option<u64> {
        if self.count >= self.len {
            return None;
        }
        let (upper, reserved) = (self.len - self.reserved, self.reserved);
        let start = rand::rng().random_range(0..upper);
        let high = (0..upper).map(|step| reserved + (start + step) % upper);
        let number = high.chain(0..reserved).find(|number| !self.has(*number))?;
        self.set(number);
        Some(number)
    }

    fn take_lowest(&mut self) -> Option<u64> {
        let number = (0..self.len).find(|number| !self.has(*number))?;
        self.set(number);
        Some(number)
    }
}

/// Addresses of one range.
#[derive(Debug)]
pub struct AddressPool {
    range: Cidr,
    /// Addresses at either end that are not given.
    edge: u64,
    taken: Mutex<Numbers>,
}

impl AddressPool {
    /// Nothing taken yet. Of a range of VIPs, the first and the last address are not given.
    pub fn of_vips(range: Cidr) -> Self {
        Self::new(range, 1)
    }

    /// Nothing taken yet; every address is given.
    pub fn of_load_balancers(range: Cidr) -> Self {
        Self::new(range, 0)
    }

    fn new(range: Cidr, edge: u64) -> Self {
        let size = u64::try_from(range.size()).unwrap_or(u64::MAX);
        Self {
            range,
            edge,
            taken: Mutex::new(Numbers::new(size.saturating_sub(2 * edge))),
        }
    }

    /// The range.
    pub fn range(&self) -> Cidr {
        self.range
    }

    /// Addresses that services can have.
    pub fn usable(&self) -> u64 {
        lock(&self.taken).len
    }

    fn number(&self, address: IpAddr) -> Option<u64> {
        let offset = u64::try_from(self.range.offset(address)?).ok()?;
        offset.checked_sub(self.edge).filter(|number| *number < self.usable())
    }

    /// An address not seen taken, and marks it; `None` when there is none.
    pub fn propose(&self) -> Option<IpAddr> {
        let number = lock(&self.taken).take_any()?;
        self.range.address(u128::from(number + self.edge))
    }

    /// The lowest address not seen taken, and marks it.
    pub fn propose_lowest(&self) -> Option<IpAddr> {
        let number = lock(&self.taken).take_lowest()?;
        self.range.address(u128::from(number + self.edge))
    }
}

/// All pools of a control plane.
#[derive(Debug)]
pub struct Pools {
    vips: Vec<AddressPool>,
    load_balancers: Vec<AddressPool>,
    node_ports: PortRange,
    tcp: Mutex<Numbers>,
    udp: Mutex<Numbers>,
}

impl Pools {
    /// Nothing taken yet.
    pub fn new(vips: &[Cidr], load_balancers: &[Cidr], node_ports: PortRange) -> Self {
        let ports = || Mutex::new(Numbers::new(node_ports.count().into()));
        Self {
            vips: vips.iter().copied().map(AddressPool::of_vips).collect(),
            load_balancers: load_balancers
                .iter()
                .copied()
                .map(AddressPool::of_load_balancers)
                .collect(),
            node_ports,
            tcp: ports(),
            udp: ports(),
        }
    }

    /// Where VIPs of a family come from.
    pub fn vips(&self, family: Family) -> Option<&AddressPool> {
        self.vips.iter().find(|pool| pool.range.family() == family)
    }

    /// Where load-balancer addresses come from.
    pub fn load_balancers(&self) -> &[AddressPool] {
        &self.load_balancers
    }

    /// The range of node ports.
    pub fn node_ports(&self) -> PortRange {
        self.node_ports
    }

    fn ports(&self, protocol: Protocol) -> &Mutex<Numbers> {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// A node port not seen taken, and marks it.
    pub fn propose_port(&self, protocol: Protocol) -> Option<u16> {
        let number = lock(self.ports(protocol)).take_any()?;
        self.node_ports.port(number as u32)
    }

    /// Marks this node port, if it is of the range and not seen taken.
    pub fn propose_this_port(&self, protocol: Protocol, port: u16) -> bool {
        let Some(number) = self.node_ports.offset(port) else {
            return false;
        };
        let mut numbers = lock(self.ports(protocol));
        let free = !numbers.has(number.into());
        numbers.set(number.into());
        free
    }

    /// Remembers something as taken; what is in no range is nobody's concern here.
    pub fn mark(&self, allocation: Allocation) {
        self.with(allocation, Numbers::set);
    }

    /// Remembers something as free.
    pub fn release(&self, allocation: Allocation) {
        self.with(allocation, Numbers::clear);
    }

    fn with(&self, allocation: Allocation, change: impl Fn(&mut Numbers, u64)) {
        let addresses = |pools: &[AddressPool], address| {
            for pool in pools {
                if let Some(number) = pool.number(address) {
                    change(&mut lock(&pool.taken), number);
                }
            }
        };
        match allocation {
            Allocation::Vip(address) => addresses(&self.vips, address),
            Allocation::LoadBalancer(address) => addresses(&self.load_balancers, address),
            Allocation::NodePort(protocol, port) => {
                if let Some(number) = self.node_ports.offset(port) {
                    change(&mut lock(self.ports(protocol)), number.into());
                }
            }
        }
    }

    /// Reads from the store what is taken. What was proposed but not stored yet may be proposed again meanwhile; the store refuses
    /// the second.
    pub async fn reload(&self, store: &dyn Store) -> Result<(), StoreError> {
        let ranges = |pools: &[AddressPool]| pools.iter().map(AddressPool::range).collect::<Vec<_>>();
        let fresh = Self::new(&ranges(&self.vips), &ranges(&self.load_balancers), self.node_ports);
        let mut page = store.list(PREFIX, None, 1000, None).await?;
        loop {
            let last = page.items.last().map(|item| item.key.clone());
            let found = page.items.iter().filter_map(|item| Allocation::from_key(&item.key));
            found.for_each(|allocation| fresh.mark(allocation));
            let Some(last) = last.filter(|_| page.more) else { break };
            page = store.list(PREFIX, Some(&last), 1000, Some(page.revision)).await?;
        }
        let take = |from: &Mutex<Numbers>, to: &Mutex<Numbers>| std::mem::swap(&mut *lock(from), &mut *lock(to));
        take(&fresh.tcp, &self.tcp);
        take(&fresh.udp, &self.udp);
        let fresh_pools = fresh.vips.iter().chain(&fresh.load_balancers);
        for (fresh, own) in fresh_pools.zip(self.vips.iter().chain(&self.load_balancers)) {
            take(&fresh.taken, &own.taken);
        }
        Ok(())
    }
}

fn lock(numbers: &Mutex<Numbers>) -> MutexGuard<'_, Numbers> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn vips(range: &str) -> AddressPool {
        AddressPool::of_vips(range.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_usable_address_is_proposed_once() {
        let pools = Pools::new(&["10.96.0.0/24".parse().unwrap()], &[], PortRange::NODE_PORTS);
        let vips = pools.vips(Family::V4).unwrap();
        let proposed: BTreeSet<_> = std::iter::from_fn(|| vips.propose()).collect();
        assert_eq!(proposed.len(), 254);
        assert!(!proposed.contains(&ip("10.96.0.0")), "network address");
        assert!(!proposed.contains(&ip("10.96.0.255")), "broadcast address");
        pools.release(Allocation::Vip(ip("10.96.0.7")));
        assert_eq!(vips.propose(), Some(ip("10.96.0.7")));
        assert_eq!(vips.propose(), None);
    }

    #[test]
    fn low_addresses_are_kept_for_those_who_ask() {
        let vips = vips("10.96.0.0/16");
        for _ in 0..1000 {
            assert!(vips.propose().unwrap() > ip("10.96.1.0"));
        }
    }

    #[test]
    fn the_smallest_range_has_two() {
        let vips = vips("10.0.0.0/30");
        assert_eq!(std::iter::from_fn(|| vips.propose()).count(), 2);
        let balancers = AddressPool::of_load_balancers("192.0.2.7/32".parse().unwrap());
        assert_eq!(
            (balancers.propose_lowest(), balancers.propose_lowest()),
            (Some(ip("192.0.2.7")), None)
        );
    }

    #[test]
    fn marking_twice_counts_once() {
        let pools = Pools::new(&["fd00::/125".parse().unwrap()], &[], PortRange::NODE_PORTS);
        for address in ["fd00::1", "fd00::1", "fd00::", "fd00::7", "10.9.9.9"] {
            pools.mark(Allocation::Vip(ip(address)));
        }
        let vips = pools.vips(Family::V6).unwrap();
        assert_eq!(std::iter::from_fn(|| vips.propose()).count(), 5);
        assert!(pools.vips(Family::V4).is_none());
    }

    #[test]
    fn a_port_is_one_for_each_protocol() {
        let pools = Pools::new(&[], &[], "30000-30003".parse().unwrap());
        assert!(pools.propose_this_port(Protocol::Tcp, 30_001));
        assert!(!pools.propose_this_port(Protocol::Tcp, 30_001));
        assert!(pools.propose_this_port(Protocol::Udp, 30_001));
        assert!(!pools.propose_this_port(Protocol::Udp, 30_004));
        let rest: BTreeSet<_> = std::iter::from_fn(|| pools.propose_port(Protocol::Tcp)).collect();
        assert_eq!(rest, BTreeSet::from([30_000, 30_002, 30_003]));
        pools.release(Allocation::NodePort(Protocol::Tcp, 30_001));
        assert_eq!(pools.propose_port(Protocol::Tcp), Some(30_001));
    }
}
