//! From services that may have changed to what the data path should hold of them. Pure.
//!
//! A name is a hint where to look, nothing more: what is there is read anew, and services that win or lose a frontend by it are
//! looked at as well. Looking at every name leads to the same as [`desired_services`](super::services::desired_services).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    vec,
};

use causeway_proto::v1::{Endpoints, Pod, Service};

use super::{
    host_ports::{self, taken_port},
    listings::listed,
    service_frontends::Class,
    service_health::{HealthCheck, health_check},
    services::{NodeView, candidates, depends_on_readiness, warn_of_loss},
    services_index::{Candidate, FrontendIndex, ServiceName},
};
use crate::{
    bpf::{DesiredService, Frontend, Readiness, ServicesOf},
    hash::{HashMap, HashSet},
};

/// What is behind a name.
#[derive(Clone, PartialEq, Debug)]
pub enum Seen {
    /// A service and its endpoints, as far as they are there.
    Service(Option<Arc<Service>>, Option<Arc<Endpoints>>),
    /// A pod of this node, perhaps with ports of the node.
    Pod(Option<Arc<Pod>>),
}

/// What there should be beside services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Planned {
    /// The pods of this node that a service listed as ready, before and now, where that has changed. To be told when the data path is
    /// in line.
    pub listed: Vec<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)>,
    /// Ports of the node that pods do not get: the name that such a port would have in the data path, and why.
    pub lost: Vec<(String, String)>,
}

/// What there should be of services, one after the other.
#[must_use = "services are only looked at as they are asked for"]
pub struct Planning<'p, K> {
    planner: &'p mut ServicePlanner,
    looked_at: vec::IntoIter<(ServiceName, Seen)>,
    known: K,
    planned: Planned,
}

impl<K: Fn(IpAddr, Readiness) -> Readiness> Iterator for Planning<'_, K> {
    type Item = ServicesOf;

    fn next(&mut self) -> Option<ServicesOf> {
        let (name, seen) = self.looked_at.next()?;
        let Self { planner, planned, .. } = self;
        let candidates = planner.candidates(&seen, &self.known);
        planner.follow(&name, &seen, &candidates);
        planner.check(&name, &seen);
        planned.listed.extend(planner.list(&name, &seen));
        let lost = |service: &DesiredService, class: Class, frontend: &Frontend| {
            if class == Class::HostPort {
                planned.lost.push((service.name.clone(), taken_port(&frontend.vip)));
            } else {
                warn_of_loss(service, class, frontend);
            }
        };
        let services = planner.index.resolve(&name, candidates, lost);
        let owner = format!("{}/{}", name.0, name.1);
        Some(ServicesOf { owner, services })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.looked_at.size_hint()
    }
}

impl<K> Planning<'_, K> {
    /// What there should be beside the services so far.
    pub fn finish(self) -> Planned {
        self.planned
    }
}

/// What is known of all services.
#[derive(Debug, Default)]
pub struct ServicePlanner {
    view: NodeView,
    index: FrontendIndex,
    /// Services of which the readiness of a pod of this node decides which backends are chosen.
    followers: HashMap<IpAddr, BTreeSet<ServiceName>>,
    followed: HashMap<ServiceName, BTreeSet<IpAddr>>,
    listed: HashMap<ServiceName, BTreeSet<IpAddr>>,
    checks: BTreeMap<ServiceName, (u16, HealthCheck)>,
    checks_changed: bool,
}

impl ServicePlanner {
    /// Sets the node for which the data path is made; true when that makes a difference, and every service is to be looked at.
    pub fn set_view(&mut self, view: NodeView) -> bool {
        let differs = self.view != view;
        self.view = view;
        differs
    }

