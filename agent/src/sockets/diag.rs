//! Messages of `sock_diag(7)`, as bytes. Pure. Layouts: `include/uapi/linux/{netlink,sock_diag,inet_diag}.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_maps::Protocol;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// Offset of the id in `struct inet_diag_msg`.
const MESSAGE_ID: usize = 4;
/// Offset of the cookie in the id: its lower half, then its upper one.
const ID_COOKIE: usize = 40;

/// A family of sockets. IPv4 peers of [`Family::V6`] are v4-mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl Family {
    fn number(self) -> u8 {
        // Both fit a byte.
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// A socket as the kernel tells of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its family.
    pub family: Family,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whom it is connected to; a v4-mapped address as IPv4.
    pub peer: SocketAddr,
    /// `struct inet_diag_sockid`, which names it.
    id: [u8; ID],
}

impl Socket {
    /// The number that tells it from all others; what `bpf_get_socket_cookie` says too.
    pub fn cookie(&self) -> u64 {
        let half = |offset| u64::from(u32_at(&self.id, offset).unwrap_or_default());
        half(ID_COOKIE) | half(ID_COOKIE + 4) << 32
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A socket.
    Socket(Socket),
    /// That was all, or it is done.
    Done,
    /// An `errno`.
    Error(i32),
}

/// Asks for all connected sockets of a family and protocol.
pub fn dump(family: Family, protocol: Protocol) -> Vec<u8> {
    // TCP_ESTABLISHED to TCP_CLOSING, but for TCP_TIME_WAIT, TCP_CLOSE and TCP_LISTEN; a connected UDP socket is "established".
    let states: u32 = (1 << 1) | (1 << 2) | (1 << 3) | (1 << 4) | (1 << 5) | (1 << 8) | (1 << 9) | (1 << 11);
    let mut body = vec![family.number(), protocol.0, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend([0; ID]);
    message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &body)
}

/// Asks to destroy a socket.
pub fn destroy(socket: &Socket) -> Vec<u8> {
    let mut body = vec![socket.family.number(), socket.protocol.0, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(socket.id);
    message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &body)
}

/// Asks to destroy a socket that cannot be: port 0 of the unspecified address. The answer tells what the kernel thinks of the
/// request.
pub fn destroy_none(protocol: Protocol) -> Vec<u8> {
    destroy(&Socket {
        family: Family::V4,
        protocol,
        peer: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        id: [0; ID],
    })
}

/// The answers in what was received for a request about `protocol`. What is cut short or of another kind is left out.
pub fn answers(mut bytes: &[u8], protocol: Protocol) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(length) = u32_at(bytes, 0).map(|length| length as usize) {
        let Some(one) = bytes.get(HEADER..length) else { break };
        match u16_at(bytes, 4) {
            Some(SOCK_DIAG_BY_FAMILY) => answers.extend(socket(one, protocol).map(Answer::Socket)),
            Some(NLMSG_DONE) => answers.push(Answer::Done),
            Some(NLMSG_ERROR) => {
                let number = u32_at(one, 0).map_or(0, u32::cast_signed);
                answers.push(if number == 0 {
                    Answer::Done
                } else {
                    Answer::Error(-number)
                });
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn socket(body: &[u8], protocol: Protocol) -> Option<Socket> {
    let id: [u8; ID] = body.get(MESSAGE_ID..MESSAGE_ID + ID)?.try_into().ok()?;
    let family = match i32::from(*body.first()?) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    // In the id: source port, destination port, source address, destination address.
    let port = u16::from_be_bytes([id[2], id[3]]);
    let address: IpAddr = match family {
        Family::V4 => <[u8; 4]>::try_from(&id[20..24]).ok()?.into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(&id[20..36]).ok()?).to_canonical(),
    };
    Some(Socket {
        family,
        protocol,
        peer: SocketAddr::new(address, port),
        id,
    })
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port id: one request at a time on a socket.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE: usize = 72;

    /// A message about a socket with this peer.
    fn told(family: Family, peer: SocketAddr) -> Vec<u8> {
        let mut body = vec![0; MESSAGE];
        body[0] = family.number();
        body[MESSAGE_ID + 2..MESSAGE_ID + 4].copy_from_slice(&peer.port().to_be_bytes());
        let at = MESSAGE_ID + 20;
        match (family, peer.ip()) {
            (Family::V4, IpAddr::V4(address)) => body[at..at + 4].copy_from_slice(&address.octets()),
            (Family::V6, IpAddr::V4(address)) => {
                body[at..at + 16].copy_from_slice(&address.to_ipv6_mapped().octets());
            }
            (_, IpAddr::V6(address)) => body[at..at + 16].copy_from_slice(&address.octets()),
        }
        let cookie = MESSAGE_ID + ID_COOKIE;
        body[cookie..cookie + 4].copy_from_slice(&0x89ab_cdef_u32.to_ne_bytes());
        body[cookie + 4..cookie + 8].copy_from_slice(&0x0123_4567_u32.to_ne_bytes());
        message(SOCK_DIAG_BY_FAMILY, 0, &body)
    }

    #[test]
    fn peers_and_cookies_are_understood() {
        let (v4, v6): (SocketAddr, SocketAddr) = ("10.1.2.3:80".parse().unwrap(), "[fd00::1]:443".parse().unwrap());
        let mut bytes = told(Family::V4, v4);
        bytes.extend(told(Family::V6, v4));
        bytes.extend(told(Family::V6, v6));
        bytes.extend(message(NLMSG_DONE, 0, &[0; 4]));
        let answers = answers(&bytes, Protocol::TCP);
        let shown: Vec<_> = answers
            .iter()
            .map(|answer| match answer {
                Answer::Socket(socket) => {
                    assert_eq!(socket.cookie(), 0x0123_4567_89ab_cdef);
                    Some((socket.family, socket.peer))
                }
                _ => None,
            })
            .collect();
        let expected = [(Family::V4, v4), (Family::V6, v4), (Family::V6, v6)];
        assert_eq!(shown[..3], expected.map(Some));
        assert_eq!(answers[3], Answer::Done);
    }

    #[test]
    fn errors_and_acknowledgements_are_told_apart() {
        let error = |number: i32| {
            message(
                NLMSG_ERROR,
                0,
                &[number.to_ne_bytes().as_slice(), &[0; HEADER]].concat(),
            )
        };
        assert_eq!(answers(&error(0), Protocol::UDP), [Answer::Done]);
        assert_eq!(
            answers(&error(-libc::ENOENT), Protocol::UDP),
            [Answer::Error(libc::ENOENT)]
        );
    }

    #[test]
    fn a_request_has_the_length_that_it_tells() {
        for bytes in [
            dump(Family::V4, Protocol::TCP),
            dump(Family::V6, Protocol::UDP),
            destroy_none(Protocol::TCP),
        ] {
            assert_eq!(u32_at(&bytes, 0).unwrap() as usize, bytes.len());
        }
        assert_eq!(dump(Family::V4, Protocol::TCP).len(), HEADER + 8 + ID);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = answers(&bytes, Protocol::TCP);
        }

        #[test]
        fn no_cut_is_a_reason_to_panic(cut in 0_usize..200, flip in 0_usize..200, to in any::<u8>()) {
            let mut bytes = told(Family::V6, "[fd00::1]:443".parse().unwrap());
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(flip) {
                *byte = to;
            }
            let _ = answers(&bytes, Protocol::TCP);
        }
    }
}
