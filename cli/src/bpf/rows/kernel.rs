//! What the kernel has: drop counters, programs, maps.

use causeway_maps::{
    advice_by_name,
    view::{AttachmentView, DropView, MapView, ProgramView},
};

use super::{Item, Rows, units::bytes_text};
use crate::table::or_none;

pub(super) fn drops(drops: &[DropView]) -> Rows {
    let row = |drop: &DropView| {
        let advice = advice_by_name(&drop.reason);
        let (meaning, remedy) = advice.map_or(("", ""), |advice| (advice.meaning, advice.remedy));
        let narrow = vec![drop.reason.clone(), drop.packets.to_string(), drop.bytes.to_string()];
        Item::new(drop, narrow, vec![or_none(meaning), or_none(remedy)])
            .counting(drop.reason.clone(), vec![drop.packets, drop.bytes])
            .with("meaning", meaning)
            .with("remedy", remedy)
    };
    Rows {
        narrow: &["REASON", "PACKETS", "BYTES"],
        wide: &["MEANING", "REMEDY"],
        rates: &[("PACKETS/S", "packetsPerSecond"), ("", "bytesPerSecond")],
        items: drops.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn programs(programs: &[ProgramView]) -> Rows {
    let row = |program: &ProgramView| {
        let all: Vec<String> = program.attached.iter().map(AttachmentView::text).collect();
        let number = |value: Option<u64>| value.map_or_else(|| or_none(""), |value| value.to_string());
        let narrow = vec![
            program.name.clone(),
            program.id.to_string(),
            attachments(program),
            number(program.runs),
            program.average_ns.map_or_else(|| or_none(""), |ns| format!("{ns} ns")),
            number(program.verified_instructions.map(u64::from)),
            bytes_text(program.jitted_bytes.into()),
        ];
        let wide = vec![bytes_text(program.memory_bytes.into()), or_none(&all.join(", "))];
        Item::new(program, narrow, wide)
    };
    Rows {
        narrow: &["PROGRAM", "ID", "ATTACHED", "RUNS", "AVERAGE", "VERIFIED", "JITTED"],
        wide: &["MEMORY", "PLACES"],
        items: programs.iter().map(row).collect(),
        ..Rows::default()
    }
}

/// "connect4 of causeway/dev/node-1", "tcx-ingress of 3 interfaces".
fn attachments(program: &ProgramView) -> String {
    match &program.attached[..] {
        [] => or_none(""),
        [one] => one.text(),
        [first, ..] => format!("{} of {} interfaces", first.hook, program.attached.len()),
    }
}

pub(super) fn maps(maps: &[MapView]) -> Rows {
    let row = |map: &MapView| {
        let percent = map
            .percent()
            .map_or_else(|| or_none(""), |percent| format!("{percent:.1}%"));
        let narrow = vec![
            map.name.clone(),
            map.map_type.clone(),
            map.entries.map_or_else(|| or_none(""), |entries| entries.to_string()),
            map.max_entries.to_string(),
            percent,
            bytes_text(map.memory_bytes),
            or_none(&map.flags.join("|")),
        ];
        let wide = vec![
            map.id.to_string(),
            map.key_bytes.to_string(),
            map.value_bytes.to_string(),
        ];
        Item::new(map, narrow, wide)
    };
    Rows {
        narrow: &["MAP", "TYPE", "ENTRIES", "MAX", "USE", "MEMORY", "FLAGS"],
        wide: &["ID", "KEY-BYTES", "VALUE-BYTES"],
        items: maps.iter().map(row).collect(),
        ..Rows::default()
    }
}
