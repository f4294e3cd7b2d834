//! Socket buffers: reading, writing, redirecting. All helpers that take one are called here.

use core::{hint::black_box, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX,
        bpf_func_id::{
            BPF_FUNC_l3_csum_replace, BPF_FUNC_l4_csum_replace, BPF_FUNC_skb_change_tail, BPF_FUNC_skb_set_tunnel_key,
            BPF_FUNC_skb_store_bytes,
        },
        bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_check_mtu, bpf_clone_redirect, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
        bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_set_tunnel_key,
        bpf_skb_store_bytes,
    },
};
use causeway_abi::route::Route;
use causeway_ebpf::{hops, packet::Packet};
use zerocopy::FromBytes;

use crate::log;

/// `PACKET_HOST` of `linux/if_packet.h`: for this machine.
const PACKET_HOST: u32 = 0;
/// Time to live of tunnel packets.
const TUNNEL_TTL: u8 = 64;

/// The kernel refused to change the packet.
pub struct Refused;

/// The packet a program runs for.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// Wraps the context of a classifier.
    #[inline(always)]
    pub const fn new(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The context, to pass on to a global function.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut __sk_buff {
        self.0
    }

    /// The interface the program is attached to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier checks the access. So for all reads below.
        unsafe { (*self.0).ifindex }
    }

    /// The VLAN identifier that was taken out of the frame into the socket buffer, if one was.
    #[inline(always)]
    pub fn vlan_id(&self) -> Option<u32> {
        // SAFETY: as in `ifindex`.
        unsafe {
            if (*self.0).vlan_present != 0 {
                Some((*self.0).vlan_tci & 0xfff)
            } else {
                None
            }
        }
    }

    /// The mark, which a program further on the packet's way can read.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).mark }
    }

    /// Sets the mark.
    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        // SAFETY: the kernel passes a valid context and lets classifiers write this field.
        unsafe { (*self.0).mark = mark };
    }

    /// Writes bytes; `flags` as for `bpf_skb_store_bytes`. The helper makes a shared packet writable first.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: u32, bytes: &[u8; N], flags: u64) -> Result<(), Refused> {
        // SAFETY: `bytes` is readable for `N` bytes.
        done(BPF_FUNC_skb_store_bytes, unsafe {
            bpf_skb_store_bytes(self.0, offset, bytes.as_ptr().cast(), N as u32, flags)
        })
    }

    /// Updates the IPv4 header checksum at an offset.
    #[inline(always)]
    pub fn update_l3_checksum(&self, offset: u32, from: u64, to: u64, size: u64) -> Result<(), Refused> {
        // SAFETY: no pointer but the context is passed.
        done(BPF_FUNC_l3_csum_replace, unsafe {
            bpf_l3_csum_replace(self.0, offset, from, to, size)
        })
    }

    /// Updates a transport checksum at an offset, whether the packet holds all of it or only the pseudo header's part
    /// that hardware completes (`CHECKSUM_PARTIAL`).
    #[inline(always)]
    pub fn update_l4_checksum(&self, offset: u32, from: u64, to: u64, flags: u64) -> Result<(), Refused> {
        // SAFETY: no pointer but the context is passed.
        done(BPF_FUNC_l4_csum_replace, unsafe {
            bpf_l4_csum_replace(self.0, offset, from, to, flags)
        })
    }

    /// Cuts or lengthens the packet.
    #[inline(always)]
    pub fn set_length(&self, length: u32) -> Result<(), Refused> {
        // SAFETY: no pointer but the context is passed.
        done(BPF_FUNC_skb_change_tail, unsafe {
            bpf_skb_change_tail(self.0, length, 0)
        })
    }

    /// Gives the frame its MAC addresses and the packet in it one hop less, which its router owes it (RFC 1812, 5.3.1; RFC 8200,
    /// 3). False, and perhaps half done, when no hop is left or the kernel refuses.
    #[inline(always)]
    pub fn forward(&self, macs: &[u8; 12], is_v4: bool) -> bool {
        if !is_v4 {
            return self.lower_hops_v6() && self.write(0, macs, 0).is_ok();
        }
        // MAC addresses, type, and the IP header's first 12 bytes, in one go.
        let Some(mut head) = self.read_at::<0, [u8; 26]>() else {
            return false;
        };
        let Some(lowered) = hops::lowered_v4([head[22], head[23], head[24], head[25]]) else {
            return false;
        };
        let (addresses, _) = head.split_at_mut(12);
        addresses.copy_from_slice(macs);
        (head[22], head[24], head[25]) = (lowered[0], lowered[2], lowered[3]);
        self.write(0, &head, 0).is_ok()
    }

    /// The same with the MAC addresses left as they are.
    #[inline(always)]
    pub fn lower_hops(&self, is_v4: bool) -> bool {
        if !is_v4 {
            return self.lower_hops_v6();
        }
        match self.read_at::<22, [u8; 4]>().and_then(hops::lowered_v4) {
            // The change of the header's checksum cancels that of the hops out in any sum over the packet.
            Some(lowered) => self.write(22, &lowered, 0).is_ok(),
            None => false,
        }
    }

    #[inline(always)]
    fn lower_hops_v6(&self) -> bool {
        // At an even offset, as checksums like it.
        match self.read_at::<20, [u8; 2]>() {
            Some([next_header, hops]) if hops > 1 => self
                .write(20, &[next_header, hops - 1], BPF_F_RECOMPUTE_CSUM.into())
                .is_ok(),
            _ => false,
        }
    }

    /// The MTU of an interface, if the packet is too large for it.
    #[inline(always)]
    pub fn exceeds_mtu_of(&self, ifindex: u32) -> Option<u32> {
        /// `BPF_MTU_CHK_SEGS`: packets that are divided into segments later count by those.
        const SEGMENTS: u64 = 1;
        let mut mtu = 0_u32;
        // SAFETY: `mtu` is valid for writing.
        let result = unsafe { bpf_check_mtu(self.0.cast(), ifindex, &raw mut mtu, 0, SEGMENTS) };
        // Negative for an interface that is not there, positive for what does not fit (`BPF_MTU_CHK_RET_*`).
        (result > 0).then_some(mtu)
    }

    /// Copies the frame; its length, or `None` when it does not fit.
    #[inline(always)]
    pub fn save<const N: usize>(&self, buffer: &mut [u8; N]) -> Option<u32> {
        let length = bounded(self.length(), N as u32)?;
        // SAFETY: `buffer` is writable for `length` bytes.
        let result = unsafe { bpf_skb_load_bytes(self.0.cast(), 0, buffer.as_mut_ptr().cast(), length) };
        (result == 0).then_some(length)
    }

    /// Gives the packet the first bytes of a frame, and nothing else.
    #[inline(always)]
    pub fn restore<const N: usize>(&self, frame: &[u8; N], length: u32) -> Result<(), Refused> {
        const L3: u32 = 14;
        let Some(packet) = bounded(length.wrapping_sub(L3), N as u32 - L3) else {
            return Err(Refused);
        };
        self.set_length(L3 + packet)?;
        // A checksum of the whole packet that hardware computed (CHECKSUM_COMPLETE) begins behind the Ethernet header.
        // SAFETY: `frame` is readable for `length` bytes.
        unsafe {
            done(
                BPF_FUNC_skb_store_bytes,
                bpf_skb_store_bytes(self.0, 0, frame.as_ptr().cast(), L3, 0),
            )?;
            // Verifiers as that of Linux 6.1 do not learn from a comparison about a copy that waits on the stack.
            let Some(packet) = bounded(packet, N as u32 - L3) else {
                return Err(Refused);
            };
            let from = frame.as_ptr().add(L3 as usize).cast();
            done(
                BPF_FUNC_skb_store_bytes,
                bpf_skb_store_bytes(self.0, L3, from, packet, BPF_F_RECOMPUTE_CSUM.into()),
            )
        }
    }

    /// Lets a copy of the packet come in by an interface, after this one.
    #[inline(always)]
    pub fn clone_in(&self, ifindex: u32) {
        // SAFETY: no pointer but the context is passed. When the helper fails the copy is lost, like a packet on the way.
        unsafe { bpf_clone_redirect(self.0, ifindex, BPF_F_INGRESS.into()) };
    }

    /// Makes the packet one for this machine, whatever MAC address it came with.
    #[inline(always)]
    pub fn accept(&self) {
        // SAFETY: as in `ifindex`, and no pointer but the context is passed. The helper fails only for types that are not
        // checked here, and then the packet keeps its type.
        unsafe {
            if (*self.0).pkt_type != PACKET_HOST {
                bpf_skb_change_type(self.0, PACKET_HOST);
            }
        }
    }

    /// Sends the packet out of an interface; the verdict.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: takes no pointer.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    /// Sends the packet out of an interface, to the next hop that the routing table has for it; the verdict.
    #[inline(always)]
    pub fn redirect_neighbour(&self, ifindex: u32) -> i32 {
        // SAFETY: no parameters are passed, so the kernel looks the next hop up.
        unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
    }

    /// Hands the packet to the other end of a veth pair, in its network namespace; the verdict.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: takes no pointer.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Tells the VXLAN device where to send the packet.
    #[inline(always)]
    pub fn set_tunnel(&self, route: &Route) -> Result<(), Refused> {
        // SAFETY: the structure is plain integers, for which zero is valid.
        let mut key: bpf_tunnel_key = unsafe { MaybeUninit::zeroed().assume_init() };
        key.tunnel_id = route.tunnel_id;
        key.tunnel_ttl = TUNNEL_TTL;
        let flags = if let Some(v4) = route.node.to_v4() {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(v4);
            // The inner packet has its own checksum; over IPv4 the outer one is optional (RFC 7348, 5).
            BPF_F_ZERO_CSUM_TX
        } else {
            key.__bindgen_anon_1.remote_ipv6 = route.node.words();
            BPF_F_TUNINFO_IPV6
        };
        // SAFETY: `key` is valid for the size given.
        done(BPF_FUNC_skb_set_tunnel_key, unsafe {
            bpf_skb_set_tunnel_key(self.0, &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags.into())
        })
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn read<T: FromBytes>(&self, offset: u32) -> Option<T> {
        let mut header = MaybeUninit::<T>::uninit();
        // SAFETY: `header` is writable for its size, filled (with zeroes on failure) when the helper returns, and valid
        // whatever its bytes.
        unsafe {
            match bpf_skb_load_bytes(self.0.cast(), offset, header.as_mut_ptr().cast(), size_of::<T>() as u32) {
                0 => Some(header.assume_init()),
                _ => None,
            }
        }
    }

    #[inline(always)]
    fn read_at<const OFFSET: usize, T: FromBytes>(&self) -> Option<T> {
        // SAFETY: the bytes lie before `data_end`, which the verifier checks too, and any bytes are a valid `T`.
        unsafe {
            let start = (*self.0).data as usize + OFFSET;
            if start + size_of::<T>() <= (*self.0).data_end as usize {
                return Some((start as *const T).read_unaligned());
            }
        }
        self.read(OFFSET as u32)
    }

    #[inline(always)]
    fn fill<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> bool {
        // SAFETY: `buffer` is writable for `N` bytes.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, buffer.as_mut_ptr().cast(), N as u32) == 0 }
    }
}

/// A number of bytes between one and a limit. Verifiers before that of Linux 6.8 do not learn from a comparison with zero that
/// a number is not zero, so it is made of one less; which the compiler must not see through.
#[inline(always)]
fn bounded(length: u32, limit: u32) -> Option<u32> {
    let one_less = black_box(u64::from(length).wrapping_sub(1));
    (one_less < u64::from(limit)).then(|| (one_less + 1) as u32)
}

#[inline(always)]
fn done(helper: u32, result: i64) -> Result<(), Refused> {
    if result == 0 {
        return Ok(());
    }
    log::refused(helper, result);
    Err(Refused)
}
