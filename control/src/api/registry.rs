//! The one door to objects: rules of reading and writing them, over the store and the watch cache.
//!
//! Reads come from the cache; every write that was answered is in it. Writes read what they are based on from the store and
//! commit by compare-and-swap.

use std::{sync::Arc, time::Duration};

use causeway_proto::{
    Kind, Resource,
    v1::{self, Object},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    ApiError,
    options::{ListOptions, ObjectList, WatchOptions, continue_token, parse_continue_token},
    pools::Pools,
    stored,
};
use crate::{
    admission::Settings,
    cache::{self, Filter, Forgotten, KindCache, Watch},
    cidr::Cidr,
    port_range::PortRange,
    store::{Revision, Store},
};

/// Namespaces that always exist: for users, for what belongs to the cluster (as in Kubernetes' manifests), for heartbeats of nodes.
pub const NAMESPACES: &[&str] = &[DEFAULT_NAMESPACE, "kube-system", "causeway-node-lease"];
/// Where objects of namespaced kinds go that name no namespace.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What a registry can be told.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Where VIPs come from.
    pub service_cidr: Cidr,
    /// Where VIPs of the other family come from.
    pub secondary_service_cidr: Option<Cidr>,
    /// Where node ports come from.
    pub node_ports: PortRange,
    /// Where load-balancer addresses come from; none for clusters whose load balancers are somebody else's.
    pub load_balancer_ranges: Vec<Cidr>,
    /// Changes kept per kind.
    pub window: usize,
    /// Time between bookmarks of a watch.
    pub bookmark_interval: Duration,
    /// How long a read waits for a cache to be filled or to catch up.
    pub cache_timeout: Duration,
}

impl RegistryOptions {
    /// The defaults, with this service range.
    pub fn new(service_cidr: Cidr) -> Self {
        Self {
            service_cidr,
            secondary_service_cidr: None,
            node_ports: PortRange::NODE_PORTS,
            load_balancer_ranges: Vec::new(),
            window: cache::DEFAULT_WINDOW,
            bookmark_interval: Duration::from_secs(15),
            cache_timeout: Duration::from_secs(5),
        }
    }
}

