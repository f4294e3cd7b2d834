//! Maps, many elements at a time. aya has no batched calls, and one call an element would take most of the time. Layouts are those of
//! `union bpf_attr` in `include/uapi/linux/bpf.h`.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::ptr;

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

// enum bpf_cmd
const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const DELETE: libc::c_long = 3;
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
const DELETE_BATCH: libc::c_long = 27;

/// The member of `BPF_MAP_*_ELEM`.
#[repr(C)]
struct Element {
    map: RawFd,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The member of `BPF_MAP_*_BATCH`.
#[repr(C)]
struct Batch {
    from: u64,
    reached: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: RawFd,
    element_flags: u64,
    flags: u64,
}

/// bpf(2). `A` is `repr(C)`, without padding, and a prefix of the kernel's union.
pub(super) fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for its whole size; what its pointers point to outlives the call, see the callers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What can be a key or a value.
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// A map of any kind.
#[derive(Debug)]
pub struct Table<K, V> {
    data: MapData,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes a map over.
    pub fn new(map: Map) -> Result<Self> {
        Ok(Self {
            data: data(map)?,
            types: PhantomData,
        })
    }

    fn fd(&self) -> RawFd {
        self.data.fd().as_fd().as_raw_fd()
    }

    /// Writes an element.
    pub fn put(&self, key: &K, value: &V) -> Result<()> {
        self.element(UPDATE, key, ptr::from_ref(value) as u64)
            .context("cannot write a map element")
    }

    /// Removes an element, if it is there.
    pub fn remove(&self, key: &K) -> Result<()> {
        match self.element(DELETE, key, 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("cannot remove a map element"),
            _ => Ok(()),
        }
    }

    /// Reads an element of a per-CPU array: one value for each of `processors`.
    pub fn per_processor(&self, key: &K, processors: usize) -> Result<Vec<V>> {
        let mut values = vec![V::new_zeroed(); processors];
        debug_assert_eq!(size_of::<V>() % 8, 0, "the kernel pads to eight bytes");
        self.element(LOOKUP, key, values.as_mut_ptr() as u64)
            .context("cannot read a per-CPU element")?;
        Ok(values)
    }

    /// Writes an element of a per-CPU array: the same value for each of `processors`.
    pub fn put_per_processor(&self, key: &K, value: &V, processors: usize) -> Result<()> {
        let values = vec![*value; processors];
        debug_assert_eq!(size_of::<V>() % 8, 0, "the kernel pads to eight bytes");
        self.element(UPDATE, key, values.as_ptr() as u64)
            .context("cannot write a per-CPU element")
    }

    fn element(&self, command: libc::c_long, key: &K, value: u64) -> io::Result<()> {
        let mut attr = Element {
            map: self.fd(),
            padding: 0,
            key: ptr::from_ref(key) as u64,
            value,
            flags: 0,
        };
        bpf(command, &mut attr).map(|_| ())
    }

    /// All elements of a hash map.
    pub fn all(&self) -> Result<(Vec<K>, Vec<V>)> {
        // Whole pages of elements; a bucket has but a few.
        let room = (64 * 1024 / (size_of::<K>() + size_of::<V>())).clamp(32, 512);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        // Of a hash map it is the number of a bucket.
        let (mut from, mut reached) = (0_u64, 0_u64);
        let mut is_first = true;
        loop {
            let mut some_keys = vec![K::new_zeroed(); room];
            let mut some_values = vec![V::new_zeroed(); room];
            let mut attr = Batch {
                from: if is_first { 0 } else { ptr::from_mut(&mut from) as u64 },
                reached: ptr::from_mut(&mut reached) as u64,
                keys: some_keys.as_mut_ptr() as u64,
                values: some_values.as_mut_ptr() as u64,
                count: room as u32,
                map: self.fd(),
                element_flags: 0,
                flags: 0,
            };
            let result = bpf(LOOKUP_BATCH, &mut attr);
            let is_last = match result {
                Ok(_) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(error).context("cannot read a map"),
            };
            let count = attr.count as usize;
            keys.extend(&some_keys[..count]);
            values.extend(&some_values[..count]);
            if is_last {
                return Ok((keys, values));
            }
            from = reached;
            is_first = false;
        }
    }

    /// Writes many elements.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> Result<()> {
        self.batch(UPDATE_BATCH, keys, values.as_ptr() as u64)
            .context("cannot write to a map")
    }

    /// Removes many elements, all of which are there.
    pub fn remove_all(&self, keys: &[K]) -> Result<()> {
        self.batch(DELETE_BATCH, keys, 0).context("cannot remove from a map")
    }

    fn batch(&self, command: libc::c_long, keys: &[K], values: u64) -> io::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut attr = Batch {
            from: 0,
            reached: 0,
            keys: keys.as_ptr() as u64,
            values,
            count: keys.len() as u32,
            map: self.fd(),
            element_flags: 0,
            flags: 0,
        };
        bpf(command, &mut attr).map(|_| ())
    }
}

/// An array that is mapped into memory, as the agent maps it.
#[derive(Debug)]
pub struct Mapped<V> {
    start: *mut u8,
    length: usize,
    elements: usize,
    /// Keeps the map.
    _data: MapData,
    types: PhantomData<V>,
}

impl<V: Plain> Mapped<V> {
    /// The kernel rounds elements up to eight bytes.
    const STRIDE: usize = size_of::<V>().next_multiple_of(8);

    /// Maps the first elements of an array made with `BPF_F_MMAPABLE`.
    pub fn new(map: Map, elements: usize) -> Result<Self> {
        let data = data(map)?;
        let length = (elements * Self::STRIDE).next_multiple_of(4096);
        // SAFETY: a new mapping wherever the kernel likes; the result is checked.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map an array");
        }
        Ok(Self {
            start: start.cast(),
            length,
            elements,
            _data: data,
            types: PhantomData,
        })
    }

    /// Reads an element.
    pub fn get(&self, index: usize) -> V {
        assert!(index < self.elements, "element {index} of {}", self.elements);
        let mut value = V::new_zeroed();
        // SAFETY: inside the mapping, as just checked; any bytes are a valid element.
        unsafe {
            ptr::copy_nonoverlapping(
                self.start.add(index * Self::STRIDE),
                ptr::from_mut(&mut value).cast(),
                size_of::<V>(),
            );
        }
        value
    }

    /// Writes an element. Nothing runs meanwhile: programs run only when this thread lets them.
    pub fn put(&self, index: usize, value: &V) {
        assert!(index < self.elements, "element {index} of {}", self.elements);
        // SAFETY: inside the mapping, as just checked; any bytes are a valid element.
        unsafe {
            ptr::copy_nonoverlapping(
                ptr::from_ref(value).cast(),
                self.start.add(index * Self::STRIDE),
                size_of::<V>(),
            );
        }
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing points into it.
        unsafe { libc::munmap(self.start.cast::<c_void>(), self.length) };
    }
}

fn data(map: Map) -> Result<MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Ok(data),
        other => bail!("a map of another kind: {other:?}"),
    }
}
