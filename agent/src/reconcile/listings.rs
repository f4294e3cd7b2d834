//! Which pods of this node the endpoints send new connections to, as far as this node has heard.
//!
//! A pod that is to end takes no new connections here at once; other nodes go by the endpoints. Until those tell that the pod ends,
//! its processes had better not be told to.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_proto::v1::Endpoints;

/// Addresses and how many services list them as ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Listings(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Listings {
    /// Whether any service lists one of these as ready, and not as about to end.
    pub fn list(&self, addresses: &[IpAddr]) -> bool {
        let listed = self.lock();
        addresses.iter().any(|address| listed.contains_key(address))
    }

    /// Replaces what one service lists.
    pub fn replace(&self, before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) {
        let mut listed = self.lock();
        for address in after.difference(before) {
            *listed.entry(*address).or_default() += 1;
        }
        for address in before.difference(after) {
            if let Some(services) = listed.get_mut(address) {
                *services -= 1;
                if *services == 0 {
                    listed.remove(address);
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses on `node` that endpoints list as ready.
pub fn listed(endpoints: &Endpoints, node: &str) -> BTreeSet<IpAddr> {
    let addresses = endpoints.subsets.iter().flat_map(|subset| &subset.addresses);
    let here = addresses.filter(|address| address.node_name == node && !node.is_empty());
    here.filter_map(|address| address.ip.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_listed_until_the_last_service_says_otherwise() {
        let listings = Listings::default();
        let (pod, other): (IpAddr, IpAddr) = ("10.244.1.2".parse().unwrap(), "10.244.1.3".parse().unwrap());
        let (none, one) = (BTreeSet::new(), BTreeSet::from([pod]));
        listings.replace(&none, &one);
        listings.replace(&none, &BTreeSet::from([pod, other]));
        listings.replace(&one, &none);
        assert!(listings.list(&[pod]));
        listings.replace(&BTreeSet::from([pod, other]), &BTreeSet::from([other]));
        assert!(!listings.list(&[pod]) && listings.list(&[pod, other]));
        listings.clear();
        assert!(!listings.list(&[other]));
    }
}
