//! Which service has which frontend, when several claim one. Pure.
//!
//! Kept up by service, so that a change of one service costs no look at the others. The result does not depend on the order of
//! changes: it is the same as if all services were looked at anew.

use std::{collections::BTreeSet, sync::Arc};

use super::service_frontends::Class;
use crate::{
    bpf::{DesiredService, Frontend, Scope, VipId},
    hash::{HashMap, HashSet},
};

/// Namespace and name of a service.
pub type ServiceName = (String, String);

/// A port of a service in one family, and every frontend that it claims.
pub type Candidate = (DesiredService, Vec<(Class, Frontend)>);

/// The claims of all services.
#[derive(Debug, Default)]
pub struct FrontendIndex {
    /// Who claims a frontend: the one that has it first.
    claims: HashMap<(VipId, Scope), Vec<Claim>>,
    /// What each service claims.
    by_service: HashMap<Arc<ServiceName>, Vec<(VipId, Scope)>>,
}

/// Ordered by precedence: what comes first in [`Class::ALL`], then the first service by name, then its first port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claim {
    class: Class,
    service: Arc<ServiceName>,
    candidate: usize,
}

impl FrontendIndex {
    /// Makes room for so many services, each with a frontend.
    pub fn reserve(&mut self, services: usize) {
        self.claims.reserve(services.saturating_sub(self.claims.len()));
        self.by_service.reserve(services.saturating_sub(self.by_service.len()));
    }

    /// Notes how a service is now; without candidates it is gone. Adds to `others` which services, this one apart, have won or lost a
    /// frontend by that.
    pub fn update(&mut self, name: &ServiceName, candidates: &[Candidate], others: &mut BTreeSet<ServiceName>) {
        let (known, before) = match self.by_service.remove_entry(name) {
            Some((known, before)) => (known, before),
            None => (Arc::new(name.clone()), Vec::new()),
        };
        let mut wanted = Vec::with_capacity(candidates.iter().map(|(_, frontends)| frontends.len()).sum());
        for (candidate, (_, frontends)) in candidates.iter().enumerate() {
            wanted.extend(frontends.iter().map(|(class, frontend)| {
                let service = Arc::clone(&known);
                let claim = Claim {
                    class: *class,
                    service,
                    candidate,
                };
                ((frontend.vip, frontend.scope), claim)
            }));
        }
        wanted.sort_unstable();
        let mut mine: Vec<_> = wanted.iter().map(|(key, _)| *key).collect();
        mine.dedup();
        for key in before.iter().filter(|key| mine.binary_search(key).is_err()) {
            self.replace(*key, name, &[], others);
        }
        for claims in wanted.chunk_by(|(one, _), (other, _)| one == other) {
            self.replace(claims[0].0, name, claims, others);
        }
        if !mine.is_empty() {
            self.by_service.insert(known, mine);
        }
    }

    /// Replaces a service's claims of one frontend; adds the other services between which it changed hands.
    fn replace(
        &mut self,
        key: (VipId, Scope),
        name: &ServiceName,
        new: &[((VipId, Scope), Claim)],
        others: &mut BTreeSet<ServiceName>,
    ) {
        let claims = self.claims.entry(key).or_insert_with(|| Vec::with_capacity(new.len()));
        let before = claims.first().cloned();
        claims.retain(|claim| *claim.service != *name);
        claims.extend(new.iter().map(|(_, claim)| claim.clone()));
        claims.sort_unstable();
        let after = claims.first();
        if before.as_ref() != after {
            let services = before.iter().chain(after).map(|claim| &*claim.service);
            others.extend(services.filter(|service| *service != name).cloned());
        }
        if claims.is_empty() {
            self.claims.remove(&key);
        }
    }

