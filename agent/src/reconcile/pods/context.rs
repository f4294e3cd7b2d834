//! What all workers share.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_proto::client::Client;

use super::{
    address::{Allocator, RangeFull, Ranges},
    model::Delays,
    record::Records,
    spec::NodeSettings,
};
use crate::{
    metrics::PodMetrics,
    reconcile::{events::Recorder, listings::Listings},
};

/// What all workers share.
#[derive(Debug)]
pub struct Context<M> {
    /// The node.
    pub machine: Arc<M>,
    /// The control plane.
    pub client: Client,
    /// Takes events.
    pub recorder: Recorder,
    /// The node's memory of its pods.
    pub records: Records,
    /// Pod addresses.
    pub addresses: Addresses,
    /// What holds for every pod.
    pub node: NodeSettings,
    /// Which pods the endpoints list.
    pub listings: Listings,
    /// Back-off and drain times.
    pub delays: Delays,
    /// Counters.
    pub metrics: PodMetrics,
}

/// The address allocators, one for each family, shared by all workers; what they hand out is written down by them.
#[derive(Debug)]
pub struct Addresses {
    allocators: Mutex<Vec<Allocator>>,
    cursor: PathBuf,
}

impl Addresses {
    /// Addresses of `ranges`; `owned` are taken. Where the search goes on is kept in a file in `state_dir`.
    pub fn new(ranges: &Ranges, owned: &BTreeMap<String, Vec<IpAddr>>, state_dir: &Path) -> Self {
        let cursor = state_dir.join("pod-address-cursor");
        let text = fs::read_to_string(&cursor).unwrap_or_default();
        let last: Vec<IpAddr> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let allocator = |range: super::address::Prefix| {
            let of_family = |addresses: &Vec<IpAddr>| {
                let found = addresses.iter().find(|address| address.is_ipv4() == range.is_ipv4());
                found.copied()
            };
            let owned = owned
                .iter()
                .filter_map(|(uid, addresses)| Some((uid.clone(), of_family(addresses)?)));
            Allocator::new(range, owned, of_family(&last))
        };
        Self {
            allocators: Mutex::new(ranges.iter().map(allocator).collect()),
            cursor,
        }
    }

    /// Addresses for pod `uid`, one of each of the node's families.
    pub fn allocate(&self, uid: &str) -> Result<Vec<IpAddr>, RangeFull> {
        let mut allocators = self.lock();
        let allocated: Result<Vec<_>, _> = allocators.iter_mut().map(|one| one.allocate(uid)).collect();
        if allocated.is_err() {
            for one in allocators.iter_mut() {
                one.release(uid);
            }
        }
        let addresses = allocated?;
        drop(allocators);
        let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let text = lines.join("\n") + "\n";
        // A hint only: it keeps a restarted agent from handing out the address that was released last.
        if let Err(error) = fs::write(&self.cursor, text) {
            tracing::warn!(path = %self.cursor.display(), %error, "address cursor not written");
        }
        Ok(addresses)
    }

    /// Takes the addresses of pod `uid` back.
    pub fn release(&self, uid: &str) {
        for one in self.lock().iter_mut() {
            one.release(uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Allocator>> {
        self.allocators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
