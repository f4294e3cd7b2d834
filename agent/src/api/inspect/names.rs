//! Names for addresses. Pure but for the snapshots.

use std::collections::BTreeMap;

use causeway_proto::v1::{Endpoints, NamesResponse, Node, Pod};

use super::check::addresses_of;
use crate::watch::Watches;

/// Every name the agent knows: of its own pods, of the pods behind services, of nodes.
pub fn names(watches: &Watches) -> NamesResponse {
    let mut pods = BTreeMap::new();
    for endpoints in watches.endpoints.snapshot() {
        pods.extend(of_endpoints(&endpoints));
    }
    for pod in watches.pods.snapshot() {
        pods.extend(of_pod(&pod));
    }
    let nodes = watches.nodes.snapshot();
    NamesResponse {
        pods,
        nodes: nodes.iter().flat_map(|node| of_node(node)).collect(),
    }
}

fn of_pod(pod: &Pod) -> Vec<(String, String)> {
    let (Some(metadata), Some(status)) = (&pod.metadata, &pod.status) else {
        return Vec::new();
    };
    if status.pod_ip == status.host_ip {
        return Vec::new();
    }
    let name = format!("{}/{}", metadata.namespace, metadata.name);
    addresses_of(status)
        .into_iter()
        .map(|address| (address, name.clone()))
        .collect()
}

fn of_endpoints(endpoints: &Endpoints) -> Vec<(String, String)> {
    let addresses = endpoints
        .subsets
        .iter()
        .flat_map(|subset| subset.addresses.iter().chain(&subset.not_ready_addresses));
    let name = |address: &causeway_proto::v1::EndpointAddress| {
        let target = address.target_ref.as_ref().filter(|target| target.kind == "Pod")?;
        Some((address.ip.clone(), format!("{}/{}", target.namespace, target.name)))
    };
    addresses.filter_map(name).collect()
}

fn of_node(node: &Node) -> Vec<(String, String)> {
    let name = node.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    addresses
        .filter(|address| address.r#type != "Hostname")
        .map(|address| (address.address.clone(), name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ObjectMeta, PodStatus};

    use super::*;

    #[test]
    fn pods_on_the_nodes_own_address_have_no_name_of_their_own() {
        let pod = |ip: &str, host: &str| Pod {
            metadata: Some(ObjectMeta {
                namespace: "default".into(),
                name: "web".into(),
                ..ObjectMeta::default()
            }),
            status: Some(PodStatus {
                pod_ip: ip.into(),
                host_ip: host.into(),
                ..PodStatus::default()
            }),
            spec: None,
        };
        assert_eq!(
            of_pod(&pod("10.244.1.2", "172.30.0.1")),
            [("10.244.1.2".into(), "default/web".into())]
        );
        assert!(of_pod(&pod("172.30.0.1", "172.30.0.1")).is_empty());
        assert!(of_pod(&pod("", "172.30.0.1")).is_empty());
    }
}
