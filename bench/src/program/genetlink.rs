//! Generic netlink, as much of it as a benchmark needs: requests, their answers, attributes in attributes.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY` and its attributes (include/uapi/linux/genetlink.h).
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `nlmsghdr` and `genlmsghdr`.
const HEADER_BYTES: usize = 16;
const GENERIC_HEADER_BYTES: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// Of an attribute's type, what is not a flag.
const TYPE_MASK: u16 = 0x3fff;

/// An attribute.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (value.len() + 4) as u16;
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute made of attributes.
pub(super) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

/// The value of the first attribute of a kind.
pub(super) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A socket to a generic netlink family of the present network namespace.
#[derive(Debug)]
pub(super) struct Family {
    socket: OwnedFd,
    id: u16,
    version: u8,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Family {
    /// Opens it; the kernel loads the module that has it. `None` when there is none.
    pub(super) fn open(name: &str, version: u8) -> Result<Option<Self>> {
        // SAFETY: takes no pointer.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_GENERIC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot open a netlink socket");
        }
        let mut family = Self {
            // SAFETY: the kernel just gave us this descriptor.
            socket: unsafe { OwnedFd::from_raw_fd(fd) },
            id: CONTROL,
            version: 1,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
        };
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let answer = match family.request(GET_FAMILY, &[attribute(FAMILY_NAME, &text)]) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot look for {name}")),
        };
        let Some([low, high]) = answer.as_deref().and_then(|answer| find(answer, FAMILY_ID)) else {
            bail!("the kernel does not tell the number of {name}");
        };
        family.id = u16::from_ne_bytes([*low, *high]);
        family.version = version;
        Ok(Some(family))
    }

    /// Sends a command and waits for what comes of it: the attributes of an answer, if there is one.
    pub(super) fn request(&mut self, command: u8, attributes: &[Vec<u8>]) -> io::Result<Option<Vec<u8>>> {
        self.sequence += 1;
        let payload = attributes.concat();
        let length = HEADER_BYTES + GENERIC_HEADER_BYTES + payload.len();
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(self.id.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend([command, self.version, 0, 0]);
        message.extend(payload);
        // SAFETY: `message` is valid for reading; a netlink socket that is not connected sends to the kernel.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = None;
        loop {
            let buffer = &mut self.buffer;
            // SAFETY: `buffer` is valid for writing.
            let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if got < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut rest = &self.buffer[..got.unsigned_abs()];
            while let Some((kind, body, more)) = message_of(rest) {
                rest = more;
                if i32::from(kind) != libc::NLMSG_ERROR {
                    answer = body.get(GENERIC_HEADER_BYTES..).map(<[u8]>::to_vec);
                    continue;
                }
                // An acknowledgement is an error number, negative or zero, and the request (netlink(7)).
                return match body.first_chunk::<4>().map(|number| i32::from_ne_bytes(*number)) {
                    Some(0) => Ok(answer),
                    Some(number) => Err(io::Error::from_raw_os_error(-number)),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
    }
}

/// Type and body of the first message, and what is behind it.
fn message_of(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let body = bytes.get(HEADER_BYTES..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([header[4], header[5]]), body, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_where_they_were_put() {
        let inner = [attribute(1, &[7]), attribute(3, &2_u32.to_ne_bytes())];
        let bytes = [attribute(2, b"odd"), nested(5, &inner)].concat();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 2), Some(&b"odd"[..]));
        let nested = find(&bytes, 5).unwrap();
        assert_eq!(find(nested, 3), Some(&2_u32.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 9), None);
        assert_eq!(find(&bytes[..5], 2), None);
    }

    #[test]
    fn a_family_that_no_kernel_has_is_none() {
        assert!(Family::open("CW_NOTHING", 1).unwrap().is_none());
        assert!(Family::open("nlctrl", 2).unwrap().is_some());
    }
}
