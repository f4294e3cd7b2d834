//! Addresses and node ports of a service: claimed in the transaction that writes them, released in the one that takes them away.

use std::collections::BTreeSet;

use causeway_proto::{
    Kind, Resource,
    v1::{LoadBalancerIngress, Object, Preconditions, Service, ServiceSpec},
};
use tonic_types::FieldViolation;

use super::{
    ApiError, Registry,
    allocation::{Allocation, Protocol},
    pools::{AddressPool, Pools},
    write::{Decision, invalid},
};
use crate::{
    admission::{
        service::{HEADLESS, has_node_ports, needs_health_check},
        wants_node_ports,
    },
    cidr::Family,
    store::Transaction,
};

/// How often a load-balancer address that others have taken is followed by the next.
const ATTEMPTS: usize = 64;

/// What a write changes in what a service has. What was proposed for it and is not kept goes back when this is dropped.
pub(super) struct Claims<'a> {
    pools: &'a Pools,
    added: BTreeSet<Allocation>,
    removed: BTreeSet<Allocation>,
    proposed: BTreeSet<Allocation>,
    holder: String,
}

impl Claims<'_> {
    /// Adds to a transaction that what is new is free and belongs to the service, and that what it has no more is free.
    pub(super) fn add_to(&self, mut transaction: Transaction) -> Transaction {
        for claim in &self.added {
            transaction = transaction
                .when(claim.key(), 0)
                .put(claim.key(), self.holder.clone().into_bytes());
        }
        for claim in &self.removed {
            transaction = transaction.delete(claim.key());
        }
        transaction
    }

    /// The transaction was committed.
    pub(super) fn committed(mut self) {
        self.proposed.clear();
        self.added.iter().for_each(|claim| self.pools.mark(*claim));
        self.removed.iter().for_each(|claim| self.pools.release(*claim));
    }

    /// Whether the transaction was committed is not known: what was proposed stays marked until the next reload.
    pub(super) fn in_doubt(mut self) {
        self.proposed.clear();
    }

    /// What was asked for, as opposed to proposed.
    fn asked(&self) -> impl Iterator<Item = Allocation> {
        self.added.difference(&self.proposed).copied()
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.proposed.iter().for_each(|claim| self.pools.release(*claim));
    }
}

