//! What all workers share.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_proto::client::Client;

use super::{
    address::{Allocator, Prefix, RangeFull},
    model::Delays,
    record::Records,
    spec::NodeSettings,
};
use crate::{metrics::PodMetrics, reconcile::events::Recorder};

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
    /// Back-off and drain times.
    pub delays: Delays,
    /// Counters.
    pub metrics: PodMetrics,
}

/// The address allocator, shared by all workers; what it hands out is written down by them.
#[derive(Debug)]
pub struct Addresses {
    allocator: Mutex<Allocator>,
    cursor: PathBuf,
}

impl Addresses {
    /// Addresses of `range`; `owned` are taken. Where the search goes on is kept in a file in `state_dir`.
    pub fn new(range: Prefix, owned: BTreeMap<String, Ipv4Addr>, state_dir: &Path) -> Self {
        let cursor = state_dir.join("pod-address-cursor");
        let last = fs::read_to_string(&cursor)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Self {
            allocator: Mutex::new(Allocator::new(range, owned, last)),
            cursor,
        }
    }

    /// An address for pod `uid`.
    pub fn allocate(&self, uid: &str) -> Result<Ipv4Addr, RangeFull> {
        let address = self.lock().allocate(uid)?;
        // A hint only: it keeps a restarted agent from handing out the address that was released last.
        if let Err(error) = fs::write(&self.cursor, address.to_string()) {
            tracing::warn!(path = %self.cursor.display(), %error, "address cursor not written");
        }
        Ok(address)
    }

    /// Takes the address of pod `uid` back.
    pub fn release(&self, uid: &str) {
        self.lock().release(uid);
    }

    fn lock(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
