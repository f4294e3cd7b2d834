//! The data path's own counters, read when they are asked for.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use causeway_abi::{
    backend::{IN_USE, READY, TERMINATING},
    counter::{DropCounters, ServiceCounters},
};
use causeway_maps::{
    MapsError, PerCpuSum as _, PinnedMaps,
    view::{self, MapView},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::bpf::{Datapath, ServiceTraffic};

/// Counting a map's entries takes a system call for each: at most this often.
const OCCUPANCY_INTERVAL: Duration = Duration::from_secs(10);

/// Services that have time series of their own.
const SERVICES_BY_NAME: usize = 500;
/// Label of all others together.
const OTHER: &str = "other";

/// Reads the pinned maps on each scrape.
pub struct DatapathMetrics {
    datapath: Datapath,
    pin_dir: PathBuf,
    occupancy: Mutex<Option<(Instant, Occupancy)>>,
}

/// What takes long enough to count that it is kept for a while.
#[derive(Clone, Debug)]
struct Occupancy {
    maps: Vec<MapView>,
    backends: BTreeMap<&'static str, u64>,
    events_lost: u64,
}

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
    let mut backends = BTreeMap::from([("ready", 0), ("not_ready", 0), ("terminating", 0)]);
    for flags in (0..maps.backends.len()).filter_map(|index| maps.backends.flags(index)) {
        if flags & IN_USE != 0 {
            *backends.entry(backend_state(flags)).or_default() += 1;
        }
    }
    Ok(Occupancy {
        maps: view::inventory(&maps)?,
        backends,
        events_lost: maps.events_lost.sum(0)?,
    })
}

/// Label of a backend with these flags.
fn backend_state(flags: u32) -> &'static str {
    if flags & TERMINATING != 0 {
        "terminating"
    } else if flags & READY != 0 {
        "ready"
    } else {
        "not_ready"
    }
}

/// Counters by service: the busiest by name, the rest together. So the number of time series has a bound, and sums are whole.
fn by_service(mut traffic: Vec<ServiceTraffic>) -> Vec<(String, ServiceCounters)> {
    traffic.sort_by(|a, b| {
        let of = |one: &ServiceTraffic| (one.counters.connections, one.counters.packets, one.counters.drops);
        of(b).cmp(&of(a)).then_with(|| a.name.cmp(&b.name))
    });
    let rest = traffic.split_off(traffic.len().min(SERVICES_BY_NAME));
    let mut labelled: Vec<_> = traffic.into_iter().map(|one| (one.name, one.counters)).collect();
    if !rest.is_empty() {
        let sum = rest
            .into_iter()
            .fold(ServiceCounters::default(), |sum, one| sum.plus(one.counters));
        labelled.push((OTHER.to_owned(), sum));
    }
    labelled
}

/// A family of metrics that are made from values of one type: name, help text, and what picks theirs.
struct Family<T, V = u64> {
    name: &'static str,
    help: &'static str,
    pick: fn(&T) -> V,
}

const fn family<T, V>(name: &'static str, help: &'static str, pick: fn(&T) -> V) -> Family<T, V> {
    Family { name, help, pick }
}

const BY_SERVICE: [Family<ServiceCounters>; 4] = [
    family(
        "service_connections",
        "Connections to services that were given a backend",
        |c| c.connections,
    ),
    family(
        "service_packets",
        "Packets to and from services that were translated one by one; sockets that were given a backend send past this",
        |c| c.packets,
    ),
    family(
        "service_bytes",
        "Bytes of the packets that were translated one by one",
        |c| c.bytes,
    ),
    family(
        "service_drops",
        "Connections and packets to services that were refused or dropped",
        |c| c.drops,
    ),
];

impl Collector for DatapathMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let services = by_service(self.datapath.service_traffic().unwrap_or_default());
        for Family { name, help, pick } in BY_SERVICE {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (service, counters) in &services {
                ConstCounter::new(pick(counters)).encode(family.encode_family(&[("service", service.as_str())])?)?;
            }
        }
        if let Ok(drops) = self.datapath.drops() {
            let families: [Family<DropCounters>; 2] = [
                family("drops", "Packets and connections dropped or refused, by reason", |c| {
                    c.packets
                }),
                family(
                    "drop_bytes",
                    "Bytes of the packets dropped or refused, by reason",
                    |c| c.bytes,
                ),
            ];
            for Family { name, help, pick } in families {
                let kind = ConstCounter::new(0_u64).metric_type();
                let mut family = encoder.encode_descriptor(name, help, None, kind)?;
                for (reason, counters) in &drops {
                    ConstCounter::new(pick(counters)).encode(family.encode_family(&[("reason", reason.name())])?)?;
                }
            }
        }
        let Some(occupancy) = self.occupancy() else {
            return Ok(());
        };
        occupancy.encode(encoder)
    }
}

impl Occupancy {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = || ConstGauge::new(0_u64).metric_type();
        let families: [Family<MapView, Option<u64>>; 3] = [
            family("map_entries", "Entries in a BPF map, where that can be told", |map| {
                map.entries
            }),
            family(
                "map_capacity",
                "Entries a BPF map has room for; bytes for a ring buffer",
                |map| Some(map.max_entries.into()),
            ),
            family("map_memory_bytes", "Memory that a BPF map takes", |map| {
                Some(map.memory_bytes)
            }),
        ];
        for Family { name, help, pick } in families {
            let mut family = encoder.encode_descriptor(name, help, None, gauge())?;
            for map in &self.maps {
                if let Some(value) = pick(map) {
                    let label = map.name.to_lowercase();
                    ConstGauge::new(value).encode(family.encode_family(&[("map", label.as_str())])?)?;
                }
            }
        }
        let help = "Backends of services, by whether they take connections";
        let mut family = encoder.encode_descriptor("backends", help, None, gauge())?;
        for (state, count) in &self.backends {
            ConstGauge::new(*count).encode(family.encode_family(&[("state", *state)])?)?;
        }
        let help = "Events for watchers that found the ring buffer full";
        let lost = ConstCounter::new(self.events_lost);
        lost.encode(encoder.encode_descriptor("events_lost", help, None, lost.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_beyond_the_bound_are_counted_together() {
        let one = |number: u64| ServiceTraffic {
            name: format!("default/s{number}:80"),
            counters: ServiceCounters {
                connections: number,
                ..ServiceCounters::default()
            },
        };
        let bound = SERVICES_BY_NAME as u64;
        let few = by_service((1..=bound).map(one).collect());
        assert_eq!(few.len(), SERVICES_BY_NAME);
        assert_eq!(few[0].0, format!("default/s{bound}:80"), "the busiest first");
        let many = by_service((1..=bound + 2).map(one).collect());
        let (name, rest) = many.last().unwrap();
        assert_eq!((name.as_str(), rest.connections), (OTHER, 1 + 2));
    }

    #[test]
    fn backends_have_one_state_each() {
        assert_eq!(backend_state(IN_USE | READY), "ready");
        assert_eq!(backend_state(IN_USE | READY | TERMINATING), "terminating");
        assert_eq!(backend_state(IN_USE), "not_ready");
    }
}
