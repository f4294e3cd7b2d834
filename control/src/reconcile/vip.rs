//! Audit of VIPs. The API server claims an address in the transaction that creates its service, so claims and services agree, unless
//! something went wrong: this finds what did, and repairs what can be.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    v1::{ObjectReference, Service},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    events::{EventRecorder, EventType},
    objects::reference,
};
use crate::{
    api::{Registry, stored},
    store::{KeyValue, Revision, TransactOutcome, Transaction},
};

/// Keys read at a time.
const PAGE: usize = 1000;

/// A claim as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: Ipv4Addr,
    /// "uid namespace/name" of its service.
    pub holder: String,
    /// Revision of the claim's key.
    pub revision: Revision,
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Claimed for a service that does not have it, or does not exist: the address is lost until the claim goes.
    Leaked(Claim),
    /// A service has it without a claim: another could get it too.
    Unclaimed {
        /// The address.
        address: Ipv4Addr,
        /// What the claim should say.
        holder: String,
    },
    /// Several services have it. Only a person can decide which is to keep it.
    Doubled {
        /// The address.
        address: Ipv4Addr,
        /// All of them, oldest first.
        services: Vec<ObjectReference>,
    },
}

/// What a claim for a service says.
fn holder(service: &Service) -> String {
    format!("{} {}", service.meta().uid, service.key())
}

/// Compares claims and services of one revision.
pub fn audit<'a>(claims: &[Claim], services: impl IntoIterator<Item = &'a Service>) -> BTreeMap<Ipv4Addr, Finding> {
    let mut having: BTreeMap<Ipv4Addr, Vec<&Service>> = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let texts = [&spec.cluster_ip].into_iter().chain(&spec.cluster_ips);
        let mut addresses: Vec<Ipv4Addr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            having.entry(address).or_default().push(service);
        }
    }
    let mut findings = BTreeMap::new();
    let claimed: HashMap<Ipv4Addr, &Claim> = claims.iter().map(|claim| (claim.address, claim)).collect();
    for claim in claims {
        let held = having
            .get(&claim.address)
            .is_some_and(|services| services.iter().any(|s| holder(s) == claim.holder));
        if !held && !having.contains_key(&claim.address) {
            findings.insert(claim.address, Finding::Leaked(claim.clone()));
        } else if !held && having[&claim.address].len() == 1 {
            // The claim names another service: it is put right in two steps.
            findings.insert(claim.address, Finding::Leaked(claim.clone()));
        }
    }
    for (address, mut services) in having {
        if services.len() > 1 {
            services.sort_by_cached_key(|service| {
                (
                    service.meta().creation_timestamp.map_or(0, |time| time.seconds),
                    service.key(),
                )
            });
            let services = services.into_iter().map(reference).collect();
            findings.insert(address, Finding::Doubled { address, services });
        } else if !claimed.contains_key(&address)
            && let [service] = services.as_slice()
        {
            findings.insert(
                address,
                Finding::Unclaimed {
                    address,
                    holder: holder(service),
                },
            );
        }
    }
    findings
}

/// The reconciler. It reads the store and not the caches: claims are no objects, and both have to be of one revision.
pub struct VipAudit {
    registry: Registry,
    events: EventRecorder,
}

impl VipAudit {
    /// Works on the registry's store.
    pub fn new(registry: Registry, events: &EventRecorder) -> Self {
        Self {
            registry,
            events: events.named("vip-audit"),
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

    async fn audit(&self) -> Result<BTreeMap<Ipv4Addr, Finding>, ReconcileError> {
        let (claims, revision) = self.read(stored::VIP_PREFIX, None).await?;
        let (services, _) = self.read(&stored::prefix(Kind::Service), Some(revision)).await?;
        let claims: Vec<_> = claims
            .into_iter()
            .filter_map(|kv| {
                Some(Claim {
                    address: kv.key.strip_prefix(stored::VIP_PREFIX)?.parse().ok()?,
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
                tracing::warn!(address = %claim.address, holder = claim.holder, "freeing a VIP that no service has");
                let key = stored::vip_key(claim.address);
                Transaction::new().when(key.clone(), claim.revision).delete(key)
            }
            Finding::Unclaimed { address, holder } => {
                tracing::warn!(%address, holder, "claiming a VIP that a service has");
                let key = stored::vip_key(address);
                Transaction::new().when(key.clone(), 0).put(key, holder)
            }
            Finding::Doubled { address, services } => {
                let names: Vec<_> = services
                    .iter()
                    .map(|service| format!("{}/{}", service.namespace, service.name))
                    .collect();
                let message = format!("VIP {address} belongs to several services: {}", names.join(", "));
                tracing::error!(message);
                for service in services {
                    self.events
                        .record_about(service, EventType::Warning, "ClusterIPDoubled", message.clone());
                }
                return Ok(());
            }
        };
        let outcome = self.registry.store().transact(transaction).await;
        match outcome.map_err(ReconcileError::store("repairing VIP claims"))? {
            TransactOutcome::Committed(_) => Ok(()),
            TransactOutcome::Conflict { key, .. } => Err(ReconcileError::NotYet(format!("{key} has changed"))),
        }
    }
}

#[async_trait]
impl Reconciler for VipAudit {
    type Work = ();

    fn name(&self) -> &'static str {
        "vip-audit"
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

    fn claim(address: &str, holder: &str) -> Claim {
        Claim {
            address: address.parse().expect("address"),
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
                address: "10.96.0.2".parse().expect("address"),
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
