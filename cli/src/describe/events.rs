//! The events about an object.

use causeway_proto::{time::age_at, v1::Event};
use prost_types::Timestamp;

use super::text::Entry;
use crate::table::Table;

/// The events as a table, the oldest first.
pub fn describe(events: &[Event], now: &Timestamp) -> Entry {
    let mut events: Vec<&Event> = events.iter().collect();
    let last = |event: &Event| event.last_timestamp.or(event.first_timestamp);
    events.sort_by_key(|event| last(event).map_or((0, 0), |time| (time.seconds, time.nanos)));
    let mut table = Table::new(["TYPE", "REASON", "AGE", "FROM", "MESSAGE"]);
    for event in events {
        let age = age_at(last(event).as_ref(), now);
        let age = match event.count {
            ..=1 => age,
            count => format!("{age} (x{count} over {})", age_at(event.first_timestamp.as_ref(), now)),
        };
        let from = event.source.as_ref().map_or("", |source| &source.component).to_owned();
        table.push(vec![
            event.r#type.clone(),
            event.reason.clone(),
            age,
            from,
            event.message.replace('\n', " "),
        ]);
    }
    Entry::table("Events", &table)
}
