//! What the agent follows at the control plane: local copies that outlive its absence.

use causeway_proto::{
    client::{Client, ListOptions, Reflector, Store},
    selector::FieldSelector,
    v1::{Endpoints, Node, Pod, Service},
};

/// The local copies.
#[derive(Clone, Debug)]
pub struct Watches {
    /// Pods bound to this node.
    pub pods: Store<Pod>,
    /// All services.
    pub services: Store<Service>,
    /// All endpoints.
    pub endpoints: Store<Endpoints>,
    /// All nodes.
    pub nodes: Store<Node>,
}

impl Watches {
    /// Starts to follow what concerns the node called `node_name`.
    pub fn start(client: &Client, node_name: &str) -> Self {
        let own = ListOptions::default().fields(FieldSelector::equals("spec.nodeName", node_name));
        let all = ListOptions::default;
        Self {
            pods: Reflector::spawn(client.clone(), own),
            services: Reflector::spawn(client.clone(), all()),
            endpoints: Reflector::spawn(client.clone(), all()),
            nodes: Reflector::spawn(client.clone(), all()),
        }
    }

    /// Waits until everything was listed at least once.
    pub async fn all_synced(&self) {
        self.pods.synced().await;
        self.services.synced().await;
        self.endpoints.synced().await;
        self.nodes.synced().await;
    }

    /// Whether everything was listed at least once.
    pub fn synced(&self) -> bool {
        self.pods.is_synced() && self.services.is_synced() && self.endpoints.is_synced() && self.nodes.is_synced()
    }
}
