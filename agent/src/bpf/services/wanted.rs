//! A desired service in the terms of the maps.

use causeway_abi::service::{SCOPE_CLUSTER, SCOPE_NODE, SERVICE_SOURCE_RANGES, ServiceKey};
use causeway_maps::{AddressExt as _, Protocol};

use super::backends::Held;
use crate::bpf::desired::{BackendId, DesiredService, Frontend, Scope, SourceRange, VipId};

/// A frontend and its key.
type Keyed<'a> = (ServiceKey, &'a Frontend);

/// Frontends of one service that choose among the same backends. They share a table, an id and so the counters.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub desired: &'a DesiredService,
    /// Not empty.
    pub frontends: Vec<Keyed<'a>>,
    /// Backends that are kept for its flows; sorted.
    pub members: Vec<BackendId>,
    /// Those of them that its table points to; sorted.
    pub choice: Vec<BackendId>,
    /// Clients that are let in where a frontend asks for that.
    pub source_ranges: &'a [SourceRange],
}

impl<'a> Wanted<'a> {
    /// A service's frontends in as few groups as possible. Source ranges are kept by id, so frontends with different ones need
    /// different ids.
    pub fn of(desired: &'a DesiredService) -> impl Iterator<Item = Self> {
        let mut groups: Vec<(bool, &[SourceRange], Vec<Keyed<'_>>)> = Vec::new();
        for frontend in &desired.frontends {
            let ranges = frontend.source_ranges.as_slice();
            let entry = (frontend_key(frontend), frontend);
            let suits = |(local_only, others, _): &&mut (bool, &[SourceRange], _)| {
                *local_only == frontend.local_only && (ranges.is_empty() || others.is_empty() || *others == ranges)
            };
            match groups.iter_mut().find(suits) {
                Some((_, others, frontends)) => {
                    if others.is_empty() {
                        *others = ranges;
                    }
                    frontends.push(entry);
                }
                None => groups.push((frontend.local_only, ranges, vec![entry])),
            }
        }
        let group =
            move |(local_only, source_ranges, frontends)| Self::new(desired, local_only, source_ranges, frontends);
        groups.into_iter().map(group)
    }

    fn new(
        desired: &'a DesiredService,
        local_only: bool,
        source_ranges: &'a [SourceRange],
        frontends: Vec<Keyed<'a>>,
    ) -> Self {
        let most = desired.backends.len();
        let choice = sorted(most, desired.choice(local_only).map(|backend| backend.id));
        let members = if local_only {
            choice.clone()
        } else {
            sorted(most, desired.backends.iter().map(|backend| backend.id))
        };
        Self {
            desired,
            frontends,
            members,
            choice,
            source_ranges,
        }
    }

    /// The address of the first of its frontends.
    pub fn vip(&self) -> VipId {
        self.frontends[0].1.vip
    }

    /// The keys of its frontends.
    pub fn keys(&self) -> impl Iterator<Item = ServiceKey> + '_ {
        self.frontends.iter().map(|(key, _)| *key)
    }

    /// Where the choice is held, of where the members are.
    pub fn held_by_choice(&self, held: &[Held]) -> Vec<Held> {
        if self.choice.len() == self.members.len() {
            return held.to_vec();
        }
        let index = |id| self.members.binary_search(id).ok();
        let choice = self.choice.iter();
        choice.filter_map(|id| held.get(index(id)?).copied()).collect()
    }
}

/// `SERVICE_*` bits of a frontend.
pub(super) fn frontend_flags(frontend: &Frontend) -> u32 {
    if frontend.source_ranges.is_empty() {
        0
    } else {
        SERVICE_SOURCE_RANGES
    }
}

fn sorted(most: usize, of: impl Iterator<Item = BackendId>) -> Vec<BackendId> {
    let mut ids = Vec::with_capacity(most);
    ids.extend(of);
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn frontend_key(frontend: &Frontend) -> ServiceKey {
    service_key(&frontend.vip, frontend.scope)
}

/// The map's key of an address as seen from one side.
pub(super) fn service_key(vip: &VipId, scope: Scope) -> ServiceKey {
    ServiceKey {
        address: causeway_abi::Address::from_ip(vip.address),
        port_be: vip.port.to_be(),
        protocol: vip.protocol.0,
        scope: match scope {
            Scope::Cluster => SCOPE_CLUSTER,
            Scope::External => SCOPE_NODE,
        },
    }
}

/// The address in a key of the map.
pub(super) fn vip(key: &ServiceKey) -> VipId {
    VipId {
        address: key.address.to_ip(),
        port: u16::from_be(key.port_be),
        protocol: Protocol(key.protocol),
    }
}