impl Registry {
    /// Gives a new or changed service what it needs and does not have, written into it; nothing for other kinds.
    pub(super) async fn claims(&self, new: &mut Object, old: Option<&Object>) -> Result<Claims<'_>, ApiError> {
        let had = old.map(Allocation::of_object).unwrap_or_default();
        let holder = format!("{} {}", new.meta().map_or("", |meta| &meta.uid), new.key());
        let mut claims = Claims {
            pools: self.pools(),
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
            proposed: BTreeSet::new(),
            holder,
        };
        let Some(service) = Service::from_object_mut(new) else {
            return Ok(claims);
        };
        if let Some(spec) = &mut service.spec {
            let before = spec.clone();
            if let Err(ApiError::RangeExhausted { .. }) = fill(spec, &mut claims) {
                // Other control replicas may have released some, or a write that failed here was not done after all.
                claims.proposed.clear();
                *spec = before;
                self.pools().reload(self.store()).await?;
                fill(spec, &mut claims)?;
            }
        }
        let has = Allocation::of(service);
        claims.added = &has - &had;
        claims.removed = &had - &has;
        Ok(claims)
    }

    /// After the store said that a key of a transaction was not as expected. Fails if something that was asked for is taken, with all
    /// that are; else it can be tried again, with other proposals.
    pub(super) async fn after_conflict(
        &self,
        mut claims: Claims<'_>,
        taken: Allocation,
        object: &Object,
    ) -> Result<(), ApiError> {
        self.pools().mark(taken);
        if claims.proposed.remove(&taken) {
            return Ok(());
        }
        let fields = Service::from_object_ref(object)
            .map(Allocation::fields)
            .unwrap_or_default();
        let mut violations = Vec::new();
        for claim in claims.asked() {
            let Some(found) = self.store().get(&claim.key()).await? else {
                continue;
            };
            self.pools().mark(claim);
            let text = String::from_utf8_lossy(&found.value);
            let owner = text.split_once(' ').map_or("of another name", |(_, key)| key);
            let field = fields
                .iter()
                .find(|(of, _)| *of == claim)
                .map_or("spec", |(_, field)| field);
            let (value, rule) = (value_of(claim), claim.taken(owner));
            violations.push(FieldViolation::new(field, format!("Invalid value: {value}: {rule}")));
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(invalid(Kind::Service, object, violations))
        }
    }

    /// Takes an object out of the store together with all that it has.
    pub(super) fn release_all(&self, object: &Object) -> Claims<'_> {
        Claims {
            pools: self.pools(),
            added: BTreeSet::new(),
            removed: Allocation::of_object(object),
            proposed: BTreeSet::new(),
            holder: String::new(),
        }
    }

    /// Gives a service of type `LoadBalancer` its addresses, one of each of its families for which there is a range, or takes them
    /// from one that is of another type. [`ApiError::RangeExhausted`] when there are none left. The object as it is then.
    pub async fn balance(&self, namespace: &str, name: &str, uid: &str) -> Result<Object, ApiError> {
        let wanted = Preconditions {
            uid: uid.to_owned(),
            resource_version: String::new(),
        };
        let mut attempt = 0;
        loop {
            let mut proposed = Vec::new();
            let result = self
                .mutate(Kind::Service, namespace, name, &wanted, false, |old| {
                    self.balance_once(old, &mut proposed)
                })
                .await;
            let kept = result.as_ref().map(Allocation::of_object).unwrap_or_default();
            match &result {
                // Whether it was written is not known.
                Err(ApiError::Store(_)) => {}
                // One of them is taken, which is remembered by now.
                Err(ApiError::Invalid { .. }) if !proposed.is_empty() && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                _ => {
                    let unused = proposed.iter().filter(|claim| !kept.contains(claim));
                    unused.for_each(|claim| self.pools().release(*claim));
                }
            }
            return result;
        }
    }

    fn balance_once(&self, old: &Object, proposed: &mut Vec<Allocation>) -> Result<Decision, ApiError> {
        let mut new = old.clone();
        let Some(service) = Service::from_object_mut(&mut new) else {
            return Ok(Decision::Keep);
        };
        let spec = service.spec.clone().unwrap_or_default();
        let status = service.status.get_or_insert_default();
        if spec.r#type != "LoadBalancer" || old.meta().is_some_and(causeway_proto::v1::ObjectMeta::is_terminating) {
            status.load_balancer = None;
        } else {
            let balancer = status.load_balancer.get_or_insert_default();
            let had: Vec<Family> = balancer
                .ingress
                .iter()
                .filter_map(|ingress| ingress.ip.parse().ok().map(Family::of))
                .collect();
            let families = spec.ip_families.iter().filter_map(|name| Family::from_name(name));
            for family in families.filter(|family| !had.contains(family)) {
                let mut pools = self
                    .pools()
                    .load_balancers()
                    .iter()
                    .filter(|pool| pool.range().family() == family)
                    .peekable();
                let Some(first) = pools.peek().map(|pool| exhausted("load-balancer range", pool)) else {
                    continue;
                };
                let address = pools.find_map(AddressPool::propose_lowest).ok_or(first)?;
                proposed.push(Allocation::LoadBalancer(address));
                balancer.ingress.push(LoadBalancerIngress {
                    ip: address.to_string(),
                });
            }
            if balancer.ingress.is_empty() {
                status.load_balancer = None;
            }
        }
        if service.status == Some(causeway_proto::v1::ServiceStatus::default()) {
            service.status = None;
        }
        Ok(Decision::put(new))
    }
}

