//! The VIP of a service: claimed in the transaction that creates it, released in the one that removes it.

use std::net::Ipv4Addr;

use causeway_proto::{
    Kind, Resource,
    v1::{Object, Service},
};
use tonic_types::FieldViolation;

use super::{ApiError, Registry, stored, write::invalid};
use crate::{admission::service::HEADLESS, store::Transaction};

/// An address that a new service is about to have.
pub(super) enum Claim {
    /// The service asks for this one and no other.
    Requested(Ipv4Addr),
    /// Proposed by the allocator, which has marked it.
    Proposed(Ipv4Addr),
}

impl Claim {
    pub(super) fn address(&self) -> Ipv4Addr {
        match self {
            Self::Requested(ip) | Self::Proposed(ip) => *ip,
        }
    }

    /// Adds to a transaction that the address is free and now belongs to the service.
    pub(super) fn claim(&self, transaction: Transaction, service: &Object) -> Transaction {
        let key = stored::vip_key(self.address());
        let uid = service.meta().map_or("", |meta| &meta.uid);
        transaction
            .when(&key, 0)
            .put(key, format!("{uid} {}", service.key()).into_bytes())
    }
}

impl Registry {
    /// The VIP that a new object needs, written into it; `None` if it is not a service or is headless.
    pub(super) async fn vip_of_new(&self, object: &mut Object) -> Result<Option<Claim>, ApiError> {
        let Some(service) = Service::from_object_ref(object) else {
            return Ok(None);
        };
        match service.spec.as_ref().map_or("", |spec| &spec.cluster_ip) {
            HEADLESS => Ok(None),
            "" => self.free_vip(object).await.map(Some),
            text => match text.parse() {
                Ok(ip) if self.vips().contains(ip) => Ok(Some(Claim::Requested(ip))),
                _ => {
                    let range = self.vips().range();
                    let rule = format!(
                        "failed to allocate IP {text}: the provided IP is not in the valid range, which is {range} without its first and last address"
                    );
                    Err(refused(object, text, &rule))
                }
            },
        }
    }

    fn propose_vip(&self, object: &mut Object) -> Result<Claim, ApiError> {
        let vips = self.vips();
        let Some(ip) = vips.propose() else {
            return Err(ApiError::RangeExhausted {
                range: vips.range(),
                size: vips.usable(),
            });
        };
        if let Some(spec) = Service::from_object_mut(object).and_then(|service| service.spec.as_mut()) {
            spec.cluster_ip = ip.to_string();
            spec.cluster_ips = vec![ip.to_string()];
        }
        Ok(Claim::Proposed(ip))
    }

    /// What to try after the store said that an address is taken.
    pub(super) async fn next_vip(&self, taken: Claim, object: &mut Object) -> Result<Claim, ApiError> {
        match taken {
            Claim::Requested(ip) => {
                self.vips().mark(ip);
                let owner = match self.store().get(&stored::vip_key(ip)).await? {
                    Some(found) => String::from_utf8_lossy(&found.value).into_owned(),
                    None => String::new(),
                };
                let owner = owner.split_once(' ').map_or("another service", |(_, key)| key);
                let rule =
                    format!("failed to allocate IP {ip}: the provided IP is already allocated to service {owner}");
                Err(refused(object, &ip.to_string(), &rule))
            }
            Claim::Proposed(_) => self.free_vip(object).await,
        }
    }

    /// An address that the store may have free.
    async fn free_vip(&self, object: &mut Object) -> Result<Claim, ApiError> {
        match self.propose_vip(object) {
            Err(ApiError::RangeExhausted { .. }) => {
                // Other control replicas may have released some, or a write that failed here was not done after all.
                self.vips().reload(self.store()).await?;
                self.propose_vip(object)
            }
            found => found,
        }
    }

    /// An address that was proposed and is not needed after all.
    pub(super) fn give_back(&self, claim: &Claim) {
        if let Claim::Proposed(ip) = claim {
            self.vips().release(*ip);
        }
    }

    /// After an object was removed with its VIP.
    pub(super) fn forget_vip(&self, object: &Object) {
        if let Some(ip) = vip_of(object) {
            self.vips().release(ip);
        }
    }
}

/// The VIP of a stored object.
pub(super) fn vip_of(object: &Object) -> Option<Ipv4Addr> {
    let spec = Service::from_object_ref(object)?.spec.as_ref()?;
    spec.cluster_ip.parse().ok()
}

fn refused(object: &Object, ip: &str, rule: &str) -> ApiError {
    let violation = FieldViolation::new("spec.clusterIPs[0]", format!("Invalid value: {ip:?}: {rule}"));
    invalid(Kind::Service, object, vec![violation])
}
