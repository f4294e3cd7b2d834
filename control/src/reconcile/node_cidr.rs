//! Gives each node a range of pod addresses of its own, once.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use causeway_proto::{
    Kind, Resource,
    event::EventType,
    time,
    v1::{Condition, Node},
};

use super::{
    driver::{Pass, ReconcileError, Reconciler},
    events::EventRecorder,
    objects::{condition_status, set_condition, typed},
};
use crate::{api::Registry, cidr::Cidr};

const COMPONENT: &str = "cidr-allocator";
/// True while the node has no pod range.
const CONDITION: &str = "NetworkUnavailable";
const EXHAUSTED: &str = "CIDRNotAvailable";

/// The reconciler.
pub struct NodeCidrAllocator {
    registry: Registry,
    events: EventRecorder,
    /// One for each family.
    pools: Vec<Pool>,
    /// Ranges given but not yet seen on the node, by node uid.
    given: Mutex<BTreeMap<String, Vec<Cidr>>>,
}

/// Where node ranges come from.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    cluster: Cidr,
    node_prefix_len: u8,
}

/// Why a pool is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's pod range of length /{node} does not fit the cluster's range {cluster}")]
pub struct PoolError {
    cluster: Cidr,
    node: u8,
}

impl Pool {
    /// Ranges of `node_prefix_len` within the cluster's range.
    pub fn new(cluster: Cidr, node_prefix_len: u8) -> Result<Self, PoolError> {
        // A node needs its router address and at least one for a pod.
        if node_prefix_len < cluster.prefix_len() || node_prefix_len > cluster.family().bits() - 2 {
            return Err(PoolError {
                cluster,
                node: node_prefix_len,
            });
        }
        Ok(Self {
            cluster,
            node_prefix_len,
        })
    }

    /// All ranges, in order.
    fn ranges(&self) -> impl Iterator<Item = Cidr> {
        let prefix_len = self.node_prefix_len;
        let size = 1_u128 << (self.cluster.family().bits() - prefix_len);
        let count = 1_u128 << (prefix_len - self.cluster.prefix_len()).min(127);
        (0..count).filter_map(move |index| Cidr::new(self.cluster.address(index * size)?, prefix_len))
    }
}

/// What to do for a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Give it ranges.
    Assign {
        /// The node.
        node: Box<Node>,
        /// One of each pool.
        ranges: Vec<Cidr>,
    },
    /// Say that there is none left.
    Refuse {
        /// The node.
        node: Box<Node>,
        /// What to say.
        message: String,
    },
    /// It has one: take back that there is none.
    Clear(Box<Node>),
    /// Two nodes have overlapping ranges; only a person can decide which is to go.
    Report {
        /// The younger of them.
        node: Box<Node>,
        /// What to say.
        message: String,
    },
}

fn ranges_of(node: &Node) -> Vec<Cidr> {
    let spec = node.spec.as_ref();
    let single = spec
        .into_iter()
        .map(|spec| &spec.pod_cidr)
        .filter(|range| !range.is_empty());
    let texts = single.chain(spec.into_iter().flat_map(|spec| &spec.pod_cidrs));
    let mut ranges: Vec<Cidr> = texts.filter_map(|range| range.parse().ok()).collect();
    ranges.dedup();
    ranges
}

