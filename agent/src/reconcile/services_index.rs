//! Which service has which frontend, when several claim one. Pure.
//!
//! Kept up by service, so that a change of one service costs no look at the others. The result does not depend on the order of
//! changes: it is the same as if all services were looked at anew.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::service_frontends::Class;
use crate::bpf::{DesiredService, Frontend, Scope, VipId};

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
    /// Notes how a service is now; without candidates it is gone. Answers which services, this one apart, have won or lost a
    /// frontend by that.
    pub fn update(&mut self, name: &ServiceName, candidates: &[Candidate]) -> BTreeSet<ServiceName> {
        let (known, before) = match self.by_service.remove_entry(name) {
            Some((known, before)) => (known, before),
            None => (Arc::new(name.clone()), Vec::new()),
        };
        let mut others = BTreeSet::new();
        let mut wanted: HashMap<(VipId, Scope), Vec<Claim>> = HashMap::new();
        let mut mine = Vec::new();
        for (candidate, (_, frontends)) in candidates.iter().enumerate() {
            for (class, frontend) in frontends {
                let key = (frontend.vip, frontend.scope);
                let claims = wanted.entry(key).or_default();
                if claims.is_empty() {
                    mine.push(key);
                }
                claims.push(Claim {
                    class: *class,
                    service: Arc::clone(&known),
                    candidate,
                });
            }
        }
        for key in before.iter().filter(|key| !wanted.contains_key(key)) {
            others.extend(self.replace(*key, name, Vec::new()));
        }
        for (key, claims) in wanted {
            others.extend(self.replace(key, name, claims));
        }
        if !mine.is_empty() {
            self.by_service.insert(known, mine);
        }
        others
    }

    /// Replaces a service's claims of one frontend; answers the other services between which it changed hands.
    fn replace(
        &mut self,
        key: (VipId, Scope),
        name: &ServiceName,
        new: Vec<Claim>,
    ) -> impl Iterator<Item = ServiceName> {
        let claims = self.claims.entry(key).or_default();
        let before = claims.first().cloned();
        claims.retain(|claim| *claim.service != *name);
        claims.extend(new);
        claims.sort_unstable();
        let after = claims.first().cloned();
        if after.is_none() {
            self.claims.remove(&key);
        }
        let changed = before != after;
        let services = [before, after].into_iter().flatten().map(|claim| claim.service);
        let others = services
            .filter(move |_| changed)
            .map(|service| ServiceName::clone(&service));
        let name = name.clone();
        others.filter(move |service| *service != name)
    }

    /// A service's ports with the frontends that are theirs; ports without any are left out. `lost` takes those that are others'.
    pub fn resolve(
        &self,
        name: &ServiceName,
        candidates: Vec<Candidate>,
        mut lost: impl FnMut(&DesiredService, Class, &Frontend),
    ) -> Vec<DesiredService> {
        let mut resolved = Vec::with_capacity(candidates.len());
        let mut taken = HashSet::new();
        for (number, (mut service, mut frontends)) in candidates.into_iter().enumerate() {
            frontends.sort_by_key(|(class, _)| *class);
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

    fn resolve(index: &FrontendIndex, number: u8, candidates: &[Candidate]) -> Vec<DesiredService> {
        index.resolve(&name(number), candidates.to_vec(), |_, _, _| {})
    }

    #[test]
    fn what_one_gives_up_goes_to_the_next() {
        let mut index = FrontendIndex::default();
        let external = candidates(1, &[(80, 3)]);
        let cluster = candidates(2, &[(80, 0)]);
        assert!(index.update(&name(1), &external).is_empty());
        assert_eq!(resolve(&index, 1, &external).len(), 1);
        assert_eq!(
            index.update(&name(2), &cluster),
            BTreeSet::from([name(1)]),
            "it has lost one"
        );
        assert!(resolve(&index, 1, &external).is_empty());
        assert_eq!(resolve(&index, 2, &cluster).len(), 1);
        assert_eq!(
            index.update(&name(2), &[]),
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
                let others = index.update(&name(number), &mine);
                for other in others.into_iter().chain([name(number)]) {
                    let number = other.1[1..].parse().unwrap();
                    resolved.insert(other.clone(), resolve(&index, number, &now[&number]));
                }
            }
            let mut fresh = FrontendIndex::default();
            for (number, candidates) in &now {
                fresh.update(&name(*number), candidates);
            }
            for (number, candidates) in &now {
                let expected = resolve(&fresh, *number, candidates);
                prop_assert_eq!(&resolved[&name(*number)], &expected);
            }
        }
    }
}
