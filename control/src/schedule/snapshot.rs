//! The cluster as the scheduler sees it for one pass.

use std::collections::HashMap;

use causeway_proto::{
    Resource,
    v1::{Node, Pod, Service},
};

use super::Resources;
use crate::reconcile::pod_state;

/// A node with the pods that are, or are assumed to be, on it.
#[derive(Debug)]
pub struct NodeState<'a> {
    node: &'a Node,
    allocatable: Resources,
    requested: Resources,
    pods: Vec<&'a Pod>,
}

impl<'a> NodeState<'a> {
    fn new(node: &'a Node) -> Self {
        let status = node.status.as_ref();
        let allocatable = status
            .map(|status| Resources::of(&status.allocatable))
            .unwrap_or_default();
        Self {
            node,
            allocatable,
            requested: Resources::default(),
            pods: Vec::new(),
        }
    }

    /// The node's object.
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.node.meta().name
    }

    /// What pods may use in all.
    pub fn allocatable(&self) -> &Resources {
        &self.allocatable
    }

    /// What its pods ask for.
    pub fn requested(&self) -> &Resources {
        &self.requested
    }

    /// Its pods that have not finished.
    pub fn pods(&self) -> &[&'a Pod] {
        &self.pods
    }
}

/// All nodes in order of their names, and the services, by which pods are spread.
#[derive(Debug, Default)]
pub struct Snapshot<'a> {
    nodes: Vec<NodeState<'a>>,
    by_name: HashMap<&'a str, usize>,
    services: Vec<&'a Service>,
}

impl<'a> Snapshot<'a> {
    /// Puts pods on the nodes they are bound to. Finished pods need nothing and are left out.
    pub fn new(
        nodes: impl IntoIterator<Item = &'a Node>,
        pods: impl IntoIterator<Item = &'a Pod>,
        services: impl IntoIterator<Item = &'a Service>,
    ) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().map(NodeState::new).collect();
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        let by_name = nodes.iter().enumerate().map(|(at, node)| (node.name(), at)).collect();
        let services = services
            .into_iter()
            .filter(|service| !service.meta().is_terminating())
            .collect();
        let mut snapshot = Self {
            nodes,
            by_name,
            services,
        };
        for pod in pods {
            snapshot.place(pod, pod_state::node_name(pod));
        }
        snapshot
    }

    /// Puts a pod on a node, as if it were bound to it already.
    pub fn place(&mut self, pod: &'a Pod, node: &str) {
        if pod_state::is_finished(pod) {
            return;
        }
        if let Some(at) = self.by_name.get(node) {
            let state = &mut self.nodes[*at];
            state.requested.add(&Resources::requested_by(pod));
            state.pods.push(pod);
        }
    }

    /// In order of their names.
    pub fn nodes(&self) -> &[NodeState<'a>] {
        &self.nodes
    }

    /// All services that stay.
    pub fn services(&self) -> &[&'a Service] {
        &self.services
    }
}
