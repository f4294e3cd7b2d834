//! The data path's own counters, read when they are asked for.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use causeway_abi::backend::IN_USE;
use causeway_maps::{MapsError, PinnedMaps};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::bpf::Datapath;

/// Counting a map's entries takes a system call for each: at most this often.
const OCCUPANCY_INTERVAL: Duration = Duration::from_secs(10);

/// Reads the pinned maps on each scrape.
pub struct DatapathMetrics {
    datapath: Datapath,
    pin_dir: PathBuf,
    occupancy: Mutex<Option<(Instant, Occupancy)>>,
}

/// Entries and room of each map, by name.
type Occupancy = BTreeMap<&'static str, (u64, u64)>;

impl fmt::Debug for DatapathMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatapathMetrics")
            .field("pin_dir", &self.pin_dir)
            .finish_non_exhaustive()
    }
}

impl DatapathMetrics {
    /// Metrics of the maps pinned below `pin_dir`.
    pub fn new(datapath: Datapath, pin_dir: PathBuf) -> Self {
        Self {
            datapath,
            pin_dir,
            occupancy: Mutex::default(),
        }
    }

    fn occupancy(&self) -> Option<Occupancy> {
        let mut cached = self.occupancy.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((at, occupancy)) if at.elapsed() < OCCUPANCY_INTERVAL => Some(occupancy.clone()),
            _ => {
                let fresh = count(&self.pin_dir)
                    .inspect_err(|error| {
                        tracing::warn!(error = crate::reconcile::pods::chain(error), "maps not counted");
                    })
                    .ok()?;
                *cached = Some((Instant::now(), fresh.clone()));
                Some(fresh)
            }
        }
    }
}

fn count(pin_dir: &std::path::Path) -> Result<Occupancy, MapsError> {
    let maps = PinnedMaps::open(pin_dir)?;
    let backends =
        (0..maps.backends.len()).filter(|index| maps.backends.flags(*index).is_some_and(|f| f & IN_USE != 0));
    let sizes = [
        ("services", maps.services.entries()?.len(), maps.services.max_entries()),
        ("backends", backends.count(), maps.backends.len()),
        ("pods", maps.pods.entries()?.len(), maps.pods.max_entries()),
        (
            "conntrack",
            maps.conntrack.entries()?.len(),
            maps.conntrack.max_entries(),
        ),
        (
            "conntrack_new",
            maps.conntrack_new.entries()?.len(),
            maps.conntrack_new.max_entries(),
        ),
        (
            "socket_replies",
            maps.socket_replies.entries()?.len(),
            maps.socket_replies.max_entries(),
        ),
    ];
    Ok(sizes
        .into_iter()
        .map(|(name, used, room)| (name, (used as u64, u64::from(room))))
        .collect())
}

impl Collector for DatapathMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let traffic = self.datapath.service_traffic().unwrap_or_default();
        let sum = |field: fn(&causeway_abi::counter::ServiceCounters) -> u64| {
            traffic
                .iter()
                .map(|service| field(&service.counters))
                .fold(0_u64, u64::wrapping_add)
        };
        for (name, help, value) in [
            (
                "service_connections",
                "Connections to services that were given a backend",
                sum(|c| c.connections),
            ),
            (
                "service_packets",
                "Packets to and from services that were translated one by one",
                sum(|c| c.packets),
            ),
            ("service_bytes", "Bytes of those packets", sum(|c| c.bytes)),
            (
                "service_drops",
                "Connections and packets to services that were refused",
                sum(|c| c.drops),
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        if let Ok(drops) = self.datapath.drops() {
            let first = ConstCounter::new(0_u64);
            let help = "Packets and connections dropped, by reason";
            let mut family = encoder.encode_descriptor("drops", help, None, first.metric_type())?;
            for (reason, counters) in drops {
                ConstCounter::new(counters.packets).encode(family.encode_family(&[("reason", reason.name())])?)?;
            }
        }
        let occupancy = self.occupancy().unwrap_or_default();
        for (name, help, pick) in [
            (
                "map_entries",
                "Entries in a BPF map",
                (|of| of.0) as fn(&(u64, u64)) -> u64,
            ),
            ("map_capacity", "Entries a BPF map has room for", |of| of.1),
        ] {
            let first = ConstGauge::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, first.metric_type())?;
            for (map, sizes) in &occupancy {
                ConstGauge::new(pick(sizes)).encode(family.encode_family(&[("map", *map)])?)?;
            }
        }
        Ok(())
    }
}
