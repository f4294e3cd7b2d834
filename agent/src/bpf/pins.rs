//! Checking pins before they are adopted, and removing them.

use std::{fs, io, path::Path};

use causeway_abi::ABI_VERSION;
use causeway_maps::{PinnedMaps, bpffs, pins, shape};

use super::{MapSizes, error::DatapathError};

/// Refuses pinned maps of another version or shape. Maps that are not there are fine: they will be made.
pub(super) fn check(pin_dir: &Path, sizes: &MapSizes) -> Result<(), DatapathError> {
    let maps_dir = pins::maps_dir(pin_dir);
    // The version first: after an upgrade, shapes differ because the version does.
    let other = |found| DatapathError::AbiVersion {
        dir: pin_dir.to_owned(),
        found,
        expected: ABI_VERSION,
    };
    match PinnedMaps::version(pin_dir)? {
        Some(ABI_VERSION) | None => {}
        Some(found) => return Err(other(found)),
    }
    for shape in shape::ALL {
        let Some(data) = shape.open(&maps_dir)? else { continue };
        let wanted = sizes
            .by_name()
            .into_iter()
            .find_map(|(name, size)| (name == shape.name).then_some(size));
        if let Some(wanted) = wanted {
            let info = data.info().map_err(|source| causeway_maps::MapsError::Read {
                map: shape.name,
                source,
            })?;
            let found = info.max_entries();
            if found != wanted {
                return Err(DatapathError::MapSize {
                    map: shape.name,
                    found,
                    wanted,
                    dir: pin_dir.to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Removes all pins of a node, links before maps, so that programs go before what they read; then the directories, and
/// bpffs if it was mounted by an agent and nothing is left in it. What is not there is fine. Goes on after an error and
/// answers all of them.
pub fn remove_pins(bpffs: &Path, pin_dir: &Path) -> Vec<DatapathError> {
    let mut errors = Vec::new();
    let mut failed = |path: &Path, result: io::Result<()>| match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            errors.push(DatapathError::Pin {
                path: path.to_owned(),
                source,
            });
        }
        _ => {}
    };
    for dir in [pins::links_dir(pin_dir), pins::maps_dir(pin_dir)] {
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    failed(&entry.path(), fs::remove_file(entry.path()));
                }
            }
            Err(error) => failed(&dir, Err(error)),
        }
        failed(&dir, fs::remove_dir(&dir));
    }
    if let Err(error) = bpffs::release(bpffs, pin_dir) {
        errors.push(error.into());
    }
    errors
}
