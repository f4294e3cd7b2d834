//! Results for people and for scripts.

mod entries;
mod grid;
mod html;
mod json;
mod markdown;
mod plot;
mod table;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

pub use entries::{Entry, entries};
pub use json::json;
pub use markdown::{markdown, replace_results};
pub use table::table;
pub(crate) use table::{number, thousands};

use crate::run::Results;

/// What came of one plan, and what is shown of it.
pub type Run = (Results, Vec<Entry>);

/// Writes everything into a directory: `vip.json`, `vip.txt` (the tables on the terminal), `vip.md`, `vip.html`, and plots.
pub fn write(directory: &Path, runs: &[Run]) -> Result<()> {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    file("vip.json", &json(runs)?)?;
    let tables: Vec<String> = runs.iter().map(|(results, entries)| table(results, entries)).collect();
    file("vip.txt", &tables.join("\n"))?;
    file("vip.md", &markdown(runs))?;
    let plots: Vec<Vec<String>> = runs
        .iter()
        .map(|(results, entries)| {
            plot::write(directory, results, entries).unwrap_or_else(|error| {
                eprintln!("no plots: {error:#}");
                Vec::new()
            })
        })
        .collect();
    file("vip.html", &html::html(runs, &plots)?)
}
