//! The few commands of bpf(2) that the measuring needs.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};

use super::program::Instruction;

// enum bpf_cmd, enum bpf_map_type (include/uapi/linux/bpf.h).
const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
const PROG_GET_FD_BY_ID: u32 = 13;
const LINK_CREATE: u32 = 28;
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE` (`include/uapi/linux/if_link.h`).
const XDP_DRIVER_MODE: u32 = 1 << 2;
const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const MMAPABLE: u32 = 1 << 10;
/// Large enough for every attribute used here; the kernel asks that what it does not know be zero.
const ATTRIBUTE_BYTES: usize = 152;
/// What the verifier has to say of a program that it refuses.
const LOG_BYTES: usize = 64 * 1024;

/// What kind of program is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A classifier (`struct __sk_buff`).
    Tc,
    /// XDP (`struct xdp_md`).
    Xdp,
}

impl Kind {
    fn program_type(self) -> u32 {
        match self {
            Self::Tc => 3,
            Self::Xdp => 6,
        }
    }
}

/// What a program must have in common with those it jumps to (`bpf_prog_map_compatible`), beside its type. Newer kernels look at
/// more than older ones, so which it is is found by trying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Likeness {
    /// `expected_attach_type`.
    pub(super) attach_type: u32,
    /// `prog_flags`.
    pub(super) flags: u32,
}

impl Likeness {
    /// Of an XDP program.
    pub(super) const XDP: Self = Self {
        attach_type: ATTACH_XDP,
        flags: 0,
    };

    /// All that occur among programs of a kind.
    pub(super) fn of(kind: Kind) -> &'static [Self] {
        const fn likeness(attach_type: u32, flags: u32) -> Likeness {
            Likeness { attach_type, flags }
        }
        /// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
        const TC: [Likeness; 3] = [likeness(0, 0), likeness(46, 0), likeness(47, 0)];
        /// `BPF_XDP`; `BPF_F_XDP_HAS_FRAGS`.
        const XDP: [Likeness; 4] = [
            likeness(37, 0),
            likeness(37, 1 << 5),
            likeness(0, 0),
            likeness(0, 1 << 5),
        ];
        match kind {
            Kind::Tc => &TC,
            Kind::Xdp => &XDP,
        }
    }
}

/// The attribute of a command, filled field by field.
struct Attribute([u8; ATTRIBUTE_BYTES]);

impl Attribute {
    fn new() -> Self {
        Self([0; ATTRIBUTE_BYTES])
    }

    fn word(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn pointer<T>(mut self, offset: usize, pointer: *const T) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&(pointer as u64).to_ne_bytes());
        self
    }

    fn read(&self, offset: usize) -> u32 {
        let bytes = [0, 1, 2, 3].map(|index| self.0[offset + index]);
        u32::from_ne_bytes(bytes)
    }

    /// # Safety
    ///
    /// Every pointer in the attribute is valid for what the command does with it.
    unsafe fn call(&mut self, command: u32) -> io::Result<i32> {
        // SAFETY: the attribute is valid for reading and writing; the caller vouches for what it points to.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTRIBUTE_BYTES) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result as i32)
    }

    /// # Safety
    ///
    /// As [`call`](Self::call), with a command that answers a descriptor.
    unsafe fn call_for_fd(&mut self, command: u32) -> io::Result<OwnedFd> {
        // SAFETY: the caller's.
        let fd = unsafe { self.call(command) }?;
        // SAFETY: the kernel just gave us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

fn create_map(kind: u32, value_bytes: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attribute = Attribute::new()
        .word(0, kind)
        .word(4, 4)
        .word(8, value_bytes)
        .word(12, entries)
        .word(16, flags);
    // SAFETY: no pointers.
    unsafe { attribute.call_for_fd(MAP_CREATE) }
}

/// An array that can be mapped into memory.
pub(super) fn array(value_bytes: usize, entries: usize) -> Result<OwnedFd> {
    create_map(MAP_TYPE_ARRAY, value_bytes as u32, entries as u32, MMAPABLE).context("cannot make a BPF array")
}

/// An array of one program to jump to.
pub(super) fn jump_table() -> Result<OwnedFd> {
    create_map(MAP_TYPE_PROG_ARRAY, 4, 1, 0).context("cannot make a BPF program array")
}

/// Puts a program into the jump table.
pub(super) fn set_jump(table: &OwnedFd, program: &impl AsFd) -> io::Result<()> {
    let (key, value) = (0_u32, raw(program));
    let mut attribute = Attribute::new()
        .word(0, raw(table))
        .pointer(8, &raw const key)
        .pointer(16, &raw const value);
    // SAFETY: key and value are valid, of the table's sizes.
    unsafe { attribute.call(MAP_UPDATE_ELEM) }.map(drop)
}

/// Loads a program.
pub(super) fn load(kind: Kind, likeness: Likeness, instructions: &[Instruction]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0_u8; LOG_BYTES];
    let attribute = |log_level: u32| {
        Attribute::new()
            .word(0, kind.program_type())
            .word(4, instructions.len() as u32)
            .pointer(8, instructions.as_ptr())
            .pointer(16, license.as_ptr())
            .word(24, log_level)
            .word(44, likeness.flags)
            .word(68, likeness.attach_type)
    };
    // SAFETY: instructions and licence are valid for reading.
    if let Ok(fd) = unsafe { attribute(0).call_for_fd(PROG_LOAD) } {
        return Ok(fd);
    }
    let mut again = attribute(1).word(28, log.len() as u32).pointer(32, log.as_mut_ptr());
    // SAFETY: as above, and the log is valid for writing.
    let error = match unsafe { again.call_for_fd(PROG_LOAD) } {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    let text: Vec<u8> = log.into_iter().take_while(|byte| *byte != 0).collect();
    bail!(
        "the kernel refuses the measuring program: {error}\n{}",
        String::from_utf8_lossy(&text)
    );
}

/// A loaded program, by its id.
pub(super) fn program(id: u32) -> Result<OwnedFd> {
    let mut attribute = Attribute::new().word(0, id);
    // SAFETY: no pointers.
    unsafe { attribute.call_for_fd(PROG_GET_FD_BY_ID) }.with_context(|| format!("cannot open the program {id}"))
}

/// Attaches a program to an interface of this thread's network namespace, for as long as the descriptor is open.
pub(super) fn attach_xdp(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let mut attribute = Attribute::new()
        .word(0, raw(program))
        .word(4, ifindex)
        .word(8, ATTACH_XDP)
        .word(12, XDP_DRIVER_MODE);
    // SAFETY: no pointers.
    unsafe { attribute.call_for_fd(LINK_CREATE) }
}

/// What a run answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ran {
    /// Of the last repetition.
    pub(super) returned: u32,
    /// Mean of a repetition, nanoseconds.
    pub(super) nanoseconds: u32,
}

/// Runs a program `repeat` times on a packet that came in on an interface of this thread's network namespace.
pub(super) fn test_run(program: &OwnedFd, kind: Kind, packet: &[u8], ifindex: u32, repeat: u32) -> io::Result<Ran> {
    /// `struct __sk_buff` and the place of its `ifindex`.
    const SKB: (usize, usize) = (192, 40);
    /// `struct xdp_md`: `data_end` is the packet's length here, `ingress_ifindex` is at 12.
    const XDP: (usize, usize) = (24, 12);
    let (size, place) = match kind {
        Kind::Tc => SKB,
        Kind::Xdp => XDP,
    };
    let mut context = [0_u8; SKB.0];
    context[place..place + 4].copy_from_slice(&ifindex.to_ne_bytes());
    if kind == Kind::Xdp {
        context[4..8].copy_from_slice(&(packet.len() as u32).to_ne_bytes());
    }
    let mut attribute = Attribute::new()
        .word(0, raw(program))
        .word(8, packet.len() as u32)
        .pointer(16, packet.as_ptr())
        .word(32, repeat)
        .word(40, size as u32)
        .pointer(48, context.as_ptr());
    // SAFETY: packet and context are valid for reading, and no output is asked for.
    unsafe { attribute.call(PROG_TEST_RUN) }?;
    Ok(Ran {
        returned: attribute.read(4),
        nanoseconds: attribute.read(36),
    })
}
