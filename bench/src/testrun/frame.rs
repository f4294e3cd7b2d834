//! Frames to measure with.

use std::net::SocketAddrV4;

use crate::service::Transport;

/// Bytes of every frame: the headers of TCP over IPv4 over Ethernet, and ten of data.
pub const FRAME_BYTES: usize = 64;
const ETHERNET: usize = 14;
const IP: usize = 20;

/// Opens a connection.
pub const TCP_SYN: u8 = 1 << 1;
/// Belongs to one that is open.
pub const TCP_ACK: u8 = 1 << 4;

/// A packet from one address to another, with right checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Who sends.
    pub source: SocketAddrV4,
    /// Whereto.
    pub destination: SocketAddrV4,
    /// TCP or UDP.
    pub transport: Transport,
    /// TCP: its flags.
    pub flags: u8,
}

impl Frame {
    /// A TCP segment.
    pub fn tcp(source: SocketAddrV4, destination: SocketAddrV4, flags: u8) -> Self {
        Self {
            source,
            destination,
            transport: Transport::Tcp,
            flags,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        let protocol = match self.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        let (ip, transport) = frame[ETHERNET..].split_at_mut(IP);
        let length = (FRAME_BYTES - ETHERNET) as u16;
        ip[..2].copy_from_slice(&[0x45, 0]);
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        // Do not fragment; time to live.
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = protocol;
        ip[12..16].copy_from_slice(&self.source.ip().octets());
        ip[16..20].copy_from_slice(&self.destination.ip().octets());
        let sum = checksum(0, ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        transport[..2].copy_from_slice(&self.source.port().to_be_bytes());
        transport[2..4].copy_from_slice(&self.destination.port().to_be_bytes());
        let place = match self.transport {
            Transport::Tcp => {
                transport[7] = 1;
                transport[11] = u8::from(self.flags & TCP_ACK != 0);
                transport[12] = 5 << 4;
                transport[13] = self.flags;
                transport[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
                16
            }
            Transport::Udp => {
                transport[4..6].copy_from_slice(&(length - IP as u16).to_be_bytes());
                6
            }
        };
        // The pseudo-header (RFC 9293, 3.1; RFC 768): addresses, protocol, length.
        let mut pseudo = [0; 12];
        pseudo[..8].copy_from_slice(&ip[12..20]);
        pseudo[9] = protocol;
        pseudo[10..].copy_from_slice(&(length - IP as u16).to_be_bytes());
        let sum = checksum(sum_of(&pseudo), transport);
        transport[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }
}

/// RFC 1071.
fn checksum(more: u32, bytes: &[u8]) -> u16 {
    let sum = more + sum_of(bytes);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_come_out_even() {
        let source = "10.244.1.9:40000".parse().unwrap();
        let destination = "10.96.0.1:80".parse().unwrap();
        for transport in [Transport::Tcp, Transport::Udp] {
            let frame = Frame {
                source,
                destination,
                transport,
                flags: TCP_SYN,
            };
            let bytes = frame.bytes();
            assert_eq!(checksum(0, &bytes[ETHERNET..ETHERNET + IP]), 0);
            let length = FRAME_BYTES - ETHERNET - IP;
            let pseudo = sum_of(&bytes[26..34]) + u32::from(bytes[23]) + length as u32;
            assert_eq!(checksum(pseudo, &bytes[ETHERNET + IP..]), 0, "{transport:?}");
        }
    }
}
