//! kube-proxy's nftables rules in the node's namespace.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use super::{Passed, Programmer, command, conntrack, memory::Account};
use crate::{
    rules::nftables,
    service::{Service, Transport},
    site::{NODE_ADDRESS, Site},
};

/// Writes rules with `nft`.
#[derive(Debug)]
pub struct NftablesProgrammer {
    account: Result<Account>,
    /// What counters have counted before they were last read.
    counted: HashMap<String, u64>,
}

impl NftablesProgrammer {
    /// On a node without rules: makes the table that kube-proxy makes when it starts.
    pub fn new(site: &Site) -> Result<Self> {
        let programmer = Self {
            account: Account::open("nftables"),
            counted: HashMap::new(),
        };
        programmer.load(site, &nftables::base(NODE_ADDRESS))?;
        Ok(programmer)
    }

    fn load(&self, site: &Site, input: &str) -> Result<()> {
        command::run(&site.node, self.account.as_ref().ok(), &["nft", "-f", "-"], input).map(drop)
    }
}

impl Programmer for NftablesProgrammer {
    fn program(&mut self, site: &Site, services: &[Service]) -> Result<()> {
        self.load(site, &nftables::full(services))
    }

    fn change(&mut self, site: &Site, services: &[Service], changed: usize) -> Result<()> {
        self.load(site, &nftables::change(&services[changed]))
    }

    fn passed(&mut self, site: &Site, service: &Service, transport: Transport) -> Result<Passed> {
        let port = service.ports().find(|port| port.transport == transport);
        let counter = nftables::counter(&port.context("a service without such a port")?);
        // To list anything, nft first fetches everything, which takes seconds; to reset, it does not.
        let words = ["nft", "reset", "counter", "ip", "kube-proxy", &counter];
        let shown = command::run(&site.node, None, &words, "")?;
        let more = nftables::counted_packets(&shown).with_context(|| format!("nft shows {shown:?}"))?;
        let sum = self.counted.entry(counter).or_default();
        *sum += more;
        Ok(Passed {
            connections: *sum,
            ..Passed::default()
        })
    }

    fn memory(&self, _: &Site) -> Result<u64> {
        match &self.account {
            Ok(account) => account.bytes(),
            Err(error) => anyhow::bail!("{error:#}"),
        }
    }

    fn forget_flows(&mut self, site: &Site) -> Result<()> {
        conntrack::flush(&site.node)
    }
}
