//! Whose packets go where: flows, sockets, clients of services with session affinity.

use causeway_maps::view::{AffinityView, FlowView, SocketView};

use super::{Item, Rows};
use crate::{names::Names, table::or_none};

pub(super) fn flows(flows: &[FlowView], names: &Names) -> Rows {
    let row = |flow: &FlowView| {
        let gone = if flow.backend_current { "" } else { " (gone)" };
        let client = if flow.direction == "Reply" {
            &flow.destination
        } else {
            &flow.source
        };
        let narrow = vec![
            flow.protocol.clone(),
            flow.source.clone(),
            flow.destination.clone(),
            flow.vip.clone(),
            format!("{}{gone}", flow.backend),
            flow.state.clone(),
            format!("{}s", flow.idle_seconds),
        ];
        let wide = vec![
            flow.direction.clone(),
            or_none(&flow.service),
            or_none(names.pod(client)),
            or_none(names.pod(&flow.backend)),
        ];
        Item::new(flow, narrow, wide)
            .with("clientPod", names.pod(client))
            .with("backendPod", names.pod(&flow.backend))
    };
    Rows {
        narrow: &["PROTOCOL", "SOURCE", "DESTINATION", "VIP", "BACKEND", "STATE", "IDLE"],
        wide: &["DIRECTION", "SERVICE", "CLIENT-POD", "BACKEND-POD"],
        items: flows.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn sockets(sockets: &[SocketView], names: &Names) -> Rows {
    let row = |socket: &SocketView| {
        let kind = if socket.connected { "connected" } else { "datagrams" };
        let gone = if socket.backend_current { "" } else { " (gone)" };
        let narrow = vec![
            format!("sk:{}", socket.cookie),
            kind.to_owned(),
            or_none(&socket.service),
            socket.vip.clone(),
            format!("{}{gone}", or_none(&socket.backend)),
            or_none(names.pod(&socket.backend)),
        ];
        Item::new(socket, narrow, Vec::new()).with("backendPod", names.pod(&socket.backend))
    };
    Rows {
        narrow: &["SOCKET", "KIND", "SERVICE", "VIP", "BACKEND", "BACKEND-POD"],
        items: sockets.iter().map(row).collect(),
        ..Rows::default()
    }
}

pub(super) fn affinity(clients: &[AffinityView], names: &Names) -> Rows {
    let row = |client: &AffinityView| {
        let gone = if client.backend_current { "" } else { " (gone)" };
        let narrow = vec![
            client.client.clone(),
            or_none(names.pod(&client.client)),
            or_none(&client.service),
            format!("{}{gone}", client.backend),
            or_none(names.pod(&client.backend)),
            format!("{}s", client.idle_seconds),
        ];
        Item::new(client, narrow, Vec::new())
            .with("clientPod", names.pod(&client.client))
            .with("backendPod", names.pod(&client.backend))
    };
    Rows {
        narrow: &["CLIENT", "CLIENT-POD", "SERVICE", "BACKEND", "BACKEND-POD", "IDLE"],
        items: clients.iter().map(row).collect(),
        ..Rows::default()
    }
}
