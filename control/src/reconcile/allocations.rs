//! Audit of what services have: VIPs, node ports, load-balancer addresses. The API server claims them in the transaction that writes
//! them into a service, so claims and services agree, unless something went wrong: this finds what did, and repairs what can be.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    v1::{ObjectReference, Service},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    events::EventRecorder,
    objects::reference,
};
use crate::{
    api::{
        Registry,
        allocation::{self, Allocation},
        stored,
    },
    store::{KeyValue, Revision, TransactOutcome, Transaction},
};

/// Keys read at a time.
const PAGE: usize = 1000;

/// A claim as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub allocation: Allocation,
    /// "uid namespace/name" of its service.
    pub holder: String,
    /// Revision of the claim's key.
    pub revision: Revision,
}

/// What is wrong with an address or a port.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Claimed for a service that does not have it, or does not exist: it is lost until the claim goes.
    Leaked(Claim),
    /// A service has it without a claim: another could get it too.
    Unclaimed {
        /// What it has.
        allocation: Allocation,
        /// What the claim should say.
        holder: String,
    },
    /// Several services have it. Only a person can decide which is to keep it.
    Doubled {
        /// What they have.
        allocation: Allocation,
        /// All of them, oldest first.
        services: Vec<ObjectReference>,
    },
}

/// What a claim for a service says.
fn holder(service: &Service) -> String {
    format!("{} {}", service.meta().uid, service.key())
}

/// Compares claims and services of one revision.
pub fn audit<'a>(claims: &[Claim], services: impl IntoIterator<Item = &'a Service>) -> BTreeMap<Allocation, Finding> {
    let mut having: BTreeMap<Allocation, Vec<&Service>> = BTreeMap::new();
    for service in services {
        for allocation in Allocation::of(service) {
            having.entry(allocation).or_default().push(service);
        }
    }
    let mut findings = BTreeMap::new();
    let claimed: HashMap<Allocation, &Claim> = claims.iter().map(|claim| (claim.allocation, claim)).collect();
    for claim in claims {
        let services = having.get(&claim.allocation).map_or(&[][..], Vec::as_slice);
        let held = services.iter().any(|service| holder(service) == claim.holder);
        // A claim that names another service than the one that has it is put right in two steps.
        if !held && services.len() <= 1 {
            findings.insert(claim.allocation, Finding::Leaked(claim.clone()));
        }
    }
    for (allocation, mut services) in having {
        if services.len() > 1 {
            services.sort_by_cached_key(|service| {
                (
                    service.meta().creation_timestamp.map_or(0, |time| time.seconds),
                    service.key(),
                )
            });
            let services = services.into_iter().map(reference).collect();
            findings.insert(allocation, Finding::Doubled { allocation, services });
        } else if !claimed.contains_key(&allocation)
            && let [service] = services.as_slice()
        {
            let holder = holder(service);
            findings.insert(allocation, Finding::Unclaimed { allocation, holder });
        }
    }
    findings
}

/// The reconciler. It reads the store and not the caches: claims are no objects, and both have to be of one revision.
pub struct AllocationAudit {
    registry: Registry,
    events: EventRecorder,
}

