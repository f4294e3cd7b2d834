//! `SOCKET_ORIGINS` and `SOCKET_REPLIES` in words.

use causeway_abi::conntrack::SocketOrigin;
use serde::{Deserialize, Serialize};

use super::ServiceNames;
use crate::{MapsError, PinnedMaps, address};

/// A socket that was given a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketView {
    /// The socket's cookie, hexadecimal: "sk:" of `ss --extended`.
    pub cookie: String,
    /// Whether the socket is connected; else it sends datagrams to whom it likes, and has an entry for each backend.
    pub connected: bool,
    /// "namespace/name:port"; empty when the service is gone.
    pub service: String,
    /// What the socket asked for, "address:port/PROTOCOL".
    pub vip: String,
    /// Its backend, "address:port/PROTOCOL".
    pub backend: String,
    /// Whether the backend is still the one the socket was given.
    pub backend_current: bool,
}

/// The balanced sockets, by service and virtual address.
pub fn sockets(maps: &PinnedMaps) -> Result<Vec<SocketView>, MapsError> {
    let mut names = ServiceNames::default();
    let connected = maps.socket_origins.entries()?.into_iter();
    let connected = connected.map(|(cookie, origin)| (cookie, true, origin));
    let unconnected = maps.socket_replies.entries()?.into_iter();
    let unconnected = unconnected.map(|(key, origin)| (key.cookie, false, origin));
    let in_words = |(cookie, connected, origin): (u64, bool, SocketOrigin)| {
        let backend = maps.backends.read(origin.backend);
        SocketView {
            cookie: format!("{cookie:x}"),
            connected,
            service: names.of(maps, origin.service_id),
            vip: address::endpoint(origin.vip, origin.port_be, origin.protocol),
            backend: backend
                .map(|backend| address::endpoint(backend.address, backend.port_be, backend.protocol))
                .unwrap_or_default(),
            backend_current: backend.is_some_and(|backend| backend.generation == origin.generation),
        }
    };
    let mut views: Vec<_> = connected.chain(unconnected).map(in_words).collect();
    views.sort_by(|a, b| (&a.service, &a.vip, &a.cookie, &a.backend).cmp(&(&b.service, &b.vip, &b.cookie, &b.backend)));
    Ok(views)
}
