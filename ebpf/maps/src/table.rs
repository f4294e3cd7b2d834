//! Typed handles on the maps that are reached by system calls.

use std::{os::fd::AsFd as _, path::Path};

use aya::{
    maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray},
    sys::SyscallError,
};
use causeway_abi::{
    counter::{DropCounters, ServiceCounters},
    event::EventsLost,
};

use crate::{Data, MapsError, Plain, error::errno, shape::Shape, sys};

/// What was refused of a list: the position in it, and why.
pub type Refused = Vec<(usize, MapsError)>;

/// A hash map (plain or LRU).
#[derive(Debug)]
pub struct Table<K: Data, V: Data> {
    shape: Shape,
    max_entries: u32,
    map: HashMap<MapData, Plain<K>, Plain<V>>,
}

impl<K: Data, V: Data> Table<K, V> {
    pub(crate) fn open(shape: Shape, maps_dir: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            shape,
            max_entries: max_entries(shape, maps_dir)?,
            map: open(shape, maps_dir)?,
        })
    }

    /// The most entries it takes.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapsError> {
        found(self.shape, self.map.get(&Plain(*key), 0).map(|Plain(value)| value))
    }

    /// Sets the value of a key, new or present, in one atomic step.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), MapsError> {
        let result = self.map.insert(Plain(*key), Plain(*value), 0);
        written(self.shape, self.max_entries, result)
    }

    /// As [`insert`](Self::insert), with many keys in one system call, in this order. What is refused holds up nothing that comes
    /// after it.
    pub fn insert_all(&mut self, keys: &[K], values: &[V]) -> Refused {
        let written = |result| written(self.shape, self.max_entries, result);
        update_all(self.map.map(), keys, values, 1, written)
    }

    /// Removes a key; tells whether it was there.
    pub fn remove(&mut self, key: &K) -> Result<bool, MapsError> {
        removed(self.shape, self.map.remove(&Plain(*key)))
    }

    /// How many entries there are.
    pub fn count(&self) -> Result<u64, MapsError> {
        let mut keys = self.map.keys().take(self.max_entries as usize);
        keys.try_fold(0, |sum, key| {
            key.map_err(|source| MapsError::Read {
                map: self.shape.name,
                source,
            })?;
            Ok(sum + 1)
        })
    }

    /// All entries. Entries that come or go meanwhile may be missed, and then others may appear twice (the kernel starts
    /// over when the key it stood at is gone).
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapsError> {
        collect(self.shape, self.map.keys().take(self.max_entries as usize), |key| {
            self.get(&key.0).map(|value| (key.0, value))
        })
    }
}

/// An array of one element.
pub struct Element<V: Data> {
    shape: Shape,
    map: Array<MapData, Plain<V>>,
}

impl<V: Data> Element<V> {
    pub(crate) fn open(shape: Shape, maps_dir: &Path) -> Result<Self, MapsError> {
        let map = open(shape, maps_dir)?;
        Ok(Self { shape, map })
    }

    /// The element.
    pub fn get(&self) -> Result<V, MapsError> {
        let Plain(value) = self.map.get(&0, 0).map_err(|source| MapsError::Read {
            map: self.shape.name,
            source,
        })?;
        Ok(value)
    }

    /// Replaces the element.
    pub fn set(&mut self, value: &V) -> Result<(), MapsError> {
        self.map.set(0, Plain(*value), 0).map_err(|source| MapsError::Write {
            map: self.shape.name,
            source,
        })
    }
}

/// What can be summed over processors.
pub trait PerCpuSum: Data + Default {
    /// The sum of two.
    #[must_use]
    fn plus(self, other: Self) -> Self;
}

impl PerCpuSum for ServiceCounters {
    fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            drops: self.drops + other.drops,
        }
    }
}

