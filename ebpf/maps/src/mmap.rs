//! Arrays that user space maps into its memory and changes with plain stores.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use causeway_abi::backend::Backend;

use crate::{Data, MapsError, shape::Shape};

/// A `BPF_F_MMAPABLE` array, shared with the kernel. Clones share the mapping.
///
/// Reads and writes go word by word with atomic accesses, so that BPF programs, which may run on another processor at the
/// same time, see each aligned word whole: eight bytes where the element is a multiple of eight (a [`Slot`](causeway_abi::service::Slot)
/// changes as one), four otherwise.
#[derive(Debug)]
pub struct MappedArray<T> {
    memory: Arc<Memory>,
    len: u32,
    element: PhantomData<fn(T) -> T>,
}

impl<T> Clone for MappedArray<T> {
    fn clone(&self) -> Self {
        Self {
            memory: Arc::clone(&self.memory),
            len: self.len,
            element: PhantomData,
        }
    }
}

/// Elements with a word of flags at a fixed offset.
pub trait Flags {
    /// Byte offset of the `u32` of flags; a multiple of four.
    const FLAGS_OFFSET: usize;
}

impl Flags for Backend {
    const FLAGS_OFFSET: usize = std::mem::offset_of!(Backend, flags);
}

impl<T: Data> MappedArray<T> {
    /// Distance of two elements: the kernel rounds values of arrays up to eight bytes (`kernel/bpf/arraymap.c`).
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);
    const WHOLE_WORDS: () = assert!(
        size_of::<T>().is_multiple_of(4),
        "elements are read and written by words"
    );

    pub(crate) fn open(shape: Shape, maps_dir: &Path) -> Result<Self, MapsError> {
        let () = Self::WHOLE_WORDS;
        let (data, len) = shape.open_sized(maps_dir)?;
        let memory = Memory::map(data.fd().as_fd().as_raw_fd(), Self::STRIDE * len as usize).map_err(|source| {
            MapsError::Mmap {
                map: shape.name,
                source,
            }
        })?;
        Ok(Self {
            memory: Arc::new(memory),
            len,
            element: PhantomData,
        })
    }

    /// An array in ordinary memory, for tests of what is written where.
    pub fn anonymous(len: u32) -> io::Result<Self> {
        let memory = Memory::map(-1, Self::STRIDE * len as usize)?;
        Ok(Self {
            memory: Arc::new(memory),
            len,
            element: PhantomData,
        })
    }

    /// Number of elements.
    #[expect(clippy::len_without_is_empty, reason = "BPF arrays are never empty")]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// The element at `index`, or `None` past the end. A concurrent writer may be seen half-way between words.
    pub fn read(&self, index: u32) -> Option<T> {
        let base = self.offset(index)?;
        let mut value = T::new_zeroed();
        if size_of::<T>().is_multiple_of(8) {
            for (i, chunk) in value.as_mut_bytes().chunks_exact_mut(8).enumerate() {
                chunk.copy_from_slice(&self.memory.word64(base + 8 * i).load(Ordering::Acquire).to_ne_bytes());
            }
        } else {
            for (i, chunk) in value.as_mut_bytes().chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&self.memory.word32(base + 4 * i).load(Ordering::Acquire).to_ne_bytes());
            }
        }
        Some(value)
    }

    /// Replaces the element at `index` in ascending word order. False past the end.
    pub fn write(&self, index: u32, value: &T) -> bool {
        let Some(base) = self.offset(index) else { return false };
        if size_of::<T>().is_multiple_of(8) {
            for (i, chunk) in value.as_bytes().as_chunks::<8>().0.iter().enumerate() {
                self.memory
                    .word64(base + 8 * i)
                    .store(u64::from_ne_bytes(*chunk), Ordering::Release);
            }
        } else {
            for (i, chunk) in value.as_bytes().as_chunks::<4>().0.iter().enumerate() {
                self.memory
                    .word32(base + 4 * i)
                    .store(u32::from_ne_bytes(*chunk), Ordering::Release);
            }
        }
        true
    }

    fn offset(&self, index: u32) -> Option<usize> {
        (index < self.len).then(|| index as usize * Self::STRIDE)
    }
}

impl<T: Flags + Data> MappedArray<T> {
    /// The element's flags, or `None` past the end.
    pub fn flags(&self, index: u32) -> Option<u32> {
        Some(self.flags_word(index)?.load(Ordering::Acquire))
    }