    /// What there should be of these services, each named once, and then of those that win or lose a frontend by them: one after the
    /// other, so that very many need not be in memory together. `look` reads one, `known` says what this node itself knows of one of
    /// its pods.
    pub fn plan<K: Fn(IpAddr, Readiness) -> Readiness>(
        &mut self,
        names: impl IntoIterator<Item = ServiceName>,
        look: impl Fn(&ServiceName) -> Seen,
        known: K,
    ) -> Planning<'_, K> {
        let names = names.into_iter();
        let many = names.size_hint().0;
        self.index.reserve(many);
        let mut looked_at: Vec<(ServiceName, Seen)> = Vec::with_capacity(many);
        let mut others = BTreeSet::new();
        for name in names {
            let seen = look(&name);
            // Frontends do not depend on endpoints.
            let candidates = match &seen {
                Seen::Service(Some(service), _) => candidates(service, None, &self.view, &known),
                other => self.candidates(other, &known),
            };
            self.index.update(&name, &candidates, &mut others);
            looked_at.push((name, seen));
        }
        if !others.is_empty() {
            let known: HashSet<&ServiceName> = looked_at.iter().map(|(name, _)| name).collect();
            others.retain(|name| !known.contains(name));
        }
        for name in others {
            let seen = look(&name);
            looked_at.push((name, seen));
        }
        Planning {
            planner: self,
            looked_at: looked_at.into_iter(),
            known,
            planned: Planned::default(),
        }
    }

    /// The services whose backends the readiness of these pods decides.
    pub fn followers(&self, pods: impl IntoIterator<Item = IpAddr>) -> BTreeSet<ServiceName> {
        let followers = pods.into_iter().filter_map(|pod| self.followers.get(&pod));
        followers.flatten().cloned().collect()
    }

    /// Every service that claims a frontend.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.index.services()
    }

    /// The health-check ports, if they have changed since the last call.
    pub fn changed_checks(&mut self) -> Option<BTreeMap<u16, HealthCheck>> {
        std::mem::take(&mut self.checks_changed).then(|| self.checks())
    }

    /// The health-check ports.
    pub fn checks(&self) -> BTreeMap<u16, HealthCheck> {
        self.checks.values().cloned().collect()
    }

    fn candidates(&self, seen: &Seen, known: &impl Fn(IpAddr, Readiness) -> Readiness) -> Vec<Candidate> {
        match seen {
            Seen::Service(Some(service), endpoints) => candidates(service, endpoints.as_deref(), &self.view, known),
            Seen::Pod(Some(pod)) => host_ports::candidates(pod, &self.view.addresses),
            Seen::Service(None, _) | Seen::Pod(None) => Vec::new(),
        }
    }

    fn follow(&mut self, name: &ServiceName, seen: &Seen, candidates: &[Candidate]) {
        let follows = matches!(seen, Seen::Service(Some(service), _) if depends_on_readiness(service));
        let backends = candidates.iter().flat_map(|(service, _)| &service.backends);
        let local = backends.filter(|backend| follows && backend.local);
        let pods: BTreeSet<IpAddr> = local.map(|backend| backend.id.address).collect();
        if pods.is_empty() && self.followed.is_empty() {
            return;
        }
        let before = if pods.is_empty() {
            self.followed.remove(name)
        } else {
            self.followed.insert(name.clone(), pods.clone())
        };
        for gone in before.iter().flatten().filter(|pod| !pods.contains(*pod)) {
            if let Some(followers) = self.followers.get_mut(gone) {
                followers.remove(name);
                if followers.is_empty() {
                    self.followers.remove(gone);
                }
            }
        }
        for pod in pods {
            self.followers.entry(pod).or_default().insert(name.clone());
        }
    }

    fn list(&mut self, name: &ServiceName, seen: &Seen) -> Option<(BTreeSet<IpAddr>, BTreeSet<IpAddr>)> {
        let after = match seen {
            Seen::Service(Some(_), Some(endpoints)) => listed(endpoints, self.view.topology.node()),
            _ => BTreeSet::new(),
        };
        let before = if after.is_empty() {
            self.listed.remove(name)
        } else {
            self.listed.insert(name.clone(), after.clone())
        };
        let before = before.unwrap_or_default();
        (before != after).then_some((before, after))
    }

    fn check(&mut self, name: &ServiceName, seen: &Seen) {
        let node = self.view.topology.node();
        let check = match seen {
            Seen::Service(Some(service), endpoints) => health_check(service, endpoints.as_deref(), node),
            _ => None,
        };
        let differs = self.checks.get(name) != check.as_ref();
        self.checks_changed |= differs;
        match check {
            Some(check) if differs => drop(self.checks.insert(name.clone(), check)),
            Some(_) => {}
            None => drop(self.checks.remove(name)),
        }
    }
}

#[cfg(test)]
#[path = "services_planner_tests.rs"]
mod tests;