fn value_of(claim: Allocation) -> String {
    match claim {
        Allocation::Vip(address) | Allocation::LoadBalancer(address) => format!("\"{address}\""),
        Allocation::NodePort(_, port) => port.to_string(),
    }
}

fn exhausted(what: &str, pool: &AddressPool) -> ApiError {
    ApiError::RangeExhausted {
        range: format!("{what} {}", pool.range()),
        size: pool.usable(),
        unit: "addresses",
    }
}

/// Proposes what is missing.
fn fill(spec: &mut ServiceSpec, claims: &mut Claims<'_>) -> Result<(), ApiError> {
    fill_vips(spec, claims)?;
    if wants_node_ports(spec) {
        fill_node_ports(spec, claims)?;
    }
    if has_node_ports(spec) && needs_health_check(spec) && spec.health_check_node_port == 0 {
        spec.health_check_node_port = propose_port(Protocol::Tcp, claims)?.into();
    }
    Ok(())
}

fn fill_vips(spec: &mut ServiceSpec, claims: &mut Claims<'_>) -> Result<(), ApiError> {
    if spec.cluster_ip == HEADLESS {
        return Ok(());
    }
    for name in spec.ip_families.iter().skip(spec.cluster_ips.len()) {
        // Admission has made sure that there is a range for each family.
        let Some(pool) = Family::from_name(name).and_then(|family| claims.pools.vips(family)) else {
            continue;
        };
        let address = pool.propose().ok_or_else(|| exhausted("service range", pool))?;
        claims.proposed.insert(Allocation::Vip(address));
        spec.cluster_ips.push(address.to_string());
    }
    if let (true, Some(first)) = (spec.cluster_ip.is_empty(), spec.cluster_ips.first()) {
        spec.cluster_ip.clone_from(first);
    }
    Ok(())
}

/// A service with one port for both protocols (DNS) gets the same node port for both, where that is free.
fn fill_node_ports(spec: &mut ServiceSpec, claims: &mut Claims<'_>) -> Result<(), ApiError> {
    for at in 0..spec.ports.len() {
        let (port, Some(protocol)) = (&spec.ports[at], Protocol::from_name(&spec.ports[at].protocol)) else {
            continue;
        };
        if port.node_port != 0 {
            continue;
        }
        let asked = |node_port: i32| {
            let mut others = spec.ports.iter();
            others.any(|other| other.node_port == node_port && Protocol::from_name(&other.protocol) == Some(protocol))
        };
        let twins = spec
            .ports
            .iter()
            .filter(|other| other.port == port.port && other.node_port != 0);
        let twin = twins
            .filter_map(|twin| u16::try_from(twin.node_port).ok())
            .find(|number| !asked(i32::from(*number)) && claims.pools.propose_this_port(protocol, *number));
        let number = match twin {
            Some(number) => {
                claims.proposed.insert(Allocation::NodePort(protocol, number));
                number
            }
            None => loop {
                let number = propose_port(protocol, claims)?;
                // Asked for by another port of this service, and not stored yet.
                if !asked(i32::from(number)) && number_is_free_of_health_check(spec, protocol, number) {
                    break number;
                }
            },
        };
        spec.ports[at].node_port = number.into();
    }
    Ok(())
}

fn number_is_free_of_health_check(spec: &ServiceSpec, protocol: Protocol, number: u16) -> bool {
    protocol != Protocol::Tcp || spec.health_check_node_port != i32::from(number)
}

fn propose_port(protocol: Protocol, claims: &mut Claims<'_>) -> Result<u16, ApiError> {
    let number = claims
        .pools
        .propose_port(protocol)
        .ok_or_else(|| ApiError::RangeExhausted {
            range: format!("node port range {}", claims.pools.node_ports()),
            size: claims.pools.node_ports().count().into(),
            unit: "ports",
        })?;
    claims.proposed.insert(Allocation::NodePort(protocol, number));
    Ok(number)
}
