//! `ROUTES` as desired.

use std::collections::{HashMap, HashSet};

use causeway_abi::{
    Address,
    route::{MODE_NATIVE, MODE_VXLAN, Route, RouteKey},
};
use causeway_maps::{AddressExt as _, MapsError, RouteTable};

use super::desired::{DesiredRoute, RouteMode};

/// The element of a route.
pub(super) fn element(route: &DesiredRoute) -> (RouteKey, Route) {
    let bits = u32::from(route.prefix_len) + if route.address.is_ipv4() { 96 } else { 0 };
    let key = RouteKey {
        prefix_len: bits,
        address: Address::from_ip(route.address),
    };
    let (mode, tunnel_id) = match route.mode {
        RouteMode::Vxlan { vni } => (MODE_VXLAN, vni),
        RouteMode::Native => (MODE_NATIVE, 0),
    };
    let value = Route {
        node: Address::from_ip(route.node),
        tunnel_id,
        mode,
    };
    (key, value)
}

/// Writes only what differs; answers the number of changes.
pub(super) fn sync(map: &mut RouteTable, desired: &[DesiredRoute]) -> Result<usize, MapsError> {
    let present: HashMap<RouteKey, Route> = map.entries()?.into_iter().collect();
    let wanted: HashSet<RouteKey> = desired.iter().map(|route| element(route).0).collect();
    let mut changes = 0;
    for key in present.keys().filter(|key| !wanted.contains(*key)) {
        map.remove(key)?;
        changes += 1;
    }
    for (key, value) in desired.iter().map(element) {
        if present.get(&key) != Some(&value) {
            map.insert(&key, &value)?;
            changes += 1;
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_prefixes_count_from_the_mapped_form() {
        let route = DesiredRoute {
            address: "10.244.2.0".parse().unwrap(),
            prefix_len: 24,
            node: "172.30.0.3".parse().unwrap(),
            mode: RouteMode::Vxlan { vni: 1 },
        };
        let (key, value) = element(&route);
        assert_eq!((key.prefix_len, key.address.to_v4()), (120, Some([10, 244, 2, 0])));
        assert_eq!((value.node.to_v4(), value.tunnel_id), (Some([172, 30, 0, 3]), 1));
    }
}
