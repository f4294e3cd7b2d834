//! Frames with right lengths and checksums, unless a test asks for wrong ones.

use std::net::{IpAddr, SocketAddr};

/// What a frame carries behind its IP header.
#[derive(Clone, Debug)]
enum Transport {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
    },
    Udp {
        checksum: bool,
    },
    Raw {
        protocol: u8,
    },
}

/// A frame under construction. Its source and destination are of one IP family.
#[derive(Clone, Debug)]
pub struct Frame {
    source: SocketAddr,
    destination: SocketAddr,
    transport: Transport,
    payload: Vec<u8>,
    options: Vec<u8>,
    extensions: Vec<u8>,
    fragment: u16,
    vlan: Vec<u16>,
    macs: [u8; 12],
}

impl Frame {
    fn new(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one IP family");
        Self {
            source,
            destination,
            transport,
            payload: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0,
            vlan: Vec::new(),
            macs: [0x02, 0, 0, 0, 0, 0xaa, 0x02, 0, 0, 0, 0, 0xbb],
        }
    }

    /// A TCP segment; addresses as in `10.0.0.1:80` or `[fd00::1]:80`.
    pub fn tcp(source: &str, destination: &str, flags: u8) -> Self {
        let transport = Transport::Tcp {
            flags,
            sequence: 1_000,
            acknowledgement: 2_000,
        };
        Self::new(address(source), address(destination), transport)
    }

    /// A UDP datagram.
    pub fn udp(source: &str, destination: &str) -> Self {
        Self::new(address(source), address(destination), Transport::Udp { checksum: true })
    }

    /// An IP packet of any protocol; `payload` follows the IP header as it is.
    pub fn raw(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Self {
        let any_port = |text: &str| SocketAddr::new(text.parse().expect("an IP address"), 0);
        Self::new(any_port(source), any_port(destination), Transport::Raw { protocol }).payload(payload)
    }

    /// An ICMP or `ICMPv6` message, by the family of the addresses, with its checksum.
    pub fn icmp(source: &str, destination: &str, kind: u8, code: u8, rest: &[u8]) -> Self {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        let (from, to): (IpAddr, IpAddr) = (
            source.parse().expect("an IP address"),
            destination.parse().expect("an IP address"),
        );
        let (protocol, sum) = match from {
            IpAddr::V4(_) => (1, internet_checksum(&[&message])),
            IpAddr::V6(_) => (58, transport_checksum(from, to, 58, &message)),
        };
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        Self::raw(source, destination, protocol, &message)
    }

    /// Payload of the transport protocol.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sequence and acknowledgement number of a TCP segment.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        if let Transport::Tcp { flags, .. } = self.transport {
            self.transport = Transport::Tcp {
                flags,
                sequence,
                acknowledgement,
            };
        }
        self
    }

    /// A UDP datagram without checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        self.transport = Transport::Udp { checksum: false };
        self
    }

    /// IPv4 options; a multiple of 4 bytes.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// The field with flags and fragment offset of the IPv4 header.
    #[must_use]
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// Puts IPv6 destination options headers in front of the transport header.
    #[must_use]
    pub fn extensions(mut self, count: usize) -> Self {
        self.extensions = vec![60; count];
        self
    }

    /// Puts an IPv6 fragment header in front of the transport header; `field` holds offset and more-fragments bit.
    #[must_use]
    pub fn fragment_v6(mut self, field: u16) -> Self {
        self.fragment = field;
        self.extensions = vec![44];
        self
    }

    /// Adds a VLAN tag.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlan.push(id);
        self
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.macs.to_vec();
        for id in &self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        let (protocol, transport) = self.transport();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let length = 20 + self.options.len();
                let mut header = vec![0x40 | u8::try_from(length / 4).expect("at most 40 bytes of options"), 0];
                header.extend(
                    u16::try_from(length + transport.len())
                        .expect("fits a packet")
                        .to_be_bytes(),
                );
                header.extend([0x12, 0x34]);
                header.extend(self.fragment.to_be_bytes());
                header.extend([64, protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                header.extend(&self.options);
                let sum = internet_checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                let length = self.extensions.len() * 8 + transport.len();
                frame.extend(u16::try_from(length).expect("fits a packet").to_be_bytes());
                frame.extend([self.extensions.first().copied().unwrap_or(protocol), 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                for (i, kind) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(i + 1).copied().unwrap_or(protocol);
                    if *kind == 44 {
                        frame.extend([next, 0]);
                        frame.extend(self.fragment.to_be_bytes());
                        frame.extend([0, 0, 0, 9]);
                    } else {
                        frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
                    }
                }
            }
            _ => unreachable!("checked when made"),
        }
        frame.extend(transport);
        frame
    }

    fn transport(&self) -> (u8, Vec<u8>) {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        let (protocol, checksum_at) = match self.transport {
            Transport::Tcp {
                flags,
                sequence,
                acknowledgement,
            } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
                (6, Some(16))
            }
            Transport::Udp { checksum } => {
                bytes.extend(
                    u16::try_from(8 + self.payload.len())
                        .expect("fits a datagram")
                        .to_be_bytes(),
                );
                bytes.extend([0, 0]);
                (17, checksum.then_some(6))
            }
            Transport::Raw { protocol } => return (protocol, self.payload.clone()),
        };
        bytes.extend(&self.payload);
        if let Some(at) = checksum_at {
            let sum = transport_checksum(self.source.ip(), self.destination.ip(), protocol, &bytes);
            let sum = if sum == 0 && protocol == 17 { 0xffff } else { sum };
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, bytes)
    }
}

/// The Internet checksum (RFC 1071) over several pieces, each but the last of even length.
pub fn internet_checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// The checksum of a transport packet with its pseudo header (RFC 9293, 3.1; RFC 8200, 8.1). Over a packet that has its
/// checksum filled in it is 0.
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, packet: &[u8]) -> u16 {
    let length = u32::try_from(packet.len()).expect("fits a packet").to_be_bytes();
    let rest = [0, 0, 0, protocol];
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            internet_checksum(&[&from.octets(), &to.octets(), &length, &rest, packet])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            internet_checksum(&[&from.octets(), &to.octets(), &length, &rest, packet])
        }
        _ => panic!("addresses of two families"),
    }
}

/// The frame with so many hops left.
pub fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[12..14] == [0x86, 0xdd] {
        frame[21] = hops;
        return frame;
    }
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    frame[22] = hops;
    frame[24..26].fill(0);
    let sum = internet_checksum(&[&frame[14..end]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The IP packet in a frame, as a router sends it on: with one hop less.
pub fn one_hop_later(frame: &[u8]) -> Vec<u8> {
    let hops = if frame[12..14] == [0x86, 0xdd] {
        frame[21]
    } else {
        frame[22]
    };
    with_hops(frame.to_vec(), hops - 1).split_off(14)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no socket address"))
}