/// Plans for all nodes. A node with a range keeps it. `given` are ranges that nodes have but do not show yet.
pub fn plan<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    pools: &[Pool],
    given: &BTreeMap<String, Vec<Cidr>>,
) -> BTreeMap<String, Work> {
    let mut work = BTreeMap::new();
    let mut nodes: Vec<&Node> = nodes.into_iter().collect();
    let age = |node: &Node| {
        node.meta()
            .creation_timestamp
            .map_or((0, 0), |time| (time.seconds, time.nanos))
    };
    nodes.sort_by_cached_key(|node| (age(node), node.meta().name.clone()));
    let mut used: BTreeMap<IpAddr, (Cidr, &str)> = BTreeMap::new();
    for node in &nodes {
        let name = node.meta().name.as_str();
        for range in ranges_of(node) {
            match overlapping(&used, range) {
                Some((other, owner)) => {
                    let message = format!("pod range {range} overlaps {other} of node {owner}");
                    work.insert(
                        name.to_owned(),
                        Work::Report {
                            node: Box::new((*node).clone()),
                            message,
                        },
                    );
                }
                None => {
                    used.insert(range.network(), (range, name));
                }
            }
        }
    }
    for range in given.values().flatten() {
        used.insert(range.network(), (*range, ""));
    }
    let mut free: Vec<_> = pools
        .iter()
        .map(|pool| {
            pool.ranges()
                .filter(|range| overlapping(&used, *range).is_none())
                .peekable()
        })
        .collect();
    for node in nodes.into_iter().filter(|node| !node.meta().is_terminating()) {
        let conditions = node
            .status
            .as_ref()
            .map_or(&[][..], |status| status.conditions.as_slice());
        let complains = condition_status(conditions, CONDITION) == "True";
        let key = node.meta().name.clone();
        let node_box = || Box::new(node.clone());
        if !ranges_of(node).is_empty() {
            if complains {
                work.entry(key).or_insert_with(|| Work::Clear(node_box()));
            }
        } else if given.contains_key(&node.meta().uid) {
            // On its way.
        } else if let Some(empty) = free.iter_mut().position(|ranges| ranges.peek().is_none()) {
            if complains {
                continue;
            }
            let pool = &pools[empty];
            let message = format!(
                "no range of length /{} is left in {}",
                pool.node_prefix_len, pool.cluster
            );
            work.insert(
                key,
                Work::Refuse {
                    node: node_box(),
                    message,
                },
            );
        } else {
            let ranges = free.iter_mut().filter_map(Iterator::next).collect();
            work.insert(
                key,
                Work::Assign {
                    node: node_box(),
                    ranges,
                },
            );
        }
    }
    work
}

/// The entry that shares addresses with a range. Entries do not overlap each other, so only the neighbours matter.
fn overlapping<'n>(used: &BTreeMap<IpAddr, (Cidr, &'n str)>, range: Cidr) -> Option<(Cidr, &'n str)> {
    let before = used.range(..=range.network()).next_back();
    let after = used.range(range.network()..).next();
    before
        .into_iter()
        .chain(after)
        .map(|(_, entry)| *entry)
        .find(|(other, _)| other.overlaps(&range))
}

impl NodeCidrAllocator {
    /// Works through the registry.
    pub fn new(registry: Registry, events: &EventRecorder, pools: Vec<Pool>) -> Self {
        Self {
            registry,
            events: events.named(COMPONENT),
            pools,
            given: Mutex::default(),
        }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Cidr>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn assign(&self, mut node: Node, ranges: &[Cidr]) -> Result<(), ReconcileError> {
        let (name, uid) = (node.meta().name.clone(), node.meta().uid.clone());
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidrs = ranges.iter().map(ToString::to_string).collect();
        spec.pod_cidr = spec.pod_cidrs.first().cloned().unwrap_or_default();
        let range = spec.pod_cidrs.join(", ");
        let result = self.registry.update(node.into_object(), false).await;
        match &result {
            // The node did not change, so the range is free again.
            Err(error) if error.is_conflict() || error.is_not_found() => {
                self.given().remove(&uid);
            }
            Ok(_) => tracing::info!(node = name, range, "pod range given"),
            // Whether it was written is not known: it stays reserved until the node shows a range or is gone.
            Err(_) => {}
        }
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("giving node {name} the pod range {range}")))
    }

    async fn set_unavailable(
        &self,
        mut node: Node,
        status: &str,
        reason: &str,
        message: String,
    ) -> Result<(), ReconcileError> {
        let name = node.meta().name.clone();
        let condition = Condition {
            r#type: CONDITION.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Some(time::now()),
            ..Condition::default()
        };
        if !set_condition(&mut node.status.get_or_insert_default().conditions, condition) {
            return Ok(());
        }
        let result = self.registry.update_status(node.into_object(), false).await;
        result
            .map(drop)
            .map_err(ReconcileError::api(format!("writing the status of node {name}")))
    }
}

