//! Reading bytes of a packet, wherever it is kept.

use zerocopy::FromBytes;

/// Bytes of a packet that starts with its Ethernet header.
///
/// BPF reads what lies in the linear part directly and the rest by a helper; the host reads slices.
pub trait Packet {
    /// Length of the whole packet in bytes, including parts that are not linear.
    fn length(&self) -> u32;

    /// A header at an offset that is only known when the packet is read; `None` when it lies beyond the packet's end.
    fn read<T: FromBytes>(&self, offset: u32) -> Option<T>;

    /// A header at an offset known at compile time, which BPF can read without a helper call.
    fn read_at<const OFFSET: usize, T: FromBytes>(&self) -> Option<T>;

    /// Reads into a buffer; false when the bytes lie beyond the end. For buffers that are changed or passed on: an array
    /// returned by value is copied.
    fn fill<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> bool;
}

impl Packet for [u8] {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn read<T: FromBytes>(&self, offset: u32) -> Option<T> {
        T::read_from_prefix(self.get(offset as usize..)?)
            .ok()
            .map(|(header, _)| header)
    }

    fn read_at<const OFFSET: usize, T: FromBytes>(&self) -> Option<T> {
        self.read(OFFSET as u32)
    }

    fn fill<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> bool {
        self.read(offset).is_some_and(|bytes| {
            *buffer = bytes;
            true
        })
    }
}
