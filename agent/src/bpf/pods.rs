//! `PODS` as desired.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use causeway_abi::{Address, pod::Pod};
use causeway_maps::{AddressExt as _, MapsError, Table};

use super::desired::DesiredPod;

/// What a pass changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Changes {
    pub written: usize,
    /// Addresses that are gone.
    pub removed: Vec<IpAddr>,
}

/// The element of a pod.
pub(super) fn element(pod: &DesiredPod) -> (Address, Pod) {
    let value = Pod {
        ifindex: pod.ifindex,
        flags: 0,
        pod_mac: pod.pod_mac,
        host_mac: pod.host_mac,
    };
    (Address::from_ip(pod.address), value)
}

/// Writes only what differs.
pub(super) fn sync(map: &mut Table<Address, Pod>, desired: &[DesiredPod]) -> Result<Changes, MapsError> {
    let present: HashMap<Address, Pod> = map.entries()?.into_iter().collect();
    let mut changes = Changes::default();
    let wanted: HashSet<Address> = desired.iter().map(|pod| Address::from_ip(pod.address)).collect();
    for address in present.keys().filter(|address| !wanted.contains(*address)) {
        map.remove(address)?;
        changes.removed.push(address.to_ip());
    }
    for (address, value) in desired.iter().map(element) {
        if present.get(&address) != Some(&value) {
            map.insert(&address, &value)?;
            changes.written += 1;
        }
    }
    Ok(changes)
}
