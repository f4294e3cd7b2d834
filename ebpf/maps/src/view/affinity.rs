//! `AFFINITY` in words.

use causeway_abi::affinity::AffinityKey;
use serde::{Deserialize, Serialize};

use super::{ServiceNames, monotonic_ns};
use crate::{AddressExt as _, MapsError, PinnedMaps, address};

/// A client that is to reach the backend it reached before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AffinityView {
    /// The client's address; or, for a client balanced at its socket, "netns-COOKIE" of its network namespace.
    pub client: String,
    /// "namespace/name:port"; empty when the service is gone.
    pub service: String,
    /// Its backend, "address:port/PROTOCOL".
    pub backend: String,
    /// Whether the backend is still the one the client was given.
    pub backend_current: bool,
    /// Seconds since the client's last connection.
    pub idle_seconds: u64,
}

/// The remembered clients, by service.
pub fn affinities(maps: &PinnedMaps) -> Result<Vec<AffinityView>, MapsError> {
    let now_ns = monotonic_ns();
    let mut names = ServiceNames::default();
    let in_words = |(key, value): (AffinityKey, causeway_abi::affinity::Affinity)| {
        let backend = maps.backends.read(value.backend);
        AffinityView {
            client: client(&key),
            service: names.of(maps, key.service_id),
            backend: backend
                .map(|backend| address::endpoint(backend.address, backend.port_be, backend.protocol))
                .unwrap_or_default(),
            backend_current: backend.is_some_and(|backend| backend.generation == value.generation),
            idle_seconds: now_ns.saturating_sub(value.last_seen_ns) / 1_000_000_000,
        }
    };
    let mut views: Vec<_> = maps.affinity.entries()?.into_iter().map(in_words).collect();
    views.sort_by(|a, b| (&a.service, &a.client).cmp(&(&b.service, &b.client)));
    Ok(views)
}

fn client(key: &AffinityKey) -> String {
    if key.kind == AffinityKey::NAMESPACE {
        let [first, second, ..] = key.client.words();
        let (low, high) = if cfg!(target_endian = "little") {
            (first, second)
        } else {
            (second, first)
        };
        format!("netns-{}", u64::from(high) << 32 | u64::from(low))
    } else {
        key.client.to_ip().to_string()
    }
}

#[cfg(test)]
mod tests {
    use causeway_abi::Address;

    use super::*;

    #[test]
    fn clients_are_addresses_or_namespaces() {
        let mut cookie = [0; 16];
        cookie[..8].copy_from_slice(&(7_u64 << 33).to_ne_bytes());
        let key = |client, kind| AffinityKey {
            client,
            service_id: 1,
            kind,
        };
        assert_eq!(
            client(&key(Address::from_v4([10, 0, 0, 9]), AffinityKey::ADDRESS)),
            "10.0.0.9"
        );
        assert_eq!(
            client(&key(Address::new(cookie), AffinityKey::NAMESPACE)),
            format!("netns-{}", 7_u64 << 33)
        );
    }
}
