//! `SERVICES`, their Maglev tables and counters in words.

use std::collections::BTreeMap;

use causeway_abi::service::{SCOPE_NODE, Service, ServiceKey, ServiceName};
use serde::{Deserialize, Serialize};

use super::BackendView;
use crate::{MapsError, PinnedMaps, address};

/// A virtual address and what stands behind it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// "namespace/name:port".
    pub name: String,
    /// "address:port/PROTOCOL".
    pub vip: String,
    /// From where it is reached: "Cluster" (pods, the node itself) or "External" (the network).
    pub scope: String,
    /// Index of its counters.
    pub id: u32,
    /// Session affinity time-out in seconds; 0 for none.
    pub affinity_seconds: u32,
    /// Length of its Maglev table.
    pub slots: u32,
    /// Its backends, by index.
    pub backends: Vec<ServiceBackendView>,
    /// Connections balanced.
    pub connections: u64,
    /// Packets translated one by one.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections and packets refused.
    pub drops: u64,
}

/// A backend of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackendView {
    /// The backend.
    #[serde(flatten)]
    pub backend: BackendView,
    /// How many slots of the table point to it.
    pub slots: u32,
}

impl ServiceView {
    /// How many backends take new connections.
    pub fn ready(&self) -> usize {
        self.backends
            .iter()
            .filter(|backend| backend.backend.takes_connections())
            .count()
    }
}

/// All services, by name.
pub fn services(maps: &PinnedMaps) -> Result<Vec<ServiceView>, MapsError> {
    let mut views = Vec::new();
    for (key, service) in maps.services.entries()? {
        views.push(view(maps, &key, &service)?);
    }
    views.sort_by(|a, b| (&a.name, &a.vip).cmp(&(&b.name, &b.vip)));
    Ok(views)
}

/// The service of one key.
pub fn service_at(maps: &PinnedMaps, key: &ServiceKey) -> Result<Option<ServiceView>, MapsError> {
    let service = maps.services.get(key)?;
    service.map(|service| view(maps, key, &service)).transpose()
}

fn view(maps: &PinnedMaps, key: &ServiceKey, service: &Service) -> Result<ServiceView, MapsError> {
    let counters = maps.service_counters.sum(service.service_id)?;
    let name = maps.service_names.get(&service.service_id)?;
    Ok(ServiceView {
        name: name.as_ref().map(name_text).unwrap_or_default(),
        vip: address::endpoint(key.address, key.port_be, key.protocol),
        scope: if key.scope == SCOPE_NODE { "External" } else { "Cluster" }.to_owned(),
        id: service.service_id,
        affinity_seconds: service.affinity_seconds,
        slots: service.slot_count,
        backends: backends(maps, service),
        connections: counters.connections,
        packets: counters.packets,
        bytes: counters.bytes,
        drops: counters.drops,
    })
}

fn backends(maps: &PinnedMaps, service: &Service) -> Vec<ServiceBackendView> {
    let mut slots = BTreeMap::<u32, u32>::new();
    for index in service.slot_base..service.slot_base.saturating_add(service.slot_count) {
        if let Some(slot) = maps.slots.read(index) {
            *slots.entry(slot.backend).or_default() += 1;
        }
    }
    let in_words = |(index, slots)| {
        let backend = maps.backends.read(index)?;
        Some(ServiceBackendView {
            backend: BackendView::new(index, &backend),
            slots,
        })
    };
    slots.into_iter().filter_map(in_words).collect()
}

/// Names of services by id, each looked up once.
#[derive(Clone, Debug, Default)]
pub struct ServiceNames(BTreeMap<u32, String>);

impl ServiceNames {
    /// "namespace/name:port" of a service id; empty when the map does not know it.
    pub fn of(&mut self, maps: &PinnedMaps, id: u32) -> String {
        let look_up = || {
            let name = maps.service_names.get(&id).ok().flatten();
            name.as_ref().map(name_text).unwrap_or_default()
        };
        self.0.entry(id).or_insert_with(look_up).clone()
    }
}

/// The text of a name, without its padding.
pub fn name_text(name: &ServiceName) -> String {
    let end = name.0.iter().position(|byte| *byte == 0).unwrap_or(name.0.len());
    String::from_utf8_lossy(&name.0[..end]).into_owned()
}

/// The map's form of a name; what does not fit is cut off at a character.
pub fn name_value(text: &str) -> ServiceName {
    let mut name = ServiceName([0; 144]);
    let end = text.floor_char_boundary(name.0.len());
    name.0[..end].copy_from_slice(&text.as_bytes()[..end]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_map() {
        assert_eq!(name_text(&name_value("default/web:http")), "default/web:http");
        let long = "é".repeat(100);
        assert_eq!(name_text(&name_value(&long)), "é".repeat(72));
    }
}
