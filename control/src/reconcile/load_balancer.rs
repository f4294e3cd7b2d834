//! Gives services of type `LoadBalancer` their addresses, of the ranges that the cluster has for them.
//!
//! An address is claimed in the store by the transaction that writes it into the service's status, as VIPs are; so two leaders, or a
//! user who writes a status, cannot give it twice.

use std::collections::BTreeMap;

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    time,
    v1::{Condition, Service},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    events::EventRecorder,
    objects::{condition, set_condition, typed},
};
use crate::{
    api::{ApiError, Registry},
    cidr::Family,
};

const COMPONENT: &str = "load-balancer-controller";
/// False while the service waits for an address.
const CONDITION: &str = "LoadBalancerAddress";

/// The reconciler.
pub struct LoadBalancers {
    registry: Registry,
    events: EventRecorder,
}

/// What to do for a service.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// Give it addresses, or take them back.
    Balance(Box<Service>),
    /// Say why it has none.
    Wait(Box<Service>),
}

/// Plans for all services; `families` are those for which there is a range.
pub fn plan<'a>(services: impl IntoIterator<Item = &'a Service>, families: &[Family]) -> BTreeMap<String, Work> {
    let mut work = BTreeMap::new();
    for service in services.into_iter().filter(|service| !service.meta().is_terminating()) {
        let spec = service.spec.clone().unwrap_or_default();
        let status = service.status.clone().unwrap_or_default();
        let ingress = status.load_balancer.map_or_else(Vec::new, |balancer| balancer.ingress);
        let complains = condition(&status.conditions, CONDITION).is_some();
        if spec.r#type != "LoadBalancer" {
            if !ingress.is_empty() || complains {
                work.insert(service.key(), Work::Balance(Box::new(service.clone())));
            }
            continue;
        }
        let had: Vec<_> = ingress
            .iter()
            .filter_map(|ingress| ingress.ip.parse().ok().map(Family::of))
            .collect();
        let wanted = spec.ip_families.iter().filter_map(|name| Family::from_name(name));
        let missing = wanted
            .filter(|family| families.contains(family) && !had.contains(family))
            .count();
        if missing > 0 || (complains && !ingress.is_empty()) {
            work.insert(service.key(), Work::Balance(Box::new(service.clone())));
        } else if ingress.is_empty() && !complains {
            work.insert(service.key(), Work::Wait(Box::new(service.clone())));
        }
    }
    work
}

impl LoadBalancers {
    /// Works through the registry.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named(COMPONENT),
        }
    }

    fn families(&self) -> Vec<Family> {
        self.registry
            .load_balancer_ranges()
            .iter()
            .map(crate::cidr::Cidr::family)
            .collect()
    }

    async fn balance(&self, service: Service) -> Result<(), ReconcileError> {
        let meta = service.meta().clone();
        let result = self.registry.balance(&meta.namespace, &meta.name, &meta.uid).await;
        match result {
            Ok(object) => {
                let Some(now) = Service::from_object(object) else {
                    return Ok(());
                };
                let before = addresses(&service);
                for address in addresses(&now).into_iter().filter(|address| !before.contains(address)) {
                    let message = format!("Assigned address {address}");
                    self.events
                        .record(&now, EventType::Normal, "LoadBalancerAddressAssigned", message);
                }
                self.set_waiting(now, None).await
            }
            Err(error @ ApiError::RangeExhausted { .. }) => {
                let message = error.to_string();
                if addresses(&service).is_empty() {
                    self.set_waiting(service, Some(("RangeExhausted", message.clone())))
                        .await?;
                }
                // Others may go at any time, of which nobody tells.
                Err(ReconcileError::NotYet(message))
            }
            Err(error) => Err(ReconcileError::api(format!("giving service {} an address", meta.key()))(error)),
        }
    }

    /// Writes why a service waits, with an event when that is new; or that it does not wait.
    async fn set_waiting(&self, mut service: Service, why: Option<(&str, String)>) -> Result<(), ReconcileError> {
        let status = service.status.get_or_insert_default();
        let changed = if let Some((reason, message)) = why.clone() {
            let condition = Condition {
                r#type: CONDITION.to_owned(),
                status: "False".to_owned(),
                reason: reason.to_owned(),
                message,
                last_transition_time: Some(time::now()),
                ..Condition::default()
            };
            set_condition(&mut status.conditions, condition)
        } else {
            let before = status.conditions.len();
            status.conditions.retain(|condition| condition.r#type != CONDITION);
            before != status.conditions.len()
        };
        if !changed {
            return Ok(());
        }
        let key = service.key();
        let stored = self.registry.update_status(service.clone().into_object(), false).await;
        stored.map_err(ReconcileError::api(format!("writing the status of service {key}")))?;
        if let Some((reason, message)) = why {
            let message = format!("No load-balancer address: {message}");
            self.events.record(&service, EventType::Warning, reason, message);
        }
        Ok(())
    }
}

