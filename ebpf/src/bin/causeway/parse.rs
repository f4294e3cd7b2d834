//! Reading a packet's headers.

use aya_ebpf::bindings::__sk_buff;
use causeway_ebpf::parse::{self, Headers, Parsed};

use crate::skb::Skb;

/// What a frame turned out to be; see [`Parsed`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// An IP packet; its headers are filled in.
    Ip,
    /// Left alone.
    Other,
    /// Dropped.
    Malformed,
}

/// Reads a frame's headers.
///
/// One of a VLAN is left alone: it belongs to another interface, which the kernel hands it to behind these programs, or has
/// taken it from before them. The tag itself is no longer in the frame then, only in the socket buffer.
#[inline(always)]
pub fn read(skb: Skb, headers: &mut Headers) -> Frame {
    if skb.vlan_id().is_some_and(|id| id != 0) {
        return Frame::Other;
    }
    // SAFETY: both pointers are valid.
    match unsafe { cw_parse(skb.as_ptr(), headers) } {
        OTHER => Frame::Other,
        IP => Frame::Ip,
        _ => Frame::Malformed,
    }
}

const OTHER: u32 = 0;
const IP: u32 = 1;
const MALFORMED: u32 = 2;

/// Global function behind [`read`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn cw_parse(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    if headers.is_null() {
        return MALFORMED;
    }
    match parse::parse(&Skb::new(skb)) {
        Parsed::Ip(parsed) => {
            // SAFETY: not null, and valid as `read` passes it.
            unsafe { *headers = parsed };
            IP
        }
        Parsed::Other => OTHER,
        Parsed::Malformed => MALFORMED,
    }
}
