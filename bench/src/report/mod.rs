//! Results for people and for scripts.

mod entries;
mod json;
mod table;

pub use entries::{Entry, entries};
pub use json::json;
pub use table::table;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::run::Results;

/// Writes everything into a directory.
pub fn write(directory: &Path, _results: &Results, entries: &[Entry], text: &str) -> Result<()> {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    file("vip.json", &json(entries)?)?;
    file("vip.txt", text)
}
