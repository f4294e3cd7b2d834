//! A node to measure on.

use anyhow::{Context as _, Result};
use causeway_abi::counter::DropCounters;

use crate::{
    mode::{Backends, Position, SiteKind},
    program::Passed,
    report::thousands,
    run::Rig,
    service::Transport,
    site::{Causeway, Site},
    testrun::{Feeder, Kind},
};

/// A node with Causeway, and the service on it that is measured: the last of all.
pub(super) struct Bed {
    pub(super) rig: Rig,
    /// How many services it has.
    pub(super) services: usize,
}

impl Bed {
    /// With nothing programmed yet.
    pub(super) fn build(services: usize) -> Result<Self> {
        Ok(Self {
            rig: Rig::build(SiteKind::Causeway, Backends::Local, services, &[Position::Last])?,
            services,
        })
    }

    /// Another one with the same services, programmed.
    pub(super) fn twin(&self) -> Result<Self> {
        let mut twin = Self::build(self.services)?;
        twin.rig.program()?;
        Ok(twin)
    }

    /// With the client outside the cluster and the backends on another node.
    pub(super) fn outside(kind: SiteKind, services: usize) -> Result<Self> {
        Ok(Self {
            rig: Rig::build(kind, Backends::Remote, services, &[Position::Last])?,
            services,
        })
    }

    /// Index of the measured service.
    pub(super) fn service(&self) -> usize {
        self.services - 1
    }

    /// "one service" or "100,000 services".
    pub(super) fn title(&self) -> String {
        match self.services {
            1 => "one service".to_owned(),
            number => format!("{} services", thousands(number)),
        }
    }

    /// Part of names: `100000_services`.
    pub(super) fn name(&self) -> String {
        format!("{}_services", self.services)
    }

    pub(super) fn causeway(&self) -> Result<&Causeway> {
        causeway(&self.rig.site)
    }

    /// What went through the measured service since the last call.
    pub(super) fn passed(&mut self, transport: Transport) -> Result<Passed> {
        let service = self.service();
        self.rig.passed_since(service, transport)
    }

    /// All drops so far.
    pub(super) fn drops(&self) -> Result<u64> {
        let drops = self.causeway()?.datapath.drops()?;
        Ok(drops.iter().map(|(_, DropCounters { packets, .. })| packets).sum())
    }

    /// A feeder for one of the node's programs.
    pub(super) fn feeder(&self, kind: Kind, program: &str, frames: usize) -> Result<Feeder> {
        let id = self.causeway()?.program(program)?;
        Feeder::new(kind, id, frames).with_context(|| format!("cannot measure {program}"))
    }
}

fn causeway(site: &Site) -> Result<&Causeway> {
    site.causeway.as_ref().context("a node without Causeway")
}