impl AllocationAudit {
    /// Works on the registry's store.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named("allocation-audit"),
        }
    }

    async fn read(&self, prefix: &str, at: Option<Revision>) -> Result<(Vec<KeyValue>, Revision), ReconcileError> {
        let mut items: Vec<KeyValue> = Vec::new();
        let mut at = at;
        loop {
            let after = items.last().map(|kv| kv.key.clone());
            let page = self.registry.store().list(prefix, after.as_deref(), PAGE, at).await;
            let page = page.map_err(ReconcileError::store(format!("reading {prefix}")))?;
            at = Some(page.revision);
            items.extend(page.items);
            if !page.more {
                return Ok((items, page.revision));
            }
        }
    }

    async fn audit(&self) -> Result<BTreeMap<Allocation, Finding>, ReconcileError> {
        let (claims, revision) = self.read(allocation::PREFIX, None).await?;
        let (services, _) = self.read(&stored::prefix(Kind::Service), Some(revision)).await?;
        let claims: Vec<_> = claims
            .into_iter()
            .filter_map(|kv| {
                Some(Claim {
                    allocation: Allocation::from_key(&kv.key)?,
                    holder: String::from_utf8_lossy(&kv.value).into_owned(),
                    revision: kv.mod_revision,
                })
            })
            .collect();
        let services: Vec<Service> = services
            .into_iter()
            .filter_map(|kv| Service::from_object(stored::decode(&kv.key, &kv.value, kv.mod_revision).ok()?))
            .collect();
        Ok(audit(&claims, &services))
    }

    async fn repair(&self, finding: Finding) -> Result<(), ReconcileError> {
        let transaction = match finding {
            Finding::Leaked(claim) => {
                tracing::warn!(allocation = %claim.allocation, holder = claim.holder, "freeing what no service has");
                let key = claim.allocation.key();
                Transaction::new().when(key.clone(), claim.revision).delete(key)
            }
            Finding::Unclaimed { allocation, holder } => {
                tracing::warn!(%allocation, holder, "claiming what a service has");
                let key = allocation.key();
                Transaction::new().when(key.clone(), 0).put(key, holder)
            }
            Finding::Doubled { allocation, services } => {
                let names: Vec<_> = services
                    .iter()
                    .map(|service| format!("{}/{}", service.namespace, service.name))
                    .collect();
                let message = format!("{allocation} belongs to several services: {}", names.join(", "));
                tracing::error!(message);
                for service in services {
                    self.events
                        .record_about(service, EventType::Warning, "AllocationDoubled", message.clone());
                }
                return Ok(());
            }
        };
        let outcome = self.registry.store().transact(transaction).await;
        match outcome.map_err(ReconcileError::store("repairing claims"))? {
            TransactOutcome::Committed(_) => Ok(()),
            TransactOutcome::Conflict { key, .. } => Err(ReconcileError::NotYet(format!("{key} has changed"))),
        }
    }
}

#[async_trait]
impl Reconciler for AllocationAudit {
    type Work = ();

    fn name(&self) -> &'static str {
        "allocation-audit"
    }

    fn sources(&self) -> &'static [Kind] {
        // Only time matters: normally there is nothing to find.
        &[]
    }

    fn plan(&self) -> Pass<()> {
        Pass {
            work: BTreeMap::from([("all".to_owned(), ())]),
            again_in: None,
        }
    }

    async fn execute(&self, _key: &str, (): ()) -> Result<(), ReconcileError> {
        for finding in self.audit().await?.into_values() {
            self.repair(finding).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::ServiceSpec;

    use super::*;

    fn service(name: &str, ip: &str) -> Service {
        let mut service = Service {
            spec: Some(ServiceSpec {
                cluster_ip: ip.into(),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        let meta = service.meta_mut();
        (meta.name, meta.namespace, meta.uid) = (name.into(), "default".into(), format!("uid-{name}"));
        service
    }

    fn vip(address: &str) -> Allocation {
        Allocation::Vip(address.parse().expect("address"))
    }

    fn claim(address: &str, holder: &str) -> Claim {
        Claim {
            allocation: vip(address),
            holder: holder.into(),
            revision: 5,
        }
    }

    #[test]
    fn claims_that_agree_with_services_are_fine() {
        let services = [service("a", "10.96.0.1"), service("b", "None"), service("c", "")];
        assert!(audit(&[claim("10.96.0.1", "uid-a default/a")], &services).is_empty());
    }

    #[test]
    fn leaks_and_missing_claims_are_found() {
        let leaked = claim("10.96.0.1", "uid-gone default/gone");
        let findings = audit(std::slice::from_ref(&leaked), &[service("b", "10.96.0.2")]);
        let expected = [
            Finding::Leaked(leaked),
            Finding::Unclaimed {
                allocation: vip("10.96.0.2"),
                holder: "uid-b default/b".into(),
            },
        ];
        assert_eq!(findings.into_values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_claim_for_a_former_service_is_replaced() {
        // Same name and address, another life.
        let old = claim("10.96.0.1", "uid-old default/a");
        let services = [service("a", "10.96.0.1")];
        let findings = audit(std::slice::from_ref(&old), &services);
        assert_eq!(findings.into_values().collect::<Vec<_>>(), [Finding::Leaked(old)]);
        assert!(matches!(
            audit(&[], &services).into_values().next(),
            Some(Finding::Unclaimed { .. })
        ));
    }

    #[test]
    fn doubles_are_found_whoever_holds_the_claim() {
        let services = [service("b", "10.96.0.1"), service("a", "10.96.0.1")];
        for claims in [
            vec![],
            vec![claim("10.96.0.1", "uid-a default/a")],
            vec![claim("10.96.0.1", "uid-x default/x")],
        ] {
            let findings = audit(&claims, &services);
            let Some(Finding::Doubled { services, .. }) = findings.into_values().next() else {
                panic!("no double")
            };
            assert_eq!(
                services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(),
                ["a", "b"]
            );
        }
    }
}
