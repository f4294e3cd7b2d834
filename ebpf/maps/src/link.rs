//! BPF links: what holds a program at a cgroup or an interface. aya has no public form for what is needed of them: attaching by
//! interface index or cgroup, replacing the program of any link in place, and telling where a pinned one is attached. Layouts are
//! those of `union bpf_attr` and `struct bpf_link_info` in `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use crate::sys::bpf;

// enum bpf_cmd
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

// enum bpf_link_type
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// `enum bpf_attach_type`, the members that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AttachType {
    /// `connect(2)` to an IPv4 address.
    Inet4Connect = 10,
    /// `connect(2)` to an IPv6 address.
    Inet6Connect = 11,
    /// `sendmsg(2)` of an unconnected UDP socket to an IPv4 address.
    Udp4Sendmsg = 14,
    /// `sendmsg(2)` of an unconnected UDP socket to an IPv6 address.
    Udp6Sendmsg = 15,
    /// `recvmsg(2)` of a UDP socket from an IPv4 address.
    Udp4Recvmsg = 19,
    /// `recvmsg(2)` of a UDP socket from an IPv6 address.
    Udp6Recvmsg = 20,
    /// `getpeername(2)` of an IPv4 socket.
    Inet4Getpeername = 29,
    /// `getpeername(2)` of an IPv6 socket.
    Inet6Getpeername = 30,
    /// The last `close(2)` of an IPv4 or IPv6 socket.
    InetSockRelease = 34,
    /// Frames that come in, before the kernel makes socket buffers.
    Xdp = 37,
    /// Packets that come in by an interface (Linux 6.6).
    TcxIngress = 46,
    /// Packets that leave by an interface (Linux 6.6).
    TcxEgress = 47,
}

/// Where a program is to be attached.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A cgroup: its directory and its id.
    Cgroup(BorrowedFd<'a>, u64),
    /// An interface of the calling thread's network namespace.
    Interface(u32),
    /// XDP of such an interface, and `XDP_FLAGS_*` (`include/uapi/linux/if_link.h`).
    Xdp(u32, u32),
}

impl Target<'_> {
    /// Where a link to this is.
    pub fn place(self, attach_type: AttachType) -> Place {
        match self {
            Self::Cgroup(_, id) => Place::Cgroup(id, attach_type as u32),
            Self::Interface(index) => Place::Tcx(index, attach_type as u32),
            Self::Xdp(index, _) => Place::Xdp(index),
        }
    }
}

/// Where a link is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Id of a cgroup (its inode number), 0 once it is gone; and `enum bpf_attach_type`.
    Cgroup(u64, u32),
    /// Index of an interface in the node's namespace, 0 once it is gone; and `enum bpf_attach_type`.
    Tcx(u32, u32),
    /// Index of an interface in the node's namespace, 0 once it is gone.
    Xdp(u32),
    /// A link of another kind.
    Other,
}

impl Place {
    /// Whether the cgroup or the interface is gone.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Cgroup(0, _) | Self::Tcx(0, _) | Self::Xdp(0))
    }
}

/// What a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// Id of its program.
    pub program: u32,
    /// Where it is attached.
    pub place: Place,
}

/// A link; the attachment lives as long as its descriptors and pins.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Attaches a program.
    pub fn create(program: BorrowedFd<'_>, target: Target<'_>, attach_type: AttachType) -> io::Result<Self> {
        let (target, flags) = match target {
            Target::Cgroup(dir, _) => (dir.as_raw_fd().cast_unsigned(), 0),
            Target::Interface(index) => (index, 0),
            Target::Xdp(index, flags) => (index, flags),
        };
        let mut attr = LinkCreate {
            program: program.as_raw_fd(),
            target,
            attach_type: attach_type as u32,
            flags,
        };
        bpf(BPF_LINK_CREATE, &mut attr).map(Self::owned)
    }

    /// Opens a pinned one.
    pub fn open(pin: &Path) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut attr = ObjectPath {
            path: path.as_ptr().expose_provenance() as u64,
            object: 0,
            flags: 0,
        };
        bpf(BPF_OBJ_GET, &mut attr).map(Self::owned)
    }

    /// Pins it.
    pub fn pin(&self, pin: &Path) -> io::Result<()> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut attr = ObjectPath {
            path: path.as_ptr().expose_provenance() as u64,
            object: self.0.as_raw_fd(),
            flags: 0,
        };
        bpf(BPF_OBJ_PIN, &mut attr).map(drop)
    }

    /// Replaces its program: from one packet or call to the next, with no gap.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = LinkUpdate {
            link: self.0.as_raw_fd(),
            program: program.as_raw_fd(),
            flags: 0,
            old_program: 0,
        };
        bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
    }

    /// Detaches it at once; without this, the kernel takes its time after the last pin and descriptor are gone.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = self.0.as_raw_fd();
        bpf(BPF_LINK_DETACH, &mut attr).map(drop)
    }

    /// What it is.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let mut info = RawLinkInfo::default();
        let mut attr = ObjectInfo {
            object: self.0.as_raw_fd(),
            info_len: size_of::<RawLinkInfo>() as u32,
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        let [first, second, third] = info.target;
        let place = match info.link_type {
            BPF_LINK_TYPE_CGROUP if cfg!(target_endian = "little") => {
                Place::Cgroup(u64::from(second) << 32 | u64::from(first), third)
            }
            BPF_LINK_TYPE_CGROUP => Place::Cgroup(u64::from(first) << 32 | u64::from(second), third),
            BPF_LINK_TYPE_TCX => Place::Tcx(first, second),
            BPF_LINK_TYPE_XDP => Place::Xdp(first),
            _ => Place::Other,
        };
        Ok(LinkInfo {
            program: info.program,
            place,
        })
    }

    fn owned(fd: libc::c_long) -> Self {
        // SAFETY: the kernel just made this descriptor for us; nobody else knows it. Descriptors fit an int.
        Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

/// `link_create`.
#[repr(C)]
struct LinkCreate {
    program: RawFd,
    /// Descriptor of a cgroup, or an interface index.
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `link_update`.
#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: u32,
}

/// The anonymous member of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectPath {
    path: u64,
    object: RawFd,
    flags: u32,
}

/// `info`.
#[repr(C)]
struct ObjectInfo {
    object: RawFd,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info`, as far as its cgroup, XDP and tcx members go, with room for the others.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// cgroup: `u64 cgroup_id, u32 attach_type`; XDP: `u32 ifindex`; tcx: `u32 ifindex, u32 attach_type`.
    target: [u32; 3],
    rest: [u32; 25],
}
