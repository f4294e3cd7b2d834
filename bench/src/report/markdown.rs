//! Results as Markdown, for documents.

use std::fmt::Write as _;

use super::{
    Entry,
    grid::{Grid, grids},
    table::{number, thousands},
};
use crate::run::Results;

/// A table for each number of services.
pub fn markdown(results: &Results, entries: &[Entry]) -> String {
    let mut text = format!("{}.\n", results.machine.text());
    if let Some(warning) = results.warning() {
        line(&mut text, format_args!("\n**Warning:** {warning}."));
    }
    for grid in grids(entries) {
        let plural = if grid.services == 1 { "" } else { "s" };
        line(
            &mut text,
            format_args!("\n### {} service{plural}\n", thousands(grid.services)),
        );
        write_grid(&mut text, &grid);
    }
    text
}

fn write_grid(text: &mut String, grid: &Grid<'_>) {
    let names: Vec<&str> = grid.modes.iter().map(|mode| mode.name()).collect();
    line(text, format_args!("| | {} |", names.join(" | ")));
    line(text, format_args!("|---|{}", "--:|".repeat(names.len())));
    for (measure, row) in &grid.rows {
        let cells: Vec<String> = row.iter().map(|entry| entry.map(cell).unwrap_or_default()).collect();
        line(
            text,
            format_args!("| {}, {} | {} |", measure.title(), measure.unit(), cells.join(" | ")),
        );
    }
}

/// Value, and the ratio to the direct way where there is one.
fn cell(entry: &Entry) -> String {
    let value = number(entry.value);
    match entry.ratio_to_direct.filter(|_| !entry.mode.is_direct()) {
        Some(ratio) => format!("{value} (×{ratio:.2})"),
        None => value,
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
