//! Frames before a socket buffer is made of them: reading, writing, making room.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_head};
use causeway_ebpf::{
    flow::Translation,
    parse::protocol,
    plain::{Head, Outer, TUNNEL_OVERHEAD},
    plain6::Head6,
};

/// Offset of the transport checksum of TCP over IPv4 without options.
const TCP_CHECKSUM: usize = 34 + 16;
/// Offset of the transport checksum of UDP over IPv4 without options.
const UDP_CHECKSUM: usize = 34 + 6;
/// Offset of the header length of TCP over IPv4 without options, which the flags follow.
const TCP_LENGTH: usize = 34 + 12;
/// Offset of the length of UDP over IPv4 without options.
const UDP_LENGTH: usize = 34 + 4;
/// Where the transport header of IPv6 without extension headers begins.
const TRANSPORT6: usize = 54;
/// Bytes of IPv4 without options.
const IPV4_LENGTH: u16 = 20;

/// The frame a program runs for. Pointers into it are asked for again after every change of its length.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct XdpFrame(*mut xdp_md);

impl XdpFrame {
    /// Wraps the context of an XDP program.
    #[inline(always)]
    pub const fn new(context: *mut xdp_md) -> Self {
        Self(context)
    }

    /// The context, to pass on to a helper or a global function.
    #[inline(always)]
    pub const fn as_ptr(self) -> *mut xdp_md {
        self.0
    }

    /// The interface the frame came in on.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier checks the access. So for all reads below.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn length(self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).data_end as usize - (*self.0).data as usize }
    }

    /// What lies at an offset; `None` beyond the end.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        // SAFETY: as in `ifindex`.
        let (start, end) = unsafe { ((*self.0).data as usize + offset, (*self.0).data_end as usize) };
        (start + size_of::<T>() <= end).then_some(start as *mut T)
    }

    /// A copy of what lies at an offset.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: the bytes lie before the end, which the verifier checks too. `T` is made of units of at most 16 bits, and
        // frames begin at even addresses.
        self.at::<T>(offset).map(|at| unsafe { *at })
    }

    /// The flags of a TCP packet whose Ethernet header is at `offset`, 0 for UDP. `None` when the transport header's own length is
    /// none it can have: what is malformed is for others to judge.
    #[inline(always)]
    pub fn flags(self, offset: usize, head: &Head) -> Option<u8> {
        let room = head.total_length().wrapping_sub(IPV4_LENGTH);
        let (least, length, flags) = if head.protocol == protocol::TCP {
            let [length, flags] = self.read::<[u8; 2]>(offset + TCP_LENGTH)?;
            (20, u16::from(length >> 4) * 4, flags)
        } else {
            (8, u16::from_be(self.read(offset + UDP_LENGTH)?), 0)
        };
        (length >= least && length <= room).then_some(flags)
    }

    /// As [`flags`](Self::flags), of a packet of IPv6.
    #[inline(always)]
    pub fn flags6(self, offset: usize, head: &Head6) -> Option<u8> {
        let (least, length, flags) = if head.next_header == protocol::TCP {
            let [length, flags] = self.read::<[u8; 2]>(offset + TRANSPORT6 + 12)?;
            (20, u16::from(length >> 4) * 4, flags)
        } else {
            (8, u16::from_be(self.read(offset + TRANSPORT6 + 4)?), 0)
        };
        (length >= least && length <= head.payload_length()).then_some(flags)
    }

    /// Gives a packet of IPv6, whose addresses have changed and the sum of its checksum with them, other ports, and a frame other MAC
    /// addresses; false when its transport checksum lies beyond the end.
    #[inline(always)]
    pub fn finish6(self, sum: u32, ports_be: [u16; 2], macs: [u16; 6]) -> bool {
        let Some(head) = self.at::<Head6>(0) else { return false };
        // SAFETY: as in `read`. So below.
        let head = unsafe { &mut *head };
        let offset = if head.next_header == protocol::TCP { 16 } else { 6 };
        let Some(checksum) = self.at::<u16>(TRANSPORT6 + offset) else {
            return false;
        };
        head.macs = macs;
        unsafe { *checksum = head.finish(sum, ports_be, *checksum) };
        true
    }

    /// Gives the packet that begins with `head` new addresses and ports and its frame new MAC addresses; false when its
    /// transport checksum lies beyond the end.
    #[inline(always)]
    pub fn translate(self, head: &Head, to: &Translation, macs: [u16; 6]) -> bool {
        let mut translated = *head;
        translated.translate(to);
        translated.macs = macs;
        let offset = if head.protocol == protocol::TCP {
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        };
        let (Some(at), Some(checksum)) = (self.at::<Head>(0), self.at::<u16>(offset)) else {
            return false;
        };
        // SAFETY: as in `read`.
        unsafe {
            *checksum = translated.transport_checksum(head, *checksum);
            *at = translated;
        }
        true
    }

    /// Lowers the time to live of the packet in the frame; false when it lies beyond the end.
    #[inline(always)]
    pub fn lower_hops(self) -> bool {
        let Some(at) = self.at::<Head>(0) else { return false };
        // SAFETY: as in `read`.
        unsafe { (*at).lower_hops() };
        true
    }

    /// Puts the tunnel's headers before the frame, and gives the inner frame its MAC addresses.
    #[inline(always)]
    pub fn encapsulate(self, outer: &Outer, inner_macs: [u16; 6]) -> bool {
        // SAFETY: no pointer but the context is passed.
        if unsafe { bpf_xdp_adjust_head(self.0, -(TUNNEL_OVERHEAD as i32)) } != 0 {
            return false;
        }
        let Some(at) = self.at::<(Outer, [u16; 6])>(0) else {
            return false;
        };
        // SAFETY: as in `read`.
        unsafe { *at = (*outer, inner_macs) };
        true
    }

    /// Takes the tunnel's headers away.
    #[inline(always)]
    pub fn decapsulate(self) -> bool {
        // SAFETY: no pointer but the context is passed.
        unsafe { bpf_xdp_adjust_head(self.0, TUNNEL_OVERHEAD as i32) == 0 }
    }
}
