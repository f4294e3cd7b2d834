//! Which sockets were translated when they connected.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd},
    path::Path,
};

use aya::maps::{Map, MapData, MapError, SkStorage};
use causeway_abi::conntrack::SocketOrigin;
use causeway_maps::{MapsError, Plain, shape};

use super::DatapathError;

/// The pinned socket storage `SOCKET_ORIGIN`.
#[derive(Debug)]
pub struct SocketOrigins {
    map: SkStorage<MapData, Plain<SocketOrigin>>,
    descriptor: OwnedFd,
}

impl SocketOrigins {
    pub(super) fn open(maps_dir: &Path) -> Result<Self, DatapathError> {
        let shape = shape::SOCKET_ORIGIN;
        let read = |source| MapsError::Read {
            map: shape.name,
            source,
        };
        let data = shape.open(maps_dir)?.ok_or_else(|| MapsError::NotThere {
            dir: maps_dir.to_owned(),
        })?;
        let descriptor = data.fd().as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|source| DatapathError::Pin {
            path: maps_dir.join(shape.name),
            source,
        })?;
        let map = Map::from_map_data(data).and_then(SkStorage::try_from).map_err(read)?;
        Ok(Self { map, descriptor })
    }

    /// Whether a socket, of which this process has a descriptor, was translated when it connected.
    pub fn is_translated(&self, socket: &impl AsRawFd) -> io::Result<bool> {
        match self.map.get(socket, 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) => Err(error.io_error),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl AsRawFd for SocketOrigins {
    fn as_raw_fd(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }
}
