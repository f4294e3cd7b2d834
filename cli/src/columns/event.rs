//! Columns of events.

use causeway_proto::{
    Resource as _,
    time::age_at,
    v1::{Event, ObjectReference},
};

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
pub const WIDE: &[&str] = &["SOURCE", "FIRST SEEN", "COUNT", "NAME"];

pub fn row(event: &Event, view: &View) -> Vec<String> {
    let last = event.last_timestamp.as_ref().or(event.first_timestamp.as_ref());
    let involved = event.involved_object.clone().unwrap_or_default();
    let mut cells = vec![
        age_at(last, &view.now),
        or_none(&event.r#type),
        or_none(&event.reason),
        object(&involved),
        event.message.trim().replace('\n', " "),
    ];
    if view.wide {
        let source = event.source.clone().unwrap_or_default();
        let places: Vec<String> = [source.component, source.host]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        cells.push(or_none(&places.join(", ")));
        cells.push(age_at(event.first_timestamp.as_ref(), &view.now));
        cells.push(event.count.max(1).to_string());
        cells.push(event.meta().name.clone());
    }
    cells
}

fn object(reference: &ObjectReference) -> String {
    format!("{}/{}", reference.kind.to_lowercase(), reference.name)
}
