//! Bringing services into the kernel, and asking the kernel what it did with packets.

mod causeway;
mod command;
mod conntrack;
mod genetlink;
mod iptables;
pub mod ipvs;
mod memory;
mod nftables;
mod objects;

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};

pub use causeway::{CausewayProgrammer, sizes};
pub use command::{GaveUp, is_installed, search_path};
pub use iptables::{IptablesProgrammer, Variant};
pub use ipvs::IpvsProgrammer;
pub use nftables::NftablesProgrammer;

use crate::{
    service::{Service, Transport},
    site::Site,
};

/// What a piece of work took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// By the clock on the wall.
    pub wall: Duration,
    /// Processor time of this process and those it started.
    pub cpu: Duration,
}

/// Packets and connections that a service has balanced so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Connections (or UDP flows) that were given a backend.
    pub connections: u64,
    /// Packets that were translated one by one, where that is counted.
    pub packets: u64,
    /// Frames that XDP sent on, of whatever service.
    pub early: u64,
}

/// A way of balancing on a node.
pub trait Programmer {
    /// Takes in what will be programmed, before the clock runs: the state that a running proxy has in its memory.
    fn prepare(&mut self, _services: &[Service]) {}

    /// Brings all services into the kernel, which has none.
    fn program(&mut self, site: &Site, services: &[Service]) -> Result<()>;

    /// Brings all services into the kernel of the node the backends are on, if that is another and needs to know of them.
    fn program_elsewhere(&mut self, _site: &Site) -> Result<()> {
        Ok(())
    }

    /// Brings a change of one service into the kernel. `services` is the new state.
    fn change(&mut self, site: &Site, services: &[Service], changed: usize) -> Result<()>;

    /// Takes a backend out of service, or back in, as a local probe's verdict does; false where there is no way that is
    /// shorter than a change of endpoints.
    fn flip(&mut self, _site: &Site, _backend: Ipv4Addr, _ready: bool) -> Result<bool> {
        Ok(false)
    }

    /// What went through a service.
    fn passed(&mut self, site: &Site, service: &Service, transport: Transport) -> Result<Passed>;

    /// Bytes of kernel memory that services take.
    fn memory(&self, site: &Site) -> Result<u64>;

    /// Forgets the flows of earlier rounds, so that each round begins alike.
    fn forget_flows(&mut self, site: &Site) -> Result<()>;
}

/// Nothing to balance with.
#[derive(Debug, Default)]
pub struct NoProgrammer;

impl Programmer for NoProgrammer {
    fn program(&mut self, _: &Site, _: &[Service]) -> Result<()> {
        Ok(())
    }

    fn change(&mut self, _: &Site, _: &[Service], _: usize) -> Result<()> {
        Ok(())
    }

    fn passed(&mut self, _: &Site, _: &Service, _: Transport) -> Result<Passed> {
        Ok(Passed::default())
    }

    fn memory(&self, _: &Site) -> Result<u64> {
        Ok(0)
    }

    fn forget_flows(&mut self, _: &Site) -> Result<()> {
        Ok(())
    }
}

/// Does something and tells what it took.
pub fn timed(work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (begun, cpu) = (Instant::now(), cpu_time()?);
    work()?;
    Ok(Cost {
        wall: begun.elapsed(),
        cpu: cpu_time()?.saturating_sub(cpu),
    })
}

fn cpu_time() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::new(
                time.tv_sec().unsigned_abs(),
                time.tv_usec().unsigned_abs() as u32 * 1_000,
            );
        }
    }
    Ok(sum)
}
