//! The maps themselves: kind, size, occupancy, memory.

use std::os::fd::AsFd as _;

use aya::maps::{MapData, MapType};
use causeway_abi::backend::IN_USE;
use serde::{Deserialize, Serialize};

use crate::{MapsError, PinnedMaps, pins, shape, shape::Shape, sys};

/// A map.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    /// Its name in the BPF object, and its pin's.
    pub name: String,
    /// The kernel's id of it.
    pub id: u32,
    /// Type, as bpftool writes it.
    pub map_type: String,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value (on each processor, where the type says so).
    pub value_bytes: u32,
    /// Entries in use; absent where that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Entries there is room for; bytes for a ring buffer; 0 without limit.
    pub max_entries: u32,
    /// Memory it takes now, in bytes, as the kernel accounts it.
    pub memory_bytes: u64,
    /// `BPF_F_*` flags.
    pub flags: Vec<String>,
}

impl MapView {
    /// Use in percent.
    pub fn percent(&self) -> Option<f64> {
        let entries = u32::try_from(self.entries?).ok()?;
        (self.max_entries > 0).then(|| f64::from(entries) * 100.0 / f64::from(self.max_entries))
    }
}

// include/uapi/linux/bpf.h, map flags
const FLAGS: [(u32, &str); 5] = [
    (1, "NO_PREALLOC"),
    (1 << 1, "NO_COMMON_LRU"),
    (1 << 7, "RDONLY_PROG"),
    (1 << 10, "MMAPABLE"),
    (1 << 11, "PRESERVE_ELEMS"),
];

fn flags(bits: u32) -> Vec<String> {
    let known = FLAGS.iter().filter(|(bit, _)| bits & bit != 0);
    let mut words: Vec<String> = known.map(|(_, word)| (*word).to_owned()).collect();
    let rest = FLAGS.iter().fold(bits, |bits, (bit, _)| bits & !bit);
    if rest != 0 {
        words.push(format!("{rest:#x}"));
    }
    words
}

/// Every map of the node, in the order of the BPF object.
pub fn inventory(maps: &PinnedMaps) -> Result<Vec<MapView>, MapsError> {
    let dir = pins::maps_dir(&maps.dir);
    let mut views = Vec::new();
    for shape in shape::ALL {
        if let Some(data) = shape.open(&dir)? {
            views.push(view(maps, shape, &data)?);
        }
    }
    Ok(views)
}

fn view(maps: &PinnedMaps, shape: Shape, data: &MapData) -> Result<MapView, MapsError> {
    let info = data.info().map_err(|source| MapsError::Read {
        map: shape.name,
        source,
    })?;
    let memory_bytes = sys::fdinfo(data.fd().as_fd(), "memlock").map_err(|source| MapsError::Memory {
        map: shape.name,
        source,
    })?;
    Ok(MapView {
        name: shape.name.to_owned(),
        id: info.id(),
        map_type: type_name(info.map_type().ok()).to_owned(),
        key_bytes: info.key_size(),
        value_bytes: info.value_size(),
        max_entries: info.max_entries(),
        memory_bytes: memory_bytes.unwrap_or(0),
        flags: flags(info.map_flags()),
        entries: entries(maps, shape)?,
    })
}

fn type_name(map_type: Option<MapType>) -> &'static str {
    match map_type {
        Some(MapType::Hash) => "hash",
        Some(MapType::Array) => "array",
        Some(MapType::PerCpuArray) => "percpu_array",
        Some(MapType::PerCpuHash) => "percpu_hash",
        Some(MapType::LruHash) => "lru_hash",
        Some(MapType::LpmTrie) => "lpm_trie",
        Some(MapType::RingBuf) => "ringbuf",
        _ => "other",
    }
}

/// Entries in use. Arrays always have all of theirs; of those that have owners, the owned ones count.
fn entries(maps: &PinnedMaps, shape: Shape) -> Result<Option<u64>, MapsError> {
    Ok(Some(match shape.name {
        "SERVICES" => maps.services.count()?,
        "SERVICE_NAMES" | "SERVICE_COUNTERS" => maps.service_names.count()?,
        "PODS" => maps.pods.count()?,
        "CONNTRACK" => maps.conntrack.count()?,
        "CONNTRACK_NEW" => maps.conntrack_new.count()?,
        "DIRECT_FLOWS" => maps.direct_flows.count()?,
        "SOCKET_ORIGINS" => maps.socket_origins.count()?,
        "SOCKET_REPLIES" => maps.socket_replies.count()?,
        "AFFINITY" => maps.affinity.count()?,
        "FRAGMENTS" => maps.fragments.count()?,
        "HELD" => maps.held.count()?,
        "ROUTES" => maps.routes.entries()?.len() as u64,
        "BACKENDS" => {
            let owned = |index: &u32| maps.backends.flags(*index).is_some_and(|flags| flags & IN_USE != 0);
            (0..maps.backends.len()).filter(owned).count() as u64
        }
        "SLOTS" => {
            let services = maps.services.entries()?;
            services.iter().map(|(_, service)| u64::from(service.slot_count)).sum()
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_names_or_numbers() {
        assert_eq!(flags(1 | 1 << 10), ["NO_PREALLOC", "MMAPABLE"]);
        assert_eq!(flags(1 << 20), ["0x100000"]);
        assert_eq!(flags(0), [""; 0]);
    }
}
