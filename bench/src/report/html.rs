//! One page with everything, which needs nothing beside it.

use std::fmt::Write as _;

use anyhow::Result;

use super::{
    Entry, Run,
    grid::{Grid, grids},
    json::json,
    table::{number, thousands},
};
use crate::{
    mode::{Better, Mode},
    run::Results,
};

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; background: #f4f6f8; margin: 0; }
main { max-width: 72rem; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; } h3 { font-size: 1.1rem; margin: 1.8rem 0 .5rem; }
p.machine { color: #53616e; margin: 0 0 1rem; }
.warning { background: #fff3cd; border-left: 4px solid #d39e00; padding: .6rem 1rem; }
.refused { background: #fbe3e4; border-left: 4px solid #b02a37; padding: .6rem 1rem; margin: .5rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.plots figure { background: #fff; border: 1px solid #dde3e8; border-radius: 6px; margin: 0; padding: .6rem; }
.plots svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #dde3e8; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #edf0f2; }
th:first-child, td:first-child { text-align: left; } thead th { background: #eef2f5; position: sticky; top: 0; }
td small { color: #6b7884; display: block; line-height: 1.2; } td.better small { color: #14743f; } td.worse small { color: #a3262f; }
details { margin-top: 1rem; } summary { cursor: pointer; }
";

/// The page; `plots` are SVG documents, those of each run together.
pub fn html(runs: &[Run], plots: &[Vec<String>]) -> Result<String> {
    let mut text = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    text.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    text.push_str("<title>Causeway: balancing of virtual addresses</title>\n");
    add(
        &mut text,
        format_args!("<style>{STYLE}</style>\n</head>\n<body>\n<main>"),
    );
    add(&mut text, format_args!("<h1>Balancing of virtual addresses</h1>"));
    if let Some((results, _)) = runs.first() {
        let machine = escape(&results.machine.text());
        add(&mut text, format_args!("<p class=\"machine\">{machine}</p>"));
    }
    for ((results, entries), plots) in runs.iter().zip(plots) {
        run(&mut text, results, entries, plots);
    }
    // "</" would end the element.
    let data = json(runs)?.replace("</", "<\\/");
    add(
        &mut text,
        format_args!("<script type=\"application/json\" id=\"entries\">\n{data}</script>"),
    );
    text.push_str("</main>\n</body>\n</html>\n");
    Ok(text)
}

fn run(text: &mut String, results: &Results, entries: &[Entry], plots: &[String]) {
    let place = results.plan.backends;
    add(
        text,
        format_args!("<h2>Backends {}: {}</h2>", place.name(), place.title()),
    );
    if let Some(warning) = results.warning() {
        add(text, format_args!("<p class=\"warning\">{}</p>", escape(&warning)));
    }
    for refusal in &results.refusals {
        add(
            text,
            format_args!(
                "<p class=\"refused\"><b>Refused:</b> {} with {} services, {}: {}</p>",
                refusal.mode.name(),
                thousands(refusal.services),
                escape(&refusal.task),
                escape(&refusal.reason)
            ),
        );
    }
    text.push_str("<div class=\"plots\">\n");
    for plot in plots {
        // An XML declaration may stand only at the head of a document.
        let svg = plot.find("<svg").map_or("", |start| &plot[start..]);
        add(text, format_args!("<figure>{svg}</figure>"));
    }
    text.push_str("</div>\n");
    for grid in grids(entries) {
        table(text, &grid);
    }
    explanation(text, results);
}

fn table(text: &mut String, grid: &Grid<'_>) {
    let plural = if grid.services == 1 { "" } else { "s" };
    add(
        text,
        format_args!("<h3>{} service{plural}</h3>", thousands(grid.services)),
    );
    text.push_str("<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    for mode in &grid.modes {
        let _ = write!(text, "<th>{}</th>", mode.name());
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for (measure, row) in &grid.rows {
        let _ = write!(text, "<tr><td>{}, {}</td>", measure.title(), measure.unit());
        for entry in row {
            match entry {
                Some(entry) => cell(text, entry),
                None => text.push_str("<td></td>"),
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
}

fn cell(text: &mut String, entry: &Entry) {
    let mut ratios = Vec::new();
    if let Some(ratio) = entry.ratio_to_direct.filter(|_| !entry.mode.is_direct()) {
        ratios.push(format!("×{ratio:.2} direct"));
    }
    let to_iptables = entry.ratio_to_iptables.filter(|_| entry.mode != Mode::Iptables);
    if let Some(ratio) = to_iptables {
        ratios.push(format!("×{ratio:.2} iptables"));
    }
    let class = match to_iptables.map(|ratio| (ratio < 1.0) == (entry.measure.better() == Better::Less)) {
        Some(true) => " class=\"better\"",
        Some(false) => " class=\"worse\"",
        None => "",
    };
    let spread = entry
        .spread
        .map(|spread| format!(" ± {}", number(spread)))
        .unwrap_or_default();
    let _ = write!(
        text,
        "<td{class}>{}{spread}<small>{}</small></td>",
        number(entry.value),
        ratios.join("<br>")
    );
}

fn explanation(text: &mut String, results: &Results) {
    text.push_str(
        "<h3>How to read this</h3>\n<p>Values are medians over the rounds, ± the median absolute deviation; ratios are \
         medians of each round's ratio. The measured service is the last of all. <i>direct</i> is the pod's own address \
         over the same pod network: <code>direct</code> for causeway-*, <code>direct-routed</code> for all \
         others. A ratio to iptables is green where it is for the better.</p>\n<ul>\n",
    );
    for (mode, proof) in &results.proofs {
        add(
            text,
            format_args!(
                "<li>{}: {} connections opened to services, {} counted by its own counters</li>",
                mode.name(),
                thousands(proof.opened as usize),
                thousands(proof.passed.connections as usize)
            ),
        );
    }
    for (mode, why) in &results.plan.unavailable {
        add(
            text,
            format_args!("<li>{}: not available: {}</li>", mode.name(), escape(why)),
        );
    }
    for note in &results.notes {
        add(text, format_args!("<li>{}</li>", escape(note)));
    }
    text.push_str("</ul>\n");
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_reasons_is_text() {
        assert_eq!(escape("a <b> & c"), "a &lt;b&gt; &amp; c");
    }
}
