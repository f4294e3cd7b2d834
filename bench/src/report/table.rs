//! Results as text.

use std::{collections::BTreeSet, fmt::Write as _};

use super::Entry;
use crate::{
    mode::{Measure, Mode, Position},
    run::Results,
};

/// The whole report for a terminal.
pub fn table(results: &Results, entries: &[Entry]) -> String {
    let mut text = format!("{}\n{}\n", results.machine.text(), results.plan.backends.title());
    if let Some(warning) = results.warning() {
        put(&mut text, format_args!("WARNING: {warning}\n"));
    }
    let groups: BTreeSet<(usize, Measure)> = entries.iter().map(|entry| (entry.services, entry.measure)).collect();
    let mut services = None;
    for (count, measure) in groups {
        if services != Some(count) {
            services = Some(count);
            put(
                &mut text,
                format_args!("\n{} service{}\n", thousands(count), if count == 1 { "" } else { "s" }),
            );
            text.push_str(&row(["", "mode", "at", "value", "±", "to direct", "to iptables"]));
        }
        let mut title = format!("{}, {}", measure.title(), measure.unit());
        for entry in entries
            .iter()
            .filter(|entry| (entry.services, entry.measure) == (count, measure))
        {
            text.push_str(&line(&title, entry));
            title.clear();
        }
    }
    text.push_str(&footer(results));
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(line);
}

fn line(title: &str, entry: &Entry) -> String {
    let ratio = |ratio: Option<f64>| ratio.map(|ratio| format!("×{ratio:.3}")).unwrap_or_default();
    let to_itself = |mode: Mode| entry.mode == mode;
    row([
        title,
        entry.mode.name(),
        entry.position.map_or("", Position::name),
        &number(entry.value),
        &entry.spread.map(number).unwrap_or_default(),
        &ratio(entry.ratio_to_direct.filter(|_| !entry.mode.is_direct())),
        &ratio(entry.ratio_to_iptables.filter(|_| !to_itself(Mode::Iptables))),
    ])
}

fn row([title, mode, at, value, spread, direct, iptables]: [&str; 7]) -> String {
    let line = format!("  {title:<34}{mode:<21}{at:<8}{value:>11}{spread:>9}{direct:>11}{iptables:>13}");
    format!("{}\n", line.trim_end())
}

fn footer(results: &Results) -> String {
    let mut text = String::from(
        "\nvalue: median of the rounds; ±: median absolute deviation; ratios: medians of the rounds' ratios.\n\
         to direct: causeway-* against direct, all others against direct-routed.\n",
    );
    for (mode, proof) in &results.proofs {
        put(
            &mut text,
            format_args!(
                "{}: {} connections opened to services, {} counted by its own counters{}\n",
                mode.name(),
                proof.opened,
                proof.passed.connections,
                match (proof.passed.packets, proof.passed.early) {
                    (0, _) => String::new(),
                    (packets, 0) => format!(", {packets} packets translated one by one"),
                    (packets, early) => {
                        format!(", {packets} packets translated one by one, {early} frames sent on by XDP")
                    }
                }
            ),
        );
    }
    for (mode, why) in &results.plan.unavailable {
        put(&mut text, format_args!("{}: not available: {why}\n", mode.name()));
    }
    for note in &results.notes {
        put(&mut text, format_args!("note: {note}\n"));
    }
    for refusal in &results.refusals {
        put(
            &mut text,
            format_args!(
                "REFUSED: {} with {} services{}, {}: {}\n",
                refusal.mode.name(),
                thousands(refusal.services),
                refusal
                    .position
                    .map(|position| format!(" ({})", position.name()))
                    .unwrap_or_default(),
                refusal.task,
                refusal.reason
            ),
        );
    }
    text
}

/// With three or four significant digits.
pub(crate) fn number(value: f64) -> String {
    #[expect(clippy::cast_sign_loss, reason = "large values are counted, so positive")]
    match value.abs() {
        size if size >= 1_000.0 => thousands(value.round() as usize),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// With commas.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Backends;

    #[test]
    fn numbers_read_well() {
        let texts = [1_234_567.0, 999.4, 45.67, 1.234, 0.0456].map(number);
        assert_eq!(texts, ["1,234,567", "999", "45.7", "1.23", "0.046"]);
    }

    #[test]
    fn columns_are_aligned() {
        let entry = Entry {
            backends: Backends::Local,
            mode: Mode::CausewayTc,
            services: 1_000,
            position: Some(Position::Middle),
            measure: Measure::CpuPerConnection,
            value: 45.25,
            unit: "µs",
            ratio_to_direct: Some(1.25),
            ratio_to_iptables: Some(0.5),
            spread: None,
        };
        let head = row(["", "mode", "at", "value", "±", "to direct", "to iptables"]);
        let line = line("CPU per connection, µs", &entry);
        let end = |text: &str, word: &str| {
            text.find(word)
                .map(|at| text[..at].chars().count() + word.chars().count())
        };
        assert_eq!(end(&head, "value"), end(&line, "45.2"));
        assert_eq!(end(&head, "to iptables"), end(&line, "×0.500"));
    }
}
