//! `SOURCE_RANGES`: whom services let in from the network.

use std::path::Path;

use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use causeway_abi::{Address, service::SourceRangeKey};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{MapsError, Plain, error::errno, shape};

/// The part of a key that prefixes are of.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Prefix {
    service_id: u32,
    address: Address,
}

/// The map; a prefix is there or not.
#[derive(Debug)]
pub struct SourceRanges {
    map: LpmTrie<MapData, Plain<Prefix>, u32>,
    max_entries: u32,
}

impl SourceRanges {
    pub(crate) fn open(maps_dir: &Path) -> Result<Self, MapsError> {
        let shape = shape::SOURCE_RANGES;
        let read = |source| MapsError::Read {
            map: shape.name,
            source,
        };
        let data = shape.open(maps_dir)?.ok_or_else(|| MapsError::NotThere {
            dir: maps_dir.to_owned(),
        })?;
        let max_entries = data.info().map_err(read)?.max_entries();
        let map = shape.open_existing(maps_dir)?.try_into().map_err(read)?;
        Ok(Self { map, max_entries })
    }

    /// Lets the clients of a prefix use a service.
    pub fn insert(&mut self, key: &SourceRangeKey) -> Result<(), MapsError> {
        self.map.insert(&trie_key(key), 1, 0).map_err(|source| {
            // From tries (kernel/bpf/lpm_trie.c).
            if errno(&source) == Some(libc::ENOSPC) {
                MapsError::Full {
                    map: shape::SOURCE_RANGES.name,
                    max_entries: self.max_entries,
                }
            } else {
                MapsError::Write {
                    map: shape::SOURCE_RANGES.name,
                    source,
                }
            }
        })
    }

    /// No longer lets them; a prefix that is not there is fine.
    pub fn remove(&mut self, key: &SourceRangeKey) -> Result<(), MapsError> {
        match self.map.remove(&trie_key(key)) {
            Err(source) if errno(&source) != Some(libc::ENOENT) => Err(MapsError::Write {
                map: shape::SOURCE_RANGES.name,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// All prefixes.
    pub fn entries(&self) -> Result<Vec<SourceRangeKey>, MapsError> {
        let entry = |key: Result<Key<Plain<Prefix>>, _>| {
            let key = key.map_err(|source| MapsError::Read {
                map: shape::SOURCE_RANGES.name,
                source,
            })?;
            let Plain(prefix) = key.data();
            Ok(SourceRangeKey {
                prefix_len: key.prefix_len(),
                service_id: prefix.service_id,
                address: prefix.address,
            })
        };
        self.map.keys().take(self.max_entries as usize).map(entry).collect()
    }
}

fn trie_key(key: &SourceRangeKey) -> Key<Plain<Prefix>> {
    let prefix = Prefix {
        service_id: key.service_id,
        address: key.address,
    };
    Key::new(key.prefix_len, Plain(prefix))
}
