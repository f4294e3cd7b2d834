//! `BACKENDS` in words.

use std::fmt;

use causeway_abi::backend::{Backend, IN_USE, LOCAL, READY, READY_ALWAYS, TERMINATING};
use serde::{Deserialize, Serialize};

use crate::{PinnedMaps, address};

/// One bit of a backend's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BackendState {
    /// Answers; takes new connections unless it is terminating.
    Ready,
    /// Was asked to end; takes new connections only while it is ready and no other backend is.
    Terminating,
    /// Runs on this node.
    Local,
    /// Its service asks for pods whether they are ready or not.
    ReadyAlways,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "READY",
            Self::Terminating => "TERMINATING",
            Self::Local => "LOCAL",
            Self::ReadyAlways => "READY_ALWAYS",
        })
    }
}

/// The states in a backend's flags.
pub fn states(flags: u32) -> Vec<BackendState> {
    [
        (READY, BackendState::Ready),
        (TERMINATING, BackendState::Terminating),
        (LOCAL, BackendState::Local),
        (READY_ALWAYS, BackendState::ReadyAlways),
    ]
    .into_iter()
    .filter_map(|(bit, state)| (flags & bit != 0).then_some(state))
    .collect()
}

/// An element of `BACKENDS` that is in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Index in `BACKENDS`.
    pub index: u32,
    /// "address:port/PROTOCOL".
    pub address: String,
    /// READY, TERMINATING, LOCAL, `READY_ALWAYS`.
    pub state: Vec<BackendState>,
    /// How often the index was given to a backend.
    pub generation: u32,
}

impl BackendView {
    /// An element in words.
    pub fn new(index: u32, backend: &Backend) -> Self {
        Self {
            index,
            address: address::endpoint(backend.address, backend.port_be, backend.protocol),
            state: states(backend.flags),
            generation: backend.generation,
        }
    }

    /// Whether it takes new connections while others do.
    pub fn takes_connections(&self) -> bool {
        self.state.contains(&BackendState::Ready) && !self.state.contains(&BackendState::Terminating)
    }

    /// The states joined by `|`, led by `NOT_READY` when READY is not among them.
    pub fn state_text(&self) -> String {
        let mut words: Vec<_> = self.state.iter().map(ToString::to_string).collect();
        if !self.state.contains(&BackendState::Ready) {
            words.insert(0, "NOT_READY".to_owned());
        }
        words.join("|")
    }
}

/// All backends in use, by index.
pub fn backends(maps: &PinnedMaps) -> Vec<BackendView> {
    (0..maps.backends.len())
        .filter_map(|index| Some((index, maps.backends.read(index)?)))
        .filter(|(_, backend)| backend.flags & IN_USE != 0)
        .map(|(index, backend)| BackendView::new(index, &backend))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_in_words() {
        let view = |flags| {
            BackendView::new(
                0,
                &Backend {
                    flags,
                    protocol: 6,
                    ..Backend::default()
                },
            )
        };
        assert_eq!(view(IN_USE | READY | LOCAL).state_text(), "READY|LOCAL");
        assert_eq!(view(IN_USE | READY | TERMINATING).state_text(), "READY|TERMINATING");
        assert_eq!(view(IN_USE | TERMINATING).state_text(), "NOT_READY|TERMINATING");
        assert_eq!(view(IN_USE | LOCAL).state_text(), "NOT_READY|LOCAL");
        let json = serde_json::to_value(view(IN_USE | READY | LOCAL)).unwrap();
        assert_eq!(json["state"], serde_json::json!(["READY", "LOCAL"]));
    }
}
