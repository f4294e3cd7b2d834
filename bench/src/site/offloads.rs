//! What a link leaves to others: checksums, cutting up, putting together (ethtool's ioctl).
//!
//! Between namespaces nothing computes checksums, and segments travel in one piece. XDP, which runs before the kernel makes a socket
//! buffer, needs frames as they come from a wire.

use std::{io, net::UdpSocket, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};

// include/uapi/linux/ethtool.h, sockios.h.
const SET_TX_CHECKSUM: u32 = 0x17;
const SET_TCP_SEGMENTATION: u32 = 0x1f;
const SET_SEGMENTATION: u32 = 0x24;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// A sender whose frames are whole, as on a wire: with checksums, and each as long as the link allows.
pub(super) fn send_whole_frames(name: &str) -> Result<()> {
    for command in [SET_TX_CHECKSUM, SET_TCP_SEGMENTATION, SET_SEGMENTATION] {
        set(name, command, false)?;
    }
    Ok(())
}

/// Frames that XDP programs of a veth of this thread's namespace have sent out of it again, since it was made.
pub(super) fn sent_by_xdp(name: &str) -> Result<u64> {
    /// `struct ethtool_gstrings`, `struct ethtool_stats`: a command and two numbers, or one.
    const GET_STRINGS: u32 = 0x1b;
    const GET_STATISTICS: u32 = 0x1d;
    const STATISTICS: u32 = 1;
    const NAME_BYTES: usize = 32;
    /// More statistics than a veth with a thousand queues has.
    const ROOM: usize = 1 << 20;
    let mut names = vec![0_u64; ROOM / 8];
    names[0] = u64::from(GET_STRINGS) | u64::from(STATISTICS) << 32;
    control(name, names.as_mut_ptr().cast()).context("cannot list a link's statistics")?;
    let mut values = vec![0_u64; ROOM / 8];
    values[0] = GET_STATISTICS.into();
    control(name, values.as_mut_ptr().cast()).context("cannot read a link's statistics")?;

    // The strings begin behind 12 bytes, the values behind 8, in which the kernel put their number.
    let bytes: Vec<u8> = names.iter().flat_map(|word| word.to_ne_bytes()).skip(12).collect();
    let count = (values[0] >> 32) as usize;
    let sent = bytes
        .chunks(NAME_BYTES)
        .zip(&values[1..])
        .take(count)
        .filter(|(name, _)| {
            let text: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
            text.starts_with(b"rx_queue_") && text.ends_with(b"_xdp_tx")
        });
    Ok(sent.map(|(_, value)| value).sum())
}

/// Sets an offload of a link of this thread's namespace.
fn set(name: &str, command: u32, on: bool) -> Result<()> {
    let mut value = Value {
        command,
        data: on.into(),
    };
    control(name, (&raw mut value).cast()).with_context(|| format!("cannot change an offload of {name}"))
}

/// An ethtool command on a link of this thread's namespace; `command` points to one, with room for its answer.
fn control(name: &str, command: *mut libc::c_char) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = command;
    // SAFETY: the request is valid for the call, and so is what it points to, as every caller here passes it.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
