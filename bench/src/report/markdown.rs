//! Results as Markdown, for documents.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

use super::{
    Entry, Run,
    grid::{Grid, grids},
    table::{number, thousands},
};
use crate::run::{Refusal, Results};

/// A table for each place of the backends and each number of services.
pub fn markdown(runs: &[Run]) -> String {
    let mut text = String::new();
    if let Some((results, _)) = runs.first() {
        line(&mut text, format_args!("{}.", results.machine.text()));
    }
    for (results, entries) in runs {
        line(
            &mut text,
            format_args!("\n**{}**", capitalised(results.plan.backends.title())),
        );
        run(&mut text, results, entries);
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        format!("{}{}", first.to_uppercase(), letters.as_str())
    })
}

fn run(text: &mut String, results: &Results, entries: &[Entry]) {
    if let Some(warning) = results.warning() {
        line(text, format_args!("\n**Warning:** {warning}."));
    }
    for refusal in &results.refusals {
        let Refusal {
            services, task, reason, ..
        } = refusal;
        let mode = refusal.mode.name();
        line(
            text,
            format_args!("\n**Refused:** {mode} with {services} services, {task}: {reason}."),
        );
    }
    for note in &results.notes {
        line(text, format_args!("\nNote: {note}."));
    }
    for (mode, why) in &results.plan.unavailable {
        line(text, format_args!("\nLeft out: {}: {why}.", mode.name()));
    }
    for grid in grids(entries) {
        let plural = if grid.services == 1 { "" } else { "s" };
        let place = results.plan.backends.name();
        line(
            text,
            format_args!("\n### {} service{plural}, backends {place}\n", thousands(grid.services)),
        );
        write_grid(text, &grid);
    }
}

/// Puts the results of a benchmark between its marks in a document, `<!-- results of NAME -->` and `<!-- end of results of NAME -->`,
/// instead of what is there.
pub fn replace_results(document: &str, name: &str, results: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- results of {name} -->"),
        format!("<!-- end of results of {name} -->"),
    );
    let after_begin = document
        .find(&begin)
        .with_context(|| format!("there is no line {begin}"))?
        + begin.len();
    let before_end = document.find(&end).with_context(|| format!("there is no line {end}"))?;
    let (Some(before), Some(after)) = (
        document.get(..after_begin),
        document.get(before_end..).filter(|_| after_begin <= before_end),
    ) else {
        bail!("{end} stands before {begin}");
    };
    Ok(format!("{before}\n{results}\n{after}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_replaced_and_nothing_else() {
        let of =
            |name: &str, text: &str| format!("<!-- results of {name} -->\n{text}\n<!-- end of results of {name} -->\n");
        let document = format!("a\n{}b\n{}c\n", of("vip", "old"), of("datapath", "other"));
        let expected = format!("a\n{}b\n{}c\n", of("vip", "new"), of("datapath", "other"));
        assert_eq!(replace_results(&document, "vip", "new").unwrap(), expected);
        assert_eq!(replace_results(&expected, "vip", "new").unwrap(), expected);
        assert!(replace_results("no marks", "vip", "new").is_err());
    }
}
