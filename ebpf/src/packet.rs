//! Reading bytes of a packet, wherever it is kept.

/// Bytes of a packet that starts with its Ethernet header.
///
/// BPF reads what lies in the linear part directly and the rest by a helper; the host reads slices.
pub trait Packet {
    /// Length of the whole packet in bytes, including parts that are not linear.
    fn length(&self) -> u32;

    /// `N` bytes at an offset that is only known when the packet is read; `None` when they lie beyond its end.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// `N` bytes at an offset known at compile time, which BPF can read without a helper call.
    fn read_at<const OFFSET: usize, const N: usize>(&self) -> Option<[u8; N]>;
}

impl Packet for [u8] {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn read_at<const OFFSET: usize, const N: usize>(&self) -> Option<[u8; N]> {
        self.read(OFFSET as u32)
    }
}

/// The 16 bits at an index of a header, as they are (network order stays network order).
#[inline(always)]
pub const fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}