impl PerCpuSum for DropCounters {
    fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl PerCpuSum for EventsLost {
    fn plus(self, other: Self) -> Self {
        self + other
    }
}

/// A per-CPU array of counters.
pub struct CounterArray<V: PerCpuSum> {
    shape: Shape,
    map: PerCpuArray<MapData, Plain<V>>,
}

impl<V: PerCpuSum> CounterArray<V> {
    pub(crate) fn open(shape: Shape, maps_dir: &Path) -> Result<Self, MapsError> {
        let map = open(shape, maps_dir)?;
        Ok(Self { shape, map })
    }

    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "BPF arrays are never empty")]
    pub fn len(&self) -> u32 {
        self.map.len()
    }

    /// Sum over all processors of one element.
    pub fn sum(&self, index: u32) -> Result<V, MapsError> {
        let values = self.map.get(&index, 0).map_err(|source| MapsError::Read {
            map: self.shape.name,
            source,
        })?;
        Ok(values.iter().fold(V::default(), |sum, Plain(value)| sum.plus(*value)))
    }

    /// Sets elements to zero on all processors.
    pub fn clear(&mut self, indexes: &[u32]) -> Refused {
        let write = |source| MapsError::Write {
            map: self.shape.name,
            source,
        };
        let processors = match aya::util::nr_cpus() {
            Ok(processors) => processors,
            Err((_, source)) => return vec![(0, write(MapError::IoError(source)))],
        };
        // The kernel takes the values of all processors side by side, each rounded up to eight bytes.
        let words = processors * size_of::<V>().div_ceil(8);
        let zero = vec![0_u64; indexes.len() * words];
        update_all(self.map.map(), indexes, &zero, words, |result| result.map_err(write))
    }
}

/// Sets keys, in this order, to values of so many of `V` each.
fn update_all<K: Data, V: Data>(
    map: &MapData,
    keys: &[K],
    values: &[V],
    per_key: usize,
    written: impl Fn(Result<(), MapError>) -> Result<(), MapsError>,
) -> Refused {
    assert_eq!(keys.len() * per_key, values.len(), "a value for each key");
    let mut refused = Refused::new();
    let mut done = 0;
    while done < keys.len() {
        let (keys, values) = (&keys[done..], &values[done * per_key..]);
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        // SAFETY: both slices have at least `count` keys and values (asserted above), in the sizes of the map: those of the shape
        // that it was opened with, or for per-CPU values those that `clear` makes.
        let result = unsafe { sys::update_batch(map.fd().as_fd(), keys.as_ptr(), values.as_ptr(), count) };
        let Err((before, io_error)) = result else {
            done += count as usize;
            continue;
        };
        done += before as usize;
        let call = "bpf_map_update_batch";
        refused.extend(
            written(Err(SyscallError { call, io_error }.into()))
                .err()
                .map(|error| (done, error)),
        );
        done += 1;
    }
    refused
}

/// Opens a pinned map in aya's form of it.
pub(crate) fn open<M: TryFrom<Map, Error = MapError>>(shape: Shape, maps_dir: &Path) -> Result<M, MapsError> {
    let map = shape.open_existing(maps_dir)?;
    map.try_into().map_err(|source| MapsError::Read {
        map: shape.name,
        source,
    })
}

pub(crate) fn max_entries(shape: Shape, maps_dir: &Path) -> Result<u32, MapsError> {
    let (_, max_entries) = shape.open_sized(maps_dir)?;
    Ok(max_entries)
}

pub(crate) fn found<V>(shape: Shape, result: Result<V, MapError>) -> Result<Option<V>, MapsError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(MapsError::Read {
            map: shape.name,
            source,
        }),
    }
}

pub(crate) fn written(shape: Shape, max_entries: u32, result: Result<(), MapError>) -> Result<(), MapsError> {
    result.map_err(|source| match errno(&source) {
        // E2BIG from hash maps, ENOSPC from tries (kernel/bpf/{hashtab,lpm_trie}.c).
        Some(libc::E2BIG | libc::ENOSPC) => MapsError::Full {
            map: shape.name,
            max_entries,
        },
        _ => MapsError::Write {
            map: shape.name,
            source,
        },
    })
}

pub(crate) fn removed(shape: Shape, result: Result<(), MapError>) -> Result<bool, MapsError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(source) if errno(&source) == Some(libc::ENOENT) => Ok(false),
        Err(source) => Err(MapsError::Write {
            map: shape.name,
            source,
        }),
    }
}

pub(crate) fn collect<A, K, V>(
    shape: Shape,
    keys: impl Iterator<Item = Result<A, MapError>>,
    read: impl Fn(A) -> Result<(K, Option<V>), MapsError>,
) -> Result<Vec<(K, V)>, MapsError> {
    let mut entries = Vec::new();
    for key in keys {
        let key = key.map_err(|source| MapsError::Read {
            map: shape.name,
            source,
        })?;
        // A key may be gone by the time its value is read.
        if let (key, Some(value)) = read(key)? {
            entries.push((key, value));
        }
    }
    Ok(entries)
}