fn addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| &balancer.ingress);
    ingress.map(|ingress| ingress.ip.clone()).collect()
}

#[async_trait]
impl Reconciler for LoadBalancers {
    type Work = Work;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Service]
    }

    fn plan(&self) -> Pass<Work> {
        let services = self.registry.cache(Kind::Service).snapshot();
        Pass {
            work: plan(typed::<Service>(&services), &self.families()),
            again_in: None,
        }
    }

    async fn execute(&self, _key: &str, work: Work) -> Result<(), ReconcileError> {
        match work {
            Work::Balance(service) => self.balance(*service).await,
            Work::Wait(service) => {
                let message =
                    "the cluster has no range for load balancers (--load-balancer-range) of this family".to_owned();
                self.set_waiting(*service, Some(("NoLoadBalancerRange", message))).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceSpec, ServiceStatus};

    use super::*;

    fn service(kind: &str, families: &[&str], ingress: &[&str], complains: bool) -> Service {
        let ingress = ingress
            .iter()
            .map(|ip| LoadBalancerIngress { ip: (*ip).into() })
            .collect();
        let condition = Condition {
            r#type: CONDITION.into(),
            status: "False".into(),
            ..Condition::default()
        };
        let mut service = Service {
            spec: Some(ServiceSpec {
                r#type: kind.into(),
                ip_families: families.iter().map(|name| (*name).into()).collect(),
                ..ServiceSpec::default()
            }),
            status: Some(ServiceStatus {
                load_balancer: Some(LoadBalancerStatus { ingress }),
                conditions: complains.then_some(condition).into_iter().collect(),
            }),
            ..Service::default()
        };
        service.meta_mut().name = "web".into();
        service
    }

    fn planned(service: &Service, families: &[Family]) -> &'static str {
        match plan([service], families).into_values().next() {
            None => "nothing",
            Some(Work::Balance(_)) => "balance",
            Some(Work::Wait(_)) => "wait",
        }
    }

    #[test]
    fn an_address_is_given_once_for_each_family_that_has_a_range() {
        let v4 = [Family::V4];
        let both = [Family::V4, Family::V6];
        assert_eq!(planned(&service("LoadBalancer", &["IPv4"], &[], false), &v4), "balance");
        assert_eq!(
            planned(&service("LoadBalancer", &["IPv4"], &["192.0.2.1"], false), &v4),
            "nothing"
        );
        let dual = service("LoadBalancer", &["IPv4", "IPv6"], &["192.0.2.1"], false);
        assert_eq!(planned(&dual, &v4), "nothing");
        assert_eq!(planned(&dual, &both), "balance");
        assert_eq!(planned(&service("ClusterIP", &["IPv4"], &[], false), &v4), "nothing");
    }

    #[test]
    fn who_waits_is_told_once() {
        assert_eq!(planned(&service("LoadBalancer", &["IPv4"], &[], false), &[]), "wait");
        assert_eq!(planned(&service("LoadBalancer", &["IPv4"], &[], true), &[]), "nothing");
        assert_eq!(
            planned(&service("LoadBalancer", &["IPv6"], &[], false), &[Family::V4]),
            "wait"
        );
    }

    #[test]
    fn addresses_go_with_the_type() {
        assert_eq!(
            planned(&service("NodePort", &["IPv4"], &["192.0.2.1"], false), &[]),
            "balance"
        );
        assert_eq!(planned(&service("ClusterIP", &["IPv4"], &[], true), &[]), "balance");
        assert_eq!(
            planned(&service("LoadBalancer", &["IPv4"], &["192.0.2.1"], true), &[]),
            "balance",
            "given by somebody else meanwhile"
        );
    }
}
