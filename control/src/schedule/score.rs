//! Which of the possible nodes is best. Compared in this order: fewer soft taints, fewer replicas of the same controller or service, more left
//! of the scarcer resources, fewer pods, the name. So replicas spread evenly whatever else runs, and ties are decided the same way
//! every time.

use causeway_proto::{
    Resource,
    quantity::Amount,
    v1::{Pod, Service},
};

use super::{NodeState, Resources, Snapshot, filter};
use crate::reconcile::objects::selects;

/// What a pod that asks for nothing is taken to use when loads are compared (Kubernetes' `GetNonzeroRequests`).
const DEFAULT_CPU: Amount = Amount::from_milli(100);
const DEFAULT_MEMORY: Amount = Amount::from_bytes(200 << 20);

/// Tells which pods are replicas of the same thing as a given one.
pub(super) struct Spread<'a> {
    namespace: &'a str,
    controller: Option<&'a str>,
    services: Vec<&'a Service>,
}

impl<'a> Spread<'a> {
    pub(super) fn of(pod: &'a Pod, snapshot: &Snapshot<'a>) -> Self {
        let meta = pod.meta();
        let services = snapshot.services().iter().copied().filter(|service| {
            let selector = service.spec.as_ref().map(|spec| &spec.selector);
            service.meta().namespace == meta.namespace && selector.is_some_and(|selector| selects(selector, meta))
        });
        Self {
            namespace: &meta.namespace,
            controller: meta.controller().map(|owner| owner.uid.as_str()),
            services: services.collect(),
        }
    }

    fn is_replica(&self, pod: &Pod) -> bool {
        let meta = pod.meta();
        if meta.namespace != self.namespace || meta.is_terminating() {
            return false;
        }
        if let Some(uid) = self.controller
            && meta.controller().is_some_and(|owner| owner.uid == uid)
        {
            return true;
        }
        let selectors = self
            .services
            .iter()
            .filter_map(|service| service.spec.as_ref())
            .map(|spec| &spec.selector);
        selectors.into_iter().any(|selector| selects(selector, meta))
    }
}

/// Less is better.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score<'n> {
    soft_taints: usize,
    replicas: usize,
    /// Load with the pod, in thousandths of what the node has, averaged over CPU and memory.
    load: i128,
    pods: usize,
    name: &'n str,
}

impl<'n> Score<'n> {
    pub(super) fn of(pod: &Pod, requested: &Resources, node: &NodeState<'n>, spread: &Spread<'_>) -> Self {
        let taints = node.node().spec.iter().flat_map(|spec| &spec.taints);
        let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule" && !filter::is_tolerated(pod, taint));
        Self {
            soft_taints: soft.count(),
            replicas: node.pods().iter().filter(|other| spread.is_replica(other)).count(),
            load: load(requested, node),
            pods: node.pods().len(),
            name: node.name(),
        }
    }
}

fn load(requested: &Resources, node: &NodeState<'_>) -> i128 {
    let share = |name: &str, default: Amount| {
        let of = |resources: &Resources| resources.get(name).filter(|amount| !amount.is_zero());
        let silent = node
            .pods()
            .iter()
            .filter(|pod| of(&Resources::requested_by(pod)).is_none())
            .count();
        let silent = (0..silent).map(|_| default);
        let used: Amount = silent
            .chain(of(node.requested()))
            .chain([of(requested).unwrap_or(default)])
            .sum();
        let allocatable = node.allocatable().get(name).map_or(0, Amount::milli);
        if allocatable <= 0 {
            1000
        } else {
            used.milli() * 1000 / allocatable
        }
    };
    i128::midpoint(share("cpu", DEFAULT_CPU), share("memory", DEFAULT_MEMORY))
}
