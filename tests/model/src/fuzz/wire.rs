//! Frames as they are between nodes: inside the tunnel's headers (RFC 7348, 5).

use std::net::Ipv4Addr;

use super::craft::words;
use super::world::{TUNNEL_PORT, UPLINK_MAC, VNI, neighbour_mac};
use crate::model::frame::{ETHERNET, Frame, Part, Transport, protocol, read, word};
use crate::model::sum;

/// Bytes of Ethernet, IPv4, UDP and VXLAN.
pub const OVERHEAD: usize = 50;

/// Puts a frame into the tunnel from one node to another.
pub fn wrap(frame: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let length = (frame.len() + OVERHEAD - ETHERNET) as u16;
    let mut wire = UPLINK_MAC.to_vec();
    wire.extend(neighbour_mac(from.into()));
    wire.extend([0x08, 0x00, 0x45, 0]);
    wire.extend(length.to_be_bytes());
    wire.extend([0, 0, 0x40, 0, 64, protocol::UDP, 0, 0]);
    wire.extend(from.octets());
    wire.extend(to.octets());
    let header = sum::field(&[&wire[ETHERNET..]]);
    wire[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&header);
    wire.extend(50_123_u16.to_be_bytes());
    wire.extend(TUNNEL_PORT.to_be_bytes());
    wire.extend((length - 20).to_be_bytes());
    wire.extend([0, 0, 8, 0, 0, 0]);
    wire.extend((VNI << 8).to_be_bytes());
    wire.extend(frame);
    wire
}

/// The frame inside, and what is wrong with the headers around it, for one that a node sends to another.
pub fn unwrap(wire: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| Err(format!("outer headers: {what} of {}", words(wire)));
    let Frame::Ip(outer) = read(wire) else {
        return wrong("kind");
    };
    let Transport::Udp { source, destination } = outer.transport else {
        return wrong("protocol");
    };
    if wire[..6] != neighbour_mac(to.into()) || wire[6..12] != UPLINK_MAC {
        return wrong("MAC addresses");
    }
    if (outer.source, outer.destination) != (from.into(), to.into()) || destination != TUNNEL_PORT {
        return wrong("ends");
    }
    // A port of the dynamic range tells flows apart.
    if source < 49_152 {
        return wrong("source port");
    }
    // Never to be fragmented (RFC 7348, 4.3), whole, and the length of all there is.
    let header = &wire[ETHERNET..ETHERNET + 20];
    if outer.part != Part::Whole || header[6] != 0x40 || header[8] < 32 || sum::total(&[header]) != 0 {
        return wrong("IP header");
    }
    if outer.end > wire.len() || word(wire, ETHERNET + 24) != Some((outer.end - outer.l4) as u16) {
        return wrong("lengths");
    }
    let rest = &wire[outer.l4 + 6..OVERHEAD];
    let [.., a, b, c] = VNI.to_be_bytes();
    if rest != [0, 0, 8, 0, 0, 0, a, b, c, 0] {
        return wrong("VXLAN header");
    }
    // What is behind the packet is padding of the frame that came.
    Ok(wire[OVERHEAD..outer.end].to_vec())
}

/// Whether a frame is one of the tunnel's.
pub fn is_wire(frame: &[u8]) -> bool {
    frame.len() > OVERHEAD && word(frame, 36) == Some(TUNNEL_PORT) && frame[23] == protocol::UDP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_is_unwrapped() {
        let (here, there) = (Ipv4Addr::new(172, 30, 0, 11), Ipv4Addr::new(172, 30, 0, 12));
        let mut wire = wrap(b"a frame of some bytes", here, there);
        assert!(unwrap(&wire, here, there).is_err(), "addressed to the uplink itself");
        wire[..6].copy_from_slice(&neighbour_mac(there.into()));
        wire[6..12].copy_from_slice(&UPLINK_MAC);
        assert_eq!(unwrap(&wire, here, there).unwrap(), b"a frame of some bytes");
        wire[49] = 1;
        assert!(unwrap(&wire, here, there).is_err());
    }
}
