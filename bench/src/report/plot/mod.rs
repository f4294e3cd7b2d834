//! Plots, as PNG and SVG.

mod charts;
mod draw;
mod font;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use plotters::prelude::{BitMapBackend, IntoDrawingArea as _, SVGBackend};

use super::Entry;
use crate::run::Results;
use charts::charts;

/// Pixels of a plot.
const SIZE: (u32, u32) = (1_000, 600);

/// Writes all plots into a directory; answers the SVG documents. Without a font on this machine there are none.
pub fn write(directory: &Path, results: &Results, entries: &[Entry]) -> Result<Vec<String>> {
    font::register()?;
    charts(results, entries)
        .iter()
        .map(|chart| {
            let path = |extension: &str| directory.join(format!("{}.{extension}", chart.name));
            let failed = |path: &Path| format!("cannot draw {}", path.display());
            let png = path("png");
            draw::draw(&BitMapBackend::new(&png, SIZE).into_drawing_area(), chart).with_context(|| failed(&png))?;
            let svg = path("svg");
            draw::draw(&SVGBackend::new(&svg, SIZE).into_drawing_area(), chart).with_context(|| failed(&svg))?;
            fs::read_to_string(&svg).with_context(|| format!("cannot read {}", svg.display()))
        })
        .collect()
}
