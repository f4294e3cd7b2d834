//! Typed handles on longest-prefix-match tries.

use std::path::Path;

use aya::maps::{LpmTrie, MapData, lpm_trie};
use causeway_abi::{
    Address,
    route::{Route, RouteKey},
    service::SourceRangeKey,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    Data, MapsError, Plain,
    shape::Shape,
    table::{collect, found, max_entries, open, removed, written},
};

/// `ROUTES`.
pub type RouteTable = Trie<RouteKey, Route>;
/// `SOURCE_RANGES`; a prefix is there, with a 1, or not.
pub type SourceRanges = Trie<SourceRangeKey, u32>;

/// A key: how many bits count, and what they are of.
pub trait TrieKey: Copy {
    /// What prefixes are of.
    type Bits: Data;
    /// The number of bits that count, and all bits.
    fn parts(self) -> (u32, Self::Bits);
    /// The key of so many bits.
    fn from_parts(prefix_len: u32, bits: Self::Bits) -> Self;
}

impl TrieKey for RouteKey {
    type Bits = Address;

    fn parts(self) -> (u32, Address) {
        (self.prefix_len, self.address)
    }

    fn from_parts(prefix_len: u32, address: Address) -> Self {
        Self { prefix_len, address }
    }
}

/// The bits of a [`SourceRangeKey`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct ServiceClient {
    service_id: u32,
    address: Address,
}

impl TrieKey for SourceRangeKey {
    type Bits = ServiceClient;

    fn parts(self) -> (u32, ServiceClient) {
        let Self {
            prefix_len,
            service_id,
            address,
        } = self;
        (prefix_len, ServiceClient { service_id, address })
    }

    fn from_parts(prefix_len: u32, ServiceClient { service_id, address }: ServiceClient) -> Self {
        Self {
            prefix_len,
            service_id,
            address,
        }
    }
}

/// A longest-prefix-match trie.
#[derive(Debug)]
pub struct Trie<K: TrieKey, V: Data> {
    shape: Shape,
    max_entries: u32,
    map: LpmTrie<MapData, Plain<K::Bits>, Plain<V>>,
}

impl<K: TrieKey, V: Data> Trie<K, V> {
    pub(crate) fn open(shape: Shape, maps_dir: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            shape,
            max_entries: max_entries(shape, maps_dir)?,
            map: open(shape, maps_dir)?,
        })
    }

    /// The value of the longest prefix that holds `key`'s.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapsError> {
        found(self.shape, self.map.get(&trie_key(*key), 0).map(|Plain(value)| value))
    }

    /// Sets the value of exactly this prefix.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<(), MapsError> {
        let result = self.map.insert(&trie_key(*key), Plain(*value), 0);
        written(self.shape, self.max_entries, result)
    }

    /// Removes exactly this prefix; tells whether it was there.
    pub fn remove(&mut self, key: &K) -> Result<bool, MapsError> {
        removed(self.shape, self.map.remove(&trie_key(*key)))
    }

    /// All prefixes with their values.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapsError> {
        collect(self.shape, self.map.keys().take(self.max_entries as usize), |key| {
            let key = K::from_parts(key.prefix_len(), key.data().0);
            self.get(&key).map(|value| (key, value))
        })
    }
}

fn trie_key<K: TrieKey>(key: K) -> lpm_trie::Key<Plain<K::Bits>> {
    let (prefix_len, bits) = key.parts();
    lpm_trie::Key::new(prefix_len, Plain(bits))
}