    /// Sets the bits of `set` and clears those of `clear`: one aligned atomic operation, no system call. Answers the flags
    /// as they were, or `None` past the end.
    pub fn set_flags(&self, index: u32, set: u32, clear: u32) -> Option<u32> {
        let word = self.flags_word(index)?;
        let updated = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| {
            Some((flags & !clear) | set)
        });
        // The closure never declines.
        Some(updated.unwrap_or_else(|flags| flags))
    }

    /// Replaces an element so that no reader takes a mixture for valid: flags to zero, the rest, then the new flags.
    pub fn replace(&self, index: u32, value: &T) -> bool {
        let Some(word) = self.flags_word(index) else {
            return false;
        };
        word.store(0, Ordering::SeqCst);
        let mut rest = *value;
        let flags_at = T::FLAGS_OFFSET..T::FLAGS_OFFSET + 4;
        let mut flags = [0; 4];
        flags.copy_from_slice(&rest.as_bytes()[flags_at.clone()]);
        rest.as_mut_bytes()[flags_at].fill(0);
        self.write(index, &rest);
        word.store(u32::from_ne_bytes(flags), Ordering::SeqCst);
        true
    }

    fn flags_word(&self, index: u32) -> Option<&AtomicU32> {
        Some(self.memory.word32(self.offset(index)? + T::FLAGS_OFFSET))
    }
}

/// A shared mapping.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is valid until `drop` wherever the value moves, and every access to it is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above; shared references only ever lead to atomic accesses.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `bytes` bytes of a BPF array, or of anonymous memory when `fd` is -1.
    fn map(fd: i32, bytes: usize) -> io::Result<Self> {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let bytes = bytes.next_multiple_of(page);
        let flags = if fd < 0 {
            libc::MAP_SHARED | libc::MAP_ANONYMOUS
        } else {
            libc::MAP_SHARED
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { base, bytes })
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.bytes,
            "word inside the mapping"
        );
        // SAFETY: inside the mapping and aligned (asserted; the base is page-aligned), valid as long as `self`, and never
        // accessed other than atomically by this process.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.bytes,
            "word inside the mapping"
        );
        // SAFETY: as in `word32`. Slots are only accessed by 64-bit words, elements with flags only by 32-bit words, so no
        // word is accessed at two sizes at once.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the mapping made in `map`; no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use causeway_abi::{
        Address,
        backend::{IN_USE, READY},
        service::Slot,
    };

    use super::*;

    fn backend(last: u8) -> Backend {
        Backend {
            address: Address::from_v4([10, 0, 0, last]),
            port_be: 80_u16.to_be(),
            protocol: 6,
            flags: IN_USE,
            generation: 7,
            ..Backend::default()
        }
    }

    #[test]
    fn elements_lie_eight_byte_strides_apart() {
        assert_eq!(size_of::<Backend>(), 36);
        assert_eq!(MappedArray::<Backend>::STRIDE, 40);
        let array = MappedArray::<Backend>::anonymous(3).unwrap();
        for (index, last) in [(0, 1), (1, 2), (2, 3)] {
            assert!(array.replace(index, &backend(last)));
        }
        assert_eq!(array.read(1), Some(backend(2)));
        assert_eq!(array.read(2), Some(backend(3)));
    }

    #[test]
    fn a_flag_flips_alone() {
        let array = MappedArray::<Backend>::anonymous(2).unwrap();
        array.replace(0, &backend(1));
        array.replace(1, &backend(2));
        assert_eq!(array.set_flags(1, READY, 0), Some(IN_USE));
        assert_eq!(
            array.read(1),
            Some(Backend {
                flags: IN_USE | READY,
                ..backend(2)
            })
        );
        assert_eq!(array.read(0), Some(backend(1)));
        assert_eq!(array.set_flags(1, 0, READY), Some(IN_USE | READY));
        assert_eq!(array.flags(1), Some(IN_USE));
    }

    #[test]
    fn past_the_end_is_nothing() {
        let array = MappedArray::<Slot>::anonymous(4).unwrap();
        assert!(array.read(4).is_none());
        assert!(!array.write(
            4,
            &Slot {
                backend: 0,
                previous: 0
            }
        ));
    }
}