    /// A service's ports with the frontends that are theirs; ports without any are left out. `lost` takes those that are others'.
    pub fn resolve(
        &self,
        name: &ServiceName,
        candidates: Vec<Candidate>,
        mut lost: impl FnMut(&DesiredService, Class, &Frontend),
    ) -> Vec<DesiredService> {
        let mut resolved = Vec::with_capacity(candidates.len());
        let mut taken = HashSet::default();
        for (number, (mut service, mut frontends)) in candidates.into_iter().enumerate() {
            frontends.sort_by_key(|(class, _)| *class);
            service.frontends.reserve_exact(frontends.len());
            for (class, frontend) in frontends {
                let key = (frontend.vip, frontend.scope);
                let claim = self.claims.get(&key).and_then(|claims| claims.first());
                let own = claim
                    .is_some_and(|claim| claim.class == class && claim.candidate == number && *claim.service == *name);
                // One port can claim a frontend twice, as load-balancer and as external address.
                if own && taken.insert(key) {
                    service.frontends.push(frontend);
                } else if !own {
                    lost(&service, class, &frontend);
                }
            }
            if !service.frontends.is_empty() {
                resolved.push(service);
            }
        }
        resolved
    }

    /// Every service that claims anything.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_service.keys().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use causeway_maps::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn vip(port: u16) -> VipId {
        VipId {
            address: "10.96.0.1".parse().unwrap(),
            port,
            protocol: Protocol::TCP,
        }
    }

    fn name(number: u8) -> ServiceName {
        ("default".into(), format!("s{number}"))
    }

    fn candidates(number: u8, claims: &[(u16, usize)]) -> Vec<Candidate> {
        let service = DesiredService {
            frontends: Vec::new(),
            ..DesiredService::cluster_ip(vip(1), format!("default/s{number}:80"), Vec::new())
        };
        let frontends = claims
            .iter()
            .map(|(port, class)| (Class::ALL[*class], Frontend::cluster(vip(*port))));
        vec![(service, frontends.collect())]
    }

    fn update(index: &mut FrontendIndex, number: u8, candidates: &[Candidate]) -> BTreeSet<ServiceName> {
        let mut others = BTreeSet::new();
        index.update(&name(number), candidates, &mut others);
        others
    }

    fn resolve(index: &FrontendIndex, number: u8, candidates: &[Candidate]) -> Vec<DesiredService> {
        index.resolve(&name(number), candidates.to_vec(), |_, _, _| {})
    }

    #[test]
    fn what_one_gives_up_goes_to_the_next() {
        let mut index = FrontendIndex::default();
        let external = candidates(1, &[(80, 3)]);
        let cluster = candidates(2, &[(80, 0)]);
        assert!(update(&mut index, 1, &external).is_empty());
        assert_eq!(resolve(&index, 1, &external).len(), 1);
        assert_eq!(
            update(&mut index, 2, &cluster),
            BTreeSet::from([name(1)]),
            "it has lost one"
        );
        assert!(resolve(&index, 1, &external).is_empty());
        assert_eq!(resolve(&index, 2, &cluster).len(), 1);
        assert_eq!(
            update(&mut index, 2, &[]),
            BTreeSet::from([name(1)]),
            "and has it again"
        );
        assert_eq!(resolve(&index, 1, &external).len(), 1);
        assert_eq!(index.services().collect::<Vec<_>>(), [&name(1)]);
    }

    proptest! {
        /// However services come, go and change, and whoever is told of it, in the end each has what it has when all are looked at anew.
        #[test]
        fn the_order_of_changes_does_not_matter(
            changes in proptest::collection::vec(
                (0_u8..5, proptest::collection::vec((80_u16..86, 0_usize..4), 0..4)),
                1..40,
            ),
        ) {
            let mut index = FrontendIndex::default();
            let mut now: BTreeMap<u8, Vec<Candidate>> = BTreeMap::new();
            let mut resolved: BTreeMap<ServiceName, Vec<DesiredService>> = BTreeMap::new();
            for (number, claims) in changes {
                let mine = if claims.is_empty() { Vec::new() } else { candidates(number, &claims) };
                now.insert(number, mine.clone());
                let others = update(&mut index, number, &mine);
                for other in others.into_iter().chain([name(number)]) {
                    let number = other.1[1..].parse().unwrap();
                    resolved.insert(other.clone(), resolve(&index, number, &now[&number]));
                }
            }
            let mut fresh = FrontendIndex::default();
            for (number, candidates) in &now {
                update(&mut fresh, *number, candidates);
            }
            for (number, candidates) in &now {
                let expected = resolve(&fresh, *number, candidates);
                prop_assert_eq!(&resolved[&name(*number)], &expected);
            }
        }
    }
}