#[async_trait]
impl Reconciler for NodeCidrAllocator {
    type Work = Work;

    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node]
    }

    fn plan(&self) -> Pass<Work> {
        let nodes = self.registry.cache(Kind::Node).snapshot();
        let mut given = self.given();
        if !given.is_empty() {
            let waiting: std::collections::HashSet<&str> = typed::<Node>(&nodes)
                .filter(|node| ranges_of(node).is_empty())
                .map(|node| node.meta().uid.as_str())
                .collect();
            given.retain(|uid, _| waiting.contains(uid.as_str()));
        }
        Pass {
            work: plan(typed::<Node>(&nodes), &self.pools, &given),
            again_in: None,
        }
    }

    fn begin(&self, _key: &str, work: &Work) {
        if let Work::Assign { node, ranges } = work {
            self.given().insert(node.meta().uid.clone(), ranges.clone());
        }
    }

    async fn execute(&self, _key: &str, work: Work) -> Result<(), ReconcileError> {
        match work {
            Work::Assign { node, ranges } => self.assign(*node, &ranges).await,
            Work::Refuse { node, message } => {
                self.events
                    .record(&*node, EventType::Warning, EXHAUSTED, message.clone());
                self.set_unavailable(*node, "True", EXHAUSTED, message).await
            }
            Work::Clear(node) => {
                self.set_unavailable(*node, "False", "PodCIDRAssigned", "the node has a pod range".to_owned())
                    .await
            }
            Work::Report { node, message } => {
                self.events.record(&*node, EventType::Warning, "CIDROverlap", message);
                // Said again with the next full pass, not at once.
                Err(ReconcileError::NotYet("nodes with overlapping pod ranges".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{NodeSpec, NodeStatus};
    use proptest::prelude::*;

    use super::*;

    fn pool(cluster: &str, length: u8) -> Pool {
        Pool::new(cluster.parse().expect("range"), length).expect("fits")
    }

    fn node(name: &str, range: &str) -> Node {
        let mut node = Node {
            spec: Some(NodeSpec {
                pod_cidr: range.into(),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        (node.meta_mut().name, node.meta_mut().uid) = (name.into(), format!("uid-{name}"));
        node
    }

    fn texts(ranges: &[Cidr]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    fn assigned(work: &BTreeMap<String, Work>) -> Vec<(&str, String)> {
        let ranges = work.iter().filter_map(|(name, work)| match work {
            Work::Assign { ranges, .. } => Some((name.as_str(), texts(ranges).join(","))),
            _ => None,
        });
        ranges.collect()
    }

    #[test]
    fn nodes_get_the_lowest_free_ranges_and_keep_theirs() {
        let nodes = [node("a", "10.244.1.0/24"), node("b", ""), node("c", "")];
        let work = plan(&nodes, &[pool("10.244.0.0/16", 24)], &BTreeMap::new());
        assert_eq!(
            assigned(&work),
            [("b", "10.244.0.0/24".into()), ("c", "10.244.2.0/24".into())]
        );
    }

    #[test]
    fn a_range_on_its_way_is_not_given_twice() {
        let given = BTreeMap::from([("uid-b".to_owned(), vec!["10.244.0.0/24".parse().expect("range")])]);
        let nodes = [node("a", ""), node("b", "")];
        let work = plan(&nodes, &[pool("10.244.0.0/16", 24)], &given);
        assert_eq!(assigned(&work), [("a", "10.244.1.0/24".into())]);
    }

    #[test]
    fn ranges_of_another_size_block_all_that_they_touch() {
        let nodes = [
            node("a", "10.244.0.0/23"),
            node("b", "10.244.2.128/25"),
            node("c", "192.168.0.0/24"),
            node("d", ""),
        ];
        let work = plan(&nodes, &[pool("10.244.0.0/16", 24)], &BTreeMap::new());
        assert_eq!(assigned(&work), [("d", "10.244.3.0/24".into())]);
    }

    #[test]
    fn an_exhausted_pool_is_told_once_and_taken_back() {
        let pool = [pool("10.244.0.0/24", 25)];
        let mut nodes = vec![node("a", "10.244.0.0/25"), node("b", "10.244.0.128/25"), node("c", "")];
        let work = plan(&nodes, &pool, &BTreeMap::new());
        let Work::Refuse { message, .. } = &work["c"] else {
            panic!("{work:?}")
        };
        assert_eq!(message, "no range of length /25 is left in 10.244.0.0/24");
        let complaint = Condition {
            r#type: CONDITION.into(),
            status: "True".into(),
            ..Condition::default()
        };
        nodes[2].status = Some(NodeStatus {
            conditions: vec![complaint],
            ..NodeStatus::default()
        });
        assert!(plan(&nodes, &pool, &BTreeMap::new()).is_empty());
        nodes.remove(0);
        assert_eq!(
            assigned(&plan(&nodes, &pool, &BTreeMap::new())),
            [("c", "10.244.0.0/25".into())]
        );
        nodes[1].spec.as_mut().expect("spec").pod_cidr = "10.244.0.0/25".into();
        assert!(matches!(plan(&nodes, &pool, &BTreeMap::new())["c"], Work::Clear(_)));
    }

    #[test]
    fn overlaps_are_reported_on_the_younger_node() {
        let mut older = node("z", "10.244.0.0/24");
        older.meta_mut().creation_timestamp = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let mut younger = node("a", "10.244.0.0/24");
        younger.meta_mut().creation_timestamp = Some(prost_types::Timestamp { seconds: 2, nanos: 0 });
        let work = plan([&younger, &older], &[pool("10.244.0.0/16", 24)], &BTreeMap::new());
        assert!(
            matches!(&work["a"], Work::Report { message, .. } if message.contains("of node z")),
            "{work:?}"
        );
        assert_eq!(work.len(), 1);
    }

    #[test]
    fn a_pool_has_room_for_nodes() {
        let cluster = "10.244.0.0/24".parse().expect("range");
        assert!(Pool::new(cluster, 16).is_err());
        assert!(Pool::new(cluster, 31).is_err());
        assert_eq!(pool("10.244.0.0/24", 24).ranges().count(), 1);
        assert_eq!(pool("10.244.0.0/16", 24).ranges().count(), 256);
    }

    #[test]
    fn a_node_gets_a_range_of_each_family_or_none() {
        let both = [pool("10.244.0.0/16", 24), pool("fd00:244::/48", 64)];
        let mut first = node("a", "10.244.0.0/24");
        first.spec.as_mut().expect("spec").pod_cidrs = vec!["10.244.0.0/24".into(), "fd00:244::/64".into()];
        let nodes = [first, node("b", "")];
        assert_eq!(
            assigned(&plan(&nodes, &both, &BTreeMap::new())),
            [("b", "10.244.1.0/24,fd00:244:0:1::/64".into())]
        );
        let narrow = [pool("10.244.0.0/16", 24), pool("fd00:244::/64", 64)];
        let work = plan(&nodes, &narrow, &BTreeMap::new());
        assert!(
            matches!(&work["b"], Work::Refuse { message, .. } if message == "no range of length /64 is left in fd00:244::/64"),
            "{work:?}"
        );
    }

    proptest! {
        /// However nodes come and go, no two have addresses in common.
        #[test]
        fn ranges_never_overlap(steps in prop::collection::vec((0..12_u8, any::<bool>()), 1..60)) {
            let pool = [pool("10.244.0.0/20", 23)];
            let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
            for (number, comes) in steps {
                let name = format!("n{number}");
                if comes {
                    nodes.entry(name.clone()).or_insert_with(|| node(&name, ""));
                } else {
                    nodes.remove(&name);
                }
                for (name, work) in plan(nodes.values(), &pool, &BTreeMap::new()) {
                    if let Work::Assign { ranges, .. } = work {
                        nodes.insert(name.clone(), node(&name, &ranges[0].to_string()));
                    }
                }
                let ranges: Vec<Cidr> = nodes.values().flat_map(ranges_of).collect();
                prop_assert_eq!(ranges.len(), nodes.len().min(8));
                for (at, range) in ranges.iter().enumerate() {
                    prop_assert!(ranges[..at].iter().all(|other| !other.overlaps(range)));
                }
            }
        }
    }
}
