//! Maglev tables in words.

use std::collections::BTreeMap;

use causeway_abi::service::NO_BACKEND;
use serde::{Deserialize, Serialize};

use super::{BackendView, Filter, ServiceNames, endpoint_matches};
use crate::{MapsError, PinnedMaps, address};

/// The Maglev table of a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableView {
    /// "namespace/name:port".
    pub service: String,
    /// "address:port/PROTOCOL".
    pub vip: String,
    /// First slot in `SLOTS`.
    pub base: u32,
    /// Number of slots.
    pub count: u32,
    /// The backends, by index, with their shares.
    pub shares: Vec<ShareView>,
    /// Every slot in order; only where the service was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotView>,
}

/// How much of a table leads to a backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareView {
    /// The backend.
    #[serde(flatten)]
    pub backend: BackendView,
    /// How many slots lead to it.
    pub slots: u32,
    /// The same in percent of the table.
    pub percent: f64,
}

/// A slot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotView {
    /// Number in the table, from 0.
    pub slot: u32,
    /// Index of its backend.
    pub backend: u32,
    /// "address:port/PROTOCOL" of the backend.
    pub address: String,
    /// The backend before, while the slot changes hands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u32>,
}

/// The tables, by service. Those that the filter names are given slot by slot.
pub fn tables(maps: &PinnedMaps, filter: &Filter) -> Result<Vec<TableView>, MapsError> {
    let mut names = ServiceNames::default();
    let every_slot = filter.service.is_some() || filter.vip.is_some();
    let mut views = Vec::new();
    for (key, service) in maps.services.entries()? {
        let name = names.of(maps, service.service_id);
        let vip = address::endpoint(key.address, key.port_be, key.protocol);
        if !filter.service_matches(&name) || !filter.vip.as_ref().is_none_or(|wanted| endpoint_matches(&vip, wanted)) {
            continue;
        }
        views.push(table(maps, name, vip, &service, every_slot));
    }
    views.sort_by(|a, b| (&a.service, &a.vip).cmp(&(&b.service, &b.vip)));
    Ok(views)
}

fn table(
    maps: &PinnedMaps,
    name: String,
    vip: String,
    service: &causeway_abi::service::Service,
    every_slot: bool,
) -> TableView {
    let mut counts = BTreeMap::<u32, u32>::new();
    let mut slots = Vec::new();
    let mut addresses = BTreeMap::<u32, String>::new();
    for number in 0..service.slot_count {
        let Some(slot) = maps.slots.read(service.slot_base.saturating_add(number)) else {
            break;
        };
        *counts.entry(slot.backend).or_default() += 1;
        if every_slot {
            let text = addresses.entry(slot.backend).or_insert_with(|| {
                let backend = maps.backends.read(slot.backend);
                backend.map_or_else(String::new, |backend| {
                    address::endpoint(backend.address, backend.port_be, backend.protocol)
                })
            });
            slots.push(SlotView {
                slot: number,
                backend: slot.backend,
                address: text.clone(),
                previous: (slot.previous != NO_BACKEND).then_some(slot.previous),
            });
        }
    }
    let share = |(index, slots): (u32, u32)| {
        let backend = maps.backends.read(index)?;
        Some(ShareView {
            backend: BackendView::new(index, &backend),
            slots,
            percent: f64::from(slots) * 100.0 / f64::from(service.slot_count.max(1)),
        })
    };
    TableView {
        service: name,
        vip,
        base: service.slot_base,
        count: service.slot_count,
        shares: counts.into_iter().filter_map(share).collect(),
        slots,
    }
}
