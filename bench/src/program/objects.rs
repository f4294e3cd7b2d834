//! Services as objects of the API.

use causeway_agent::reconcile::{services::NodeView, topology::Topology};
use causeway_proto::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Node, NodeAddress, NodeStatus, ObjectMeta,
    Service as ServiceObject, ServicePort as PortObject, ServiceSpec,
};

use crate::{
    service::{NAMESPACE, Service},
    site::{NODE_ADDRESS, OTHER_NODE_ADDRESS},
};

/// The node that is measured.
pub(super) const NODE: &str = "node";
/// Where pods are that are not on it.
pub(super) const OTHER_NODE: &str = "other";

/// What a node knows of the cluster's nodes.
pub(super) fn view(own: &str) -> NodeView {
    let node = |name: &str, address: String| Node {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        status: Some(NodeStatus {
            addresses: vec![NodeAddress {
                r#type: "InternalIP".to_owned(),
                address,
            }],
            ..NodeStatus::default()
        }),
        ..Node::default()
    };
    let nodes = [
        node(NODE, NODE_ADDRESS.to_string()),
        node(OTHER_NODE, OTHER_NODE_ADDRESS.to_string()),
    ];
    let address = if own == NODE { NODE_ADDRESS } else { OTHER_NODE_ADDRESS };
    NodeView {
        topology: Topology::new(own, &nodes),
        addresses: vec![address.into()],
    }
}

fn metadata(service: &Service) -> ObjectMeta {
    ObjectMeta {
        namespace: NAMESPACE.to_owned(),
        name: service.name(),
        ..ObjectMeta::default()
    }
}

/// The service.
pub(super) fn service(service: &Service) -> ServiceObject {
    let port = |port: crate::service::ServicePort<'_>| PortObject {
        name: port.port_name.to_owned(),
        protocol: port.transport.name().to_uppercase(),
        port: port.port.into(),
        ..PortObject::default()
    };
    let address = service.vip().to_string();
    ServiceObject {
        metadata: Some(metadata(service)),
        spec: Some(ServiceSpec {
            cluster_ip: address.clone(),
            cluster_ips: vec![address],
            ports: service.ports().map(port).collect(),
            external_ips: service.external().iter().map(ToString::to_string).collect(),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Where it is served.
pub(super) fn endpoints(service: &Service) -> Endpoints {
    let is_here = service.measured && !service.is_external;
    let node = if is_here { NODE } else { OTHER_NODE };
    let address = |ip: &std::net::Ipv4Addr| EndpointAddress {
        ip: ip.to_string(),
        node_name: node.to_owned(),
        ..EndpointAddress::default()
    };
    let port = |port: crate::service::ServicePort<'_>| EndpointPort {
        name: port.port_name.to_owned(),
        protocol: port.transport.name().to_uppercase(),
        port: port.target_port.into(),
    };
    Endpoints {
        metadata: Some(metadata(service)),
        subsets: vec![EndpointSubset {
            addresses: service.endpoints.iter().map(address).collect(),
            ports: service.ports().map(port).collect(),
            ..EndpointSubset::default()
        }],
    }
}