/// Objects of all kinds. Cheap to clone; the caches follow the store until the last clone is dropped or `stop` is called.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    caches: Vec<Arc<KindCache>>,
    settings: Settings,
    pools: Pools,
    options: RegistryOptions,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Registry {
    /// Begins to fill the caches. Call within a tokio runtime.
    pub fn start(store: Arc<dyn Store>, options: RegistryOptions) -> Self {
        let stop = CancellationToken::new();
        let caches: Vec<_> = Kind::ALL
            .iter()
            .map(|kind| Arc::new(KindCache::new(*kind, options.window)))
            .collect();
        for cache in &caches {
            tokio::spawn(cache::follow(cache.clone(), store.clone(), stop.clone()));
        }
        let mut service_ranges = vec![options.service_cidr];
        service_ranges.extend(options.secondary_service_cidr);
        let pools = Pools::new(&service_ranges, &options.load_balancer_ranges, options.node_ports);
        let settings = Settings {
            service_ranges,
            node_ports: options.node_ports,
        };
        let inner = Inner {
            store,
            caches,
            settings,
            pools,
            options,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Creates what always exists, and remembers which addresses and node ports are taken. Fails while the store is away: call it again.
    pub async fn bootstrap(&self) -> Result<(), ApiError> {
        for name in NAMESPACES {
            let mut namespace = v1::Namespace::default();
            (*name).clone_into(&mut namespace.meta_mut().name);
            match self.create(namespace.into_object(), false).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        self.pools().reload(self.store()).await?;
        for cache in self.caches() {
            self.wait_synced(cache).await?;
        }
        Ok(())
    }

    /// Ends all watches and the caches' work; reads go on with what is known.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// The store, for writes and for health.
    pub fn store(&self) -> &dyn Store {
        self.inner.store.as_ref()
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.inner.pools
    }

    /// What rules of objects depend on.
    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Where load-balancer addresses come from.
    pub fn load_balancer_ranges(&self) -> &[Cidr] {
        &self.inner.options.load_balancer_ranges
    }

    /// All caches, in registry order of their kinds.
    pub fn caches(&self) -> &[Arc<KindCache>] {
        &self.inner.caches
    }

    /// The watch cache of a kind: level-triggered readers (reconcilers) take snapshots of it.
    pub fn cache(&self, kind: Kind) -> &KindCache {
        self.shared_cache(kind)
    }

    fn shared_cache(&self, kind: Kind) -> &Arc<KindCache> {
        self.inner
            .caches
            .iter()
            .find(|cache| cache.kind() == kind)
            .expect("there is a cache for each of Kind::ALL")
    }

    /// The object as the cache knows it, which includes every write that this process has answered.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        let cache = self.cache(kind);
        self.wait_synced(cache).await?;
        let namespace = namespace_of(kind, namespace);
        let found = cache.get(namespace, name);
        found.ok_or_else(|| ApiError::NotFound {
            kind,
            key: key_of(namespace, name),
        })
    }

    /// A page of objects.
    pub async fn list(&self, kind: Kind, options: &ListOptions) -> Result<ObjectList, ApiError> {
        let filter = parse_filter(
            kind,
            &options.namespace,
            &options.label_selector,
            &options.field_selector,
        )?;
        let cache = self.cache(kind);
        self.wait_synced(cache).await?;
        let (at, after) = match options.continue_token.as_str() {
            "" => (None, None),
            token => {
                let (revision, name) = parse_continue_token(token)?;
                (Some(revision), Some(name))
            }
        };
        let expired = |Forgotten { oldest }| ApiError::Expired {
            kind,
            requested: at.unwrap_or_default(),
            oldest,
        };
        let (page, revision) = cache
            .page(at, after.as_ref(), options.limit, &filter)
            .map_err(expired)?;
        let continue_token = page
            .next_after
            .map(|name| continue_token(revision, &name))
            .unwrap_or_default();
        Ok(ObjectList {
            revision,
            continue_token,
            items: page.items,
        })
    }

    /// Changes of objects.
    pub async fn watch(&self, kind: Kind, options: &WatchOptions) -> Result<Watch, ApiError> {
        let filter = parse_filter(
            kind,
            &options.namespace,
            &options.label_selector,
            &options.field_selector,
        )?;
        let cache = self.shared_cache(kind);
        self.wait_synced(cache).await?;
        let revision = options.revision.filter(|revision| *revision > 0);
        if let Some(requested) = revision {
            self.refuse_future(cache, requested).await?;
        }
        let stop = self.inner.stop.child_token();
        Watch::new(
            cache.clone(),
            filter,
            revision,
            self.inner.options.bookmark_interval,
            stop,
        )
    }

    /// A revision beyond the store's last one is from another life of the store: waiting for it would be silence for ever.
    async fn refuse_future(&self, cache: &KindCache, requested: Revision) -> Result<(), ApiError> {
        if requested <= cache.revision() {
            return Ok(());
        }
        match self.store().revision().await {
            Ok(last) if requested > last => Err(ApiError::FutureRevision {
                kind: cache.kind(),
                requested,
                last,
            }),
            _ => Ok(()),
        }
    }

    async fn wait_synced(&self, cache: &KindCache) -> Result<(), ApiError> {
        if cache.is_synced() {
            return Ok(());
        }
        let bound = self.inner.options.cache_timeout;
        let waited = tokio::time::timeout(bound, cache.synced()).await;
        let Err(_) = waited else { return Ok(()) };
        self.store().health().await?;
        Err(ApiError::Unavailable(format!(
            "the first list of {} is still under way",
            cache.kind().plural()
        )))
    }

    /// After a write: returns when lists show it. The write is done, so a slow cache is only told in the log.
    pub(super) async fn wait_written(&self, kind: Kind, revision: Revision) {
        let cache = self.cache(kind);
        if !cache.is_synced() {
            return;
        }
        let reached = cache.reached(revision, self.inner.options.cache_timeout);
        if self.inner.stop.run_until_cancelled(reached).await == Some(false) {
            tracing::warn!(%kind, revision, cached = cache.revision(), "watch cache does not follow the store");
        }
    }
}

fn parse_filter(kind: Kind, namespace: &str, labels: &str, fields: &str) -> Result<Filter, ApiError> {
    Filter::parse(kind, namespace, labels, fields).map_err(|(field, error)| ApiError::BadRequest {
        field,
        reason: error.to_string(),
    })
}

/// The namespace under which an object is stored.
pub(super) fn namespace_of(kind: Kind, namespace: &str) -> &str {
    match (kind.namespaced(), namespace) {
        (false, _) => "",
        (true, "") => DEFAULT_NAMESPACE,
        (true, namespace) => namespace,
    }
}

/// `namespace/name`, as errors show it.
pub(super) fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// An object with what a compare-and-swap needs.
pub(super) struct Present {
    pub(super) object: Object,
    pub(super) revision: Revision,
    pub(super) key: String,
}

impl Registry {
    /// Reads from the store what a write is based on.
    pub(super) async fn present(&self, kind: Kind, namespace: &str, name: &str) -> Result<Present, ApiError> {
        let namespace = namespace_of(kind, namespace);
        let key = stored::key(kind, namespace, name);
        let Some(found) = self.store().get(&key).await? else {
            return Err(ApiError::NotFound {
                kind,
                key: key_of(namespace, name),
            });
        };
        let object = stored::decode(&key, &found.value, found.mod_revision)?;
        Ok(Present {
            object,
            revision: found.mod_revision,
            key,
        })
    }
}
