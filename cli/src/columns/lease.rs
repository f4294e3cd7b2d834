//! Columns of leases.

use causeway_proto::{Resource as _, time::age_at, v1::Lease};

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["NAME", "HOLDER", "AGE"];
pub const WIDE: &[&str] = &["DURATION", "RENEWED", "TRANSITIONS"];

pub fn row(lease: &Lease, view: &View) -> Vec<String> {
    let meta = lease.meta();
    let spec = lease.spec.clone().unwrap_or_default();
    let mut cells = vec![
        meta.name.clone(),
        or_none(&spec.holder_identity),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        cells.push(
            spec.lease_duration_seconds
                .map_or_else(|| or_none(""), |seconds| format!("{seconds}s")),
        );
        cells.push(
            spec.renew_time
                .map_or_else(|| or_none(""), |time| format!("{} ago", age_at(Some(&time), &view.now))),
        );
        cells.push(spec.lease_transitions.unwrap_or_default().to_string());
    }
    cells
}
