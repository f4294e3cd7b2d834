//! Columns of endpoints.

use std::collections::HashSet;

use causeway_proto::{
    Resource as _,
    time::age_at,
    v1::{EndpointAddress, EndpointSubset, Endpoints},
};

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["NAME", "ENDPOINTS", "AGE"];
pub const WIDE: &[&str] = &["NOT-READY", "TERMINATING"];

/// As many are shown, the rest is counted, as kubectl does.
const SHOWN: usize = 3;

pub fn row(endpoints: &Endpoints, view: &View) -> Vec<String> {
    let meta = endpoints.meta();
    let shown = if view.wide { usize::MAX } else { SHOWN };
    let mut cells = vec![
        meta.name.clone(),
        addresses(endpoints, |subset| &subset.addresses, shown),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        cells.push(addresses(endpoints, |subset| &subset.not_ready_addresses, shown));
        cells.push(addresses(endpoints, |subset| &subset.terminating_addresses, shown));
    }
    cells
}

/// "10.244.1.2:80,10.244.2.2:80 + 3 more...". A number that is a port of both protocols is said once.
fn addresses(endpoints: &Endpoints, of: impl Fn(&EndpointSubset) -> &Vec<EndpointAddress>, shown: usize) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in &endpoints.subsets {
        for address in of(subset) {
            let ip = if address.ip.contains(':') {
                format!("[{}]", address.ip)
            } else {
                address.ip.clone()
            };
            if subset.ports.is_empty() {
                all.push(address.ip.clone());
            }
            all.extend(subset.ports.iter().map(|port| format!("{ip}:{}", port.port)));
        }
    }
    let mut seen = HashSet::new();
    all.retain(|text| seen.insert(text.clone()));
    let more = all.len().saturating_sub(shown);
    all.truncate(shown);
    let text = or_none(&all.join(","));
    if more > 0 {
        format!("{text} + {more} more...")
    } else {
        text
    }
}
