//! Columns of namespaces.

use causeway_proto::{Resource as _, time::age_at, v1::Namespace};

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["NAME", "STATUS", "AGE"];
pub const WIDE: &[&str] = &[];

pub fn row(namespace: &Namespace, view: &View) -> Vec<String> {
    let meta = namespace.meta();
    let phase = namespace.status.as_ref().map_or("", |status| &status.phase);
    vec![
        meta.name.clone(),
        or_none(phase),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ]
}
