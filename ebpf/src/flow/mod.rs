//! Flows: keys and translations here, the rest in a file each.

mod hash;
mod port;
mod state;

use causeway_abi::{
    Address,
    conntrack::{DIRECTION_FORWARD, DIRECTION_REPLY, Flow, FlowKey, HAIRPIN_V4, HAIRPIN_V6},
    service::{NO_BACKEND, Service, ServiceKey},
};
use zerocopy::{Immutable, IntoBytes};

pub use self::{
    hash::{client_hash, cookie_hash, hash},
    port::{NODE_PORT_ATTEMPTS, PORT_ATTEMPTS, PORT_ATTEMPTS_STRICT, node_port_be, translated_port_be},
    state::{begins_again, both_expired, expired, is_closing, next_state},
};
use crate::parse::Headers;

/// What a packet's source and destination become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Translation {
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// New source port, network byte order.
    pub source_port_be: u16,
    /// New destination port, network byte order.
    pub destination_port_be: u16,
    /// The service's id.
    pub service_id: u32,
    /// Index into `BACKENDS`.
    pub backend: u32,
}

impl Translation {
    /// To nowhere.
    pub const NONE: Self = Self {
        source: Address::from_words([0; 4]),
        destination: Address::from_words([0; 4]),
        source_port_be: 0,
        destination_port_be: 0,
        service_id: 0,
        backend: NO_BACKEND,
    };

    /// To where the packet is going already.
    #[inline(always)]
    pub const fn none(headers: &Headers) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            source_port_be: headers.source_port_be,
            destination_port_be: headers.destination_port_be,
            ..Self::NONE
        }
    }

    /// The same, on behalf of a service.
    #[inline(always)]
    pub const fn none_of(headers: &Headers, service: &Service) -> Self {
        Self {
            service_id: service.service_id,
            ..Self::none(headers)
        }
    }
}

/// The service a packet may be for, as seen from a scope.
#[inline(always)]
pub const fn service_key(headers: &Headers, scope: u8) -> ServiceKey {
    ServiceKey {
        address: headers.destination,
        port_be: headers.destination_port_be,
        protocol: headers.protocol,
        scope,
    }
}

/// A packet's flow, as its client sends it.
#[inline(always)]
pub const fn forward_key(headers: &Headers) -> FlowKey {
    key(headers, DIRECTION_FORWARD)
}

/// A packet's flow, as its backend answers it.
#[inline(always)]
pub const fn reply_key(headers: &Headers) -> FlowKey {
    key(headers, DIRECTION_REPLY)
}

#[inline(always)]
const fn key(headers: &Headers, direction: u8) -> FlowKey {
    FlowKey {
        source: headers.source,
        destination: headers.destination,
        source_port_be: headers.source_port_be,
        destination_port_be: headers.destination_port_be,
        protocol: headers.protocol,
        direction,
        reserved: 0,
    }
}

/// The key of the client's half of a flow.
#[inline(always)]
pub const fn forward_key_of(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.client,
        destination: flow.vip,
        source_port_be: flow.client_port_be,
        destination_port_be: flow.vip_port_be,
        protocol,
        direction: DIRECTION_FORWARD,
        reserved: 0,
    }
}

/// The key of the backend's half of a flow.
#[inline(always)]
pub const fn reply_key_of(flow: &Flow, protocol: u8) -> FlowKey {
    FlowKey {
        source: flow.backend_address,
        destination: flow.translated_client,
        source_port_be: flow.backend_port_be,
        destination_port_be: flow.translated_client_port_be,
        protocol,
        direction: DIRECTION_REPLY,
        reserved: 0,
    }
}

/// What a client's packet becomes.
#[inline(always)]
pub const fn to_backend(flow: &Flow) -> Translation {
    Translation {
        source: flow.translated_client,
        destination: flow.backend_address,
        source_port_be: flow.translated_client_port_be,
        destination_port_be: flow.backend_port_be,
        service_id: flow.service_id,
        backend: flow.backend,
    }
}

/// What a backend's packet becomes.
#[inline(always)]
pub const fn to_client(flow: &Flow) -> Translation {
    Translation {
        source: flow.vip,
        destination: flow.client,
        source_port_be: flow.vip_port_be,
        destination_port_be: flow.client_port_be,
        service_id: flow.service_id,
        backend: flow.backend,
    }
}

/// The source address a pod is to see when it reaches itself through a VIP: from its own, it would answer itself directly.
#[inline(always)]
pub fn hairpin_source(client: &Address) -> Address {
    if client.to_v4().is_some() {
        Address::from_v4(HAIRPIN_V4)
    } else {
        Address::new(HAIRPIN_V6)
    }
}

#[cfg(test)]
mod tests {
    use causeway_abi::conntrack::TCP_SYN_SENT;

    use super::*;
    use crate::parse::protocol;

    pub(super) fn flow(state: u8, last_seen_ns: u64) -> Flow {
        let address = |last| Address::from_v4([10, 0, 0, last]);
        Flow {
            last_seen_ns,
            backend: 3,
            generation: 1,
            vip: address(1),
            vip_port_be: 80_u16.to_be(),
            tcp_state: state,
            reserved: 0,
            service_id: 9,
            client: address(2),
            translated_client: address(2),
            backend_address: address(3),
            client_port_be: 4000_u16.to_be(),
            translated_client_port_be: 4001_u16.to_be(),
            backend_port_be: 8080_u16.to_be(),
            reserved2: 0,
        }
    }

    #[test]
    fn both_translations_are_inverse() {
        let flow = flow(TCP_SYN_SENT, 0);
        let forward = forward_key_of(&flow, protocol::TCP);
        let reply = reply_key_of(&flow, protocol::TCP);
        let out = to_backend(&flow);
        assert_eq!(
            (out.source, out.source_port_be),
            (reply.destination, reply.destination_port_be)
        );
        assert_eq!(
            (out.destination, out.destination_port_be),
            (reply.source, reply.source_port_be)
        );
        let back = to_client(&flow);
        assert_eq!(
            (back.source, back.source_port_be),
            (forward.destination, forward.destination_port_be)
        );
        assert_eq!(
            (back.destination, back.destination_port_be),
            (forward.source, forward.source_port_be)
        );
    }

    #[test]
    fn a_pod_reaching_itself_is_given_another_source() {
        let pod = Address::from_v4([10, 244, 0, 5]);
        assert_eq!(hairpin_source(&pod), Address::from_v4(HAIRPIN_V4));
        assert_eq!(hairpin_source(&Address::new([0xfd; 16])), Address::new(HAIRPIN_V6));
    }
}
