//! The results for people and for scripts.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{Bound, Entry, Results};
use crate::report::number;

/// The list of all entries.
pub fn json(entries: &[Entry]) -> Result<String> {
    let mut text = serde_json::to_string_pretty(entries).context("cannot write the results")?;
    text.push('\n');
    Ok(text)
}

/// The whole report for a terminal.
pub fn table(results: &Results) -> String {
    let mut text = format!("{}\n\n", results.machine.text());
    text.push_str(&row(["", "value", "±", "baseline", "ratio", "goal", ""]));
    for entry in &results.entries {
        text.push_str(&row(cells(entry).each_ref().map(String::as_str)));
    }
    let with_goal = results.entries.iter().filter(|entry| entry.met.is_some());
    let missed = with_goal.clone().filter(|entry| entry.met == Some(false)).count();
    put(
        &mut text,
        format_args!(
            "\n{} goals, {missed} missed; {:.0} s.\n",
            with_goal.count(),
            results.seconds
        ),
    );
    text.push_str("value: median of the rounds; ±: median absolute deviation; ratio: median of the rounds' ratios.\n");
    for note in &results.notes {
        put(&mut text, format_args!("note: {note}\n"));
    }
    for refused in &results.refused {
        put(&mut text, format_args!("REFUSED: {refused}\n"));
    }
    text
}

/// The same for a document.
pub fn markdown(results: &Results) -> String {
    let mut text = format!("{}.\n", results.machine.text());
    for refused in &results.refused {
        put(&mut text, format_args!("\n**Refused:** {refused}.\n"));
    }
    for note in &results.notes {
        put(&mut text, format_args!("\nNote: {note}.\n"));
    }
    text.push_str("\n| | value | ± | baseline | ratio | goal | |\n|---|--:|--:|--:|--:|--:|---|\n");
    for entry in &results.entries {
        put(&mut text, format_args!("| {} |\n", cells(entry).join(" | ")));
    }
    text
}

fn cells(entry: &Entry) -> [String; 7] {
    let shown = |value: Option<f64>| value.map(number).unwrap_or_default();
    let goal = entry.goal.map(|goal| {
        let sign = match entry.bound {
            Some(Bound::AtLeast) => "≥",
            _ => "≤",
        };
        match entry.goal_of {
            Some("ratio") => format!("{sign} ×{goal:.2}"),
            _ => format!("{sign} {} {}", number(goal), entry.unit),
        }
    });
    let met = match entry.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    [
        format!("{}, {}", entry.title, entry.unit),
        number(entry.value),
        shown(entry.spread),
        shown(entry.baseline),
        entry.ratio.map(|ratio| format!("×{ratio:.3}")).unwrap_or_default(),
        goal.unwrap_or_default(),
        met.to_owned(),
    ]
}

fn row([title, value, spread, baseline, ratio, goal, met]: [&str; 7]) -> String {
    let line = format!("  {title:<74}{value:>10}{spread:>8}{baseline:>10}{ratio:>9}{goal:>13}  {met}");
    format!("{}\n", line.trim_end())
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Goal;

    #[test]
    fn a_miss_is_told_as_plainly_as_a_hit() {
        let entry = Entry::new("n", "throughput", 7.5, "Gbit/s").against(8.0, 0.9375);
        let missed = cells(&entry.clone().goal(Goal::Ratio(Bound::AtLeast, 0.98)));
        assert_eq!(
            missed,
            ["throughput, Gbit/s", "7.50", "", "8.00", "×0.938", "≥ ×0.98", "MISSED"]
        );
        let met = cells(&entry.goal(Goal::Value(Bound::AtMost, 60.0)));
        assert_eq!((met[5].as_str(), met[6].as_str()), ("≤ 60.0 Gbit/s", "met"));
    }
}
