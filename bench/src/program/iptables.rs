//! kube-proxy's iptables rules in the node's namespace.

use anyhow::{Context as _, Result};

use super::{Passed, Programmer, command, conntrack, memory::Account};
use crate::{
    rules::iptables,
    service::{Service, Transport},
    site::Site,
};

/// Which `iptables`: names of the two programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Changes many rules at once.
    pub restore: &'static str,
    /// Lists rules.
    pub iptables: &'static str,
}

impl Variant {
    /// The one with the old kernel interface where it is installed, for it is the quicker; otherwise whatever there is.
    pub fn quickest() -> Self {
        if super::is_installed("iptables-legacy-restore") {
            Self {
                restore: "iptables-legacy-restore",
                iptables: "iptables-legacy",
            }
        } else {
            Self {
                restore: "iptables-restore",
                iptables: "iptables",
            }
        }
    }

    /// The one that translates to nftables.
    pub fn nft() -> Self {
        Self {
            restore: "iptables-nft-restore",
            iptables: "iptables-nft",
        }
    }
}

/// Writes rules with `iptables-restore`.
#[derive(Debug)]
pub struct IptablesProgrammer {
    variant: Variant,
    account: Result<Account>,
}

impl IptablesProgrammer {
    /// On a node without rules: makes the chains that kube-proxy makes when it starts.
    pub fn new(site: &Site, variant: Variant) -> Result<Self> {
        let programmer = Self {
            variant,
            account: Account::open(variant.iptables),
        };
        programmer.restore(site, iptables::jumps())?;
        Ok(programmer)
    }

    /// As kube-proxy calls it.
    fn restore(&self, site: &Site, input: &str) -> Result<()> {
        let words = [self.variant.restore, "-w", "5", "--noflush", "--counters"];
        command::run(&site.node, self.account.as_ref().ok(), &words, input).map(drop)
    }
}

impl Drop for IptablesProgrammer {
    fn drop(&mut self) {
        command::clean();
    }
}

impl Programmer for IptablesProgrammer {
    fn program(&mut self, site: &Site, services: &[Service]) -> Result<()> {
        self.restore(site, &iptables::full(services))
    }

    fn change(&mut self, site: &Site, services: &[Service], changed: usize) -> Result<()> {
        self.restore(site, &iptables::change(services, changed))
    }

    fn passed(&mut self, site: &Site, service: &Service, transport: Transport) -> Result<Passed> {
        let port = service.ports().find(|port| port.transport == transport);
        let chain = iptables::service_chain(&port.context("a service without such a port")?);
        let words = [
            self.variant.iptables,
            "-w",
            "5",
            "-t",
            "nat",
            "-n",
            "-v",
            "-x",
            "-L",
            &chain,
        ];
        let listing = command::run(&site.node, None, &words, "")?;
        Ok(Passed {
            connections: iptables::matched_packets(&listing),
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
