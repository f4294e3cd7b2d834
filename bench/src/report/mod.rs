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

/// Writes everything into a directory: `vip.json`, `vip.txt` (the table on the terminal), `vip.md`, `vip.html`, and plots.
pub fn write(directory: &Path, results: &Results, entries: &[Entry], text: &str) -> Result<()> {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    file("vip.json", &json(entries)?)?;
    file("vip.txt", text)?;
    file("vip.md", &markdown(results, entries))?;
    let plots = plot::write(directory, results, entries).unwrap_or_else(|error| {
        eprintln!("no plots: {error:#}");
        Vec::new()
    });
    file("vip.html", &html::html(results, entries, &plots)?)
}
