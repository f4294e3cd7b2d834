//! Names for addresses: pods and nodes, from the control plane or, when that is away, from an agent.

use std::{collections::BTreeMap, time::Duration};

use causeway_maps::view::address_of;
use causeway_proto::{
    client::{ClientError, ListOptions},
    v1::{Node as NodeObject, Pod},
};

use crate::{context::Context, nodes::Node};

/// Names are a convenience: longer than this nothing waits for them.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names by address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// "namespace/name" of pods.
    pub pods: BTreeMap<String, String>,
    /// Names of nodes.
    pub nodes: BTreeMap<String, String>,
    /// Nodes that pods run on, by the pods' addresses.
    pub node_of: BTreeMap<String, String>,
}

impl Names {
    /// All names of a cluster; from the agents of `nodes` when the control plane does not answer, and none when they do not
    /// either.
    pub async fn fetch(context: &Context, nodes: &[Node]) -> Self {
        if let Ok(Ok(names)) = tokio::time::timeout(PATIENCE, Self::from_control(context)).await {
            return names;
        }
        let mut names = Self::default();
        for node in nodes {
            let Ok(agent) = node.agent(context).await else { continue };
            if let Ok(Ok(told)) = tokio::time::timeout(PATIENCE, agent.names()).await {
                names.pods.extend(told.pods);
                names.nodes.extend(told.nodes);
            }
        }
        names
    }

    async fn from_control(context: &Context) -> Result<Self, ClientError> {
        let pods = context.client.list::<Pod>(&ListOptions::default()).await?;
        let nodes = context.client.list::<NodeObject>(&ListOptions::default()).await?;
        Ok(Self::of(&pods.items, &nodes.items))
    }

    /// The names in these objects.
    pub fn of(pods: &[Pod], nodes: &[NodeObject]) -> Self {
        let mut names = Self::default();
        for pod in pods {
            let (Some(metadata), Some(status)) = (&pod.metadata, &pod.status) else {
                continue;
            };
            // Pods that ended keep their address in their status, which others may have by now.
            let is_over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
            if status.pod_ip.is_empty() || status.pod_ip == status.host_ip || is_over {
                continue;
            }
            let name = format!("{}/{}", metadata.namespace, metadata.name);
            let node = pod.spec.as_ref().map_or("", |spec| &spec.node_name);
            let all = status.pod_ips.iter().map(|one| &one.ip).chain([&status.pod_ip]);
            for address in all {
                names.pods.insert(address.clone(), name.clone());
                names.node_of.insert(address.clone(), node.to_owned());
            }
        }
        for node in nodes {
            let name = node.metadata.as_ref().map_or("", |metadata| &metadata.name);
            let addresses = node.status.iter().flat_map(|status| &status.addresses);
            names
                .nodes
                .extend(addresses.map(|address| (address.address.clone(), name.to_owned())));
        }
        names
    }

    /// "namespace/name" of the pod at "address", "address:port" or "address:port/PROTOCOL"; empty when unknown.
    pub fn pod(&self, endpoint: &str) -> &str {
        self.pods.get(address_of(endpoint)).map_or("", |name| name)
    }

    /// The node with that address; empty when unknown.
    pub fn node(&self, endpoint: &str) -> &str {
        self.nodes.get(address_of(endpoint)).map_or("", |name| name)
    }

    /// The endpoint, and the name of who is there in parentheses.
    pub fn beside(&self, endpoint: &str) -> String {
        match (self.pod(endpoint), self.node(endpoint)) {
            ("", "") => endpoint.to_owned(),
            ("", name) | (name, _) => format!("{endpoint} ({name})"),
        }
    }

    /// The address of the pod called "namespace/name".
    pub fn address_of_pod(&self, name: &str) -> Option<&str> {
        let found = self.pods.iter().find(|(_, known)| known.as_str() == name);
        found.map(|(address, _)| address.as_str())
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ObjectMeta, PodSpec, PodStatus};

    use super::*;

    fn pod(name: &str, ip: &str, phase: &str) -> Pod {
        Pod {
            metadata: Some(ObjectMeta {
                namespace: "default".into(),
                name: name.into(),
                ..ObjectMeta::default()
            }),
            spec: Some(PodSpec {
                node_name: "node-1".into(),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: phase.into(),
                pod_ip: ip.into(),
                host_ip: "172.30.0.11".into(),
                ..PodStatus::default()
            }),
        }
    }

    #[test]
    fn addresses_have_the_names_of_pods_that_live() {
        let pods = [
            pod("old", "10.244.1.5", "Succeeded"),
            pod("web", "10.244.1.5", "Running"),
            pod("host", "172.30.0.11", "Running"),
        ];
        let names = Names::of(&pods, &[]);
        assert_eq!(names.beside("10.244.1.5:80/TCP"), "10.244.1.5:80/TCP (default/web)");
        assert_eq!(names.beside("172.30.0.11:80"), "172.30.0.11:80");
        assert_eq!(names.address_of_pod("default/web"), Some("10.244.1.5"));
        assert_eq!(names.node_of["10.244.1.5"], "node-1");
    }
}
