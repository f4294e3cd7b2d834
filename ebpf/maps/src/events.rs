//! Taking events out of `EVENTS`, for as long as somebody watches.
//!
//! A ring buffer has one consumer: its position is in the map. Whoever takes events out holds a lock on the directory of the
//! map pins, so that two never do at once. Programs write events only while the deadlines in `TRACE` lie ahead; the reader
//! moves them on, and nothing needs to be cleared when it is gone.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{Map, MapData, RingBuf};
use causeway_abi::event::{Event, Trace};
use zerocopy::FromBytes as _;

use crate::{
    MapsError, PinnedMaps, pins, shape, sys,
    view::{EventView, ServiceNames, monotonic_ns},
};

/// How far ahead deadlines are set; readers move them on well within this.
pub const WATCH_AHEAD: Duration = Duration::from_secs(3);

/// Events could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// Somebody else takes them.
    #[error("somebody else takes this node's events already; only one can (its agent does, for all who ask it)")]
    Taken,
    /// The lock could not be tried.
    #[error("cannot lock {path}")]
    Lock {
        /// The directory of the pins.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ring buffer could not be waited on.
    #[error("cannot wait for events")]
    Poll {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Maps could not be used.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The one consumer of a node's events.
pub struct EventReader {
    ring: RingBuf<MapData>,
    maps: PinnedMaps,
    names: ServiceNames,
    lost_before: u64,
    since_ns: u64,
    unix_minus_monotonic_ns: u64,
    _lock: File,
}

impl EventReader {
    /// Becomes the consumer. Events that were left from before are passed over.
    pub fn open(node_dir: &Path) -> Result<Self, EventsError> {
        let maps = PinnedMaps::open(node_dir)?;
        let dir = pins::maps_dir(node_dir);
        let lock = sys::lock(&dir, false)
            .map_err(|source| EventsError::Lock {
                path: dir.clone(),
                source,
            })?
            .ok_or(EventsError::Taken)?;
        let ring = open_ring(&dir)?;
        let now_ns = monotonic_ns();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            ring,
            names: ServiceNames::default(),
            lost_before: maps.events_lost.sum(0)?,
            since_ns: now_ns,
            unix_minus_monotonic_ns: u64::try_from(unix.as_nanos()).unwrap_or(0).saturating_sub(now_ns),
            maps,
            _lock: lock,
        })
    }

    /// Asks the programs to write events for a while from now on: drops, refusals and new connections, and every packet if
    /// `packets`.
    pub fn keep_watching(&self, packets: bool) {
        let ahead = u64::try_from(WATCH_AHEAD.as_nanos()).unwrap_or(0);
        let until_ns = monotonic_ns().saturating_add(ahead);
        self.maps.trace.write(
            0,
            &Trace {
                until_ns,
                packets_until_ns: if packets { until_ns } else { 0 },
            },
        );
    }

    /// The next event that is there already. Never waits: poll the descriptor for that.
    pub fn next_event(&mut self) -> Option<EventView> {
        loop {
            let event = {
                let item = self.ring.next()?;
                Event::read_from_bytes(&item).ok()
            };
            // Names may be given to other services later; events are few enough to look up names of the last second only.
            match event {
                Some(event) if event.time_ns >= self.since_ns => {
                    let unix = self.unix_minus_monotonic_ns;
                    return Some(EventView::new(&event, &self.maps, &mut self.names, unix));
                }
                _ => {}
            }
        }
    }

    /// Forgets the names of services, which may have changed.
    pub fn refresh_names(&mut self) {
        self.names = ServiceNames::default();
    }

    /// Events that found the ring buffer full since this reader was opened.
    pub fn lost(&self) -> Result<u64, MapsError> {
        Ok(self.maps.events_lost.sum(0)?.saturating_sub(self.lost_before))
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.maps.trace.write(0, &Trace::default());
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn open_ring(dir: &Path) -> Result<RingBuf<MapData>, MapsError> {
    let read = |source| MapsError::Read {
        map: shape::EVENTS.name,
        source,
    };
    let data = shape::EVENTS
        .open(dir)?
        .ok_or_else(|| MapsError::NotThere { dir: dir.to_owned() })?;
    Map::from_map_data(data).map_err(read)?.try_into().map_err(read)
}
