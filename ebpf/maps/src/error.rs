//! What can go wrong with pinned maps.

use std::{io, path::PathBuf};

use aya::{maps::MapError, programs::ProgramError};

/// A pinned map could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// There is no data path at that place.
    #[error("no pinned maps in {dir}: is the node's name right, and did its agent ever run?")]
    NotThere {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// BPF refused the process.
    #[error("opening map {map} was not permitted: run as root (CAP_BPF)")]
    NotPermitted {
        /// Name of the map.
        map: &'static str,
    },
    /// Opening a pin failed.
    #[error("cannot open the pinned map {map} at {path}")]
    Open {
        /// Name of the map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The maps belong to another version.
    #[error("the maps in {dir} have ABI version {found}, this program speaks version {expected}")]
    AbiVersion {
        /// The node's pins.
        dir: PathBuf,
        /// Version in the map `NODE`.
        found: u32,
        /// [`causeway_abi::ABI_VERSION`].
        expected: u32,
    },
    /// A pinned map has another shape than this program needs.
    #[error("pinned map {map} has {property} {found}, but {expected} is needed")]
    Shape {
        /// Name of the map.
        map: &'static str,
        /// "type", "key size", "value size" or "`max_entries`".
        property: &'static str,
        /// As found.
        found: u32,
        /// As needed.
        expected: u32,
    },
    /// Memory-mapping an array failed.
    #[error("cannot map the array {map} into memory")]
    Mmap {
        /// Name of the map.
        map: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading a map failed.
    #[error("cannot read the map {map}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The memory of a map could not be found out.
    #[error("cannot find out the memory of the map {map}")]
    Memory {
        /// Name of the map.
        map: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be looked at.
    #[error("cannot look at the loaded programs")]
    Programs {
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// A pinned link could not be looked at.
    #[error("cannot look at the pinned link {path}")]
    Link {
        /// Its pin, or the directory of all.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's statistics could not be switched on.
    #[error("cannot switch on the kernel's statistics of programs")]
    Statistics {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Writing a map failed.
    #[error("cannot write the map {map}")]
    Write {
        /// Name of the map.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The map has no room for another entry.
    #[error("the map {map} is full ({max_entries} entries)")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Its size.
        max_entries: u32,
    },
}

/// The errno behind a map error.
pub(crate) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        MapError::IoError(io) => io.raw_os_error(),
        _ => None,
    }
}
