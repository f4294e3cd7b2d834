//! Letters for plots.

use std::fs;

use anyhow::{Result, bail};
use plotters::style::{FontStyle, register_font};

/// Where distributions keep a font without serifs.
const FONTS: [&str; 5] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/liberation-sans/LiberationSans-Regular.ttf",
];

/// Makes a font known as "sans-serif"; an error when none is found.
pub(super) fn register() -> Result<()> {
    let Some(bytes) = FONTS.iter().find_map(|path| fs::read(path).ok()) else {
        bail!("no font found (Debian: fonts-dejavu-core)");
    };
    // Fonts are borrowed for the life of the process, and there is one.
    match register_font("sans-serif", FontStyle::Normal, Vec::leak(bytes)) {
        Ok(()) => Ok(()),
        Err(_) => bail!("the font is not one"),
    }
}
