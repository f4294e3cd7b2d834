//! bpf(2) calls on links that aya has no public form for: attach by interface index or cgroup, and replace the program of
//! any link in place. Layouts are those of `union bpf_attr` and `struct bpf_link_info` in `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

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
pub(super) enum AttachType {
    Inet4Connect = 10,
    Inet6Connect = 11,
    Udp4Sendmsg = 14,
    Udp6Sendmsg = 15,
    Udp4Recvmsg = 19,
    Udp6Recvmsg = 20,
    Inet4Getpeername = 29,
    Inet6Getpeername = 30,
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A cgroup directory.
    Cgroup(BorrowedFd<'a>),
    /// An interface of the calling thread's network namespace.
    Interface(u32),
    /// XDP of such an interface, and `XDP_FLAGS_*` (`include/uapi/linux/if_link.h`).
    Xdp(u32, u32),
}

/// What a link is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkTarget {
    /// The id of a cgroup (its inode number); 0 once it is gone.
    Cgroup(u64),
    /// An interface index; 0 once the interface is gone.
    Interface(u32),
    /// A link of another kind.
    Other,
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

/// `struct bpf_link_info`, as far as its cgroup, tcx and XDP members go, with room for the others.
#[repr(C)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// cgroup: `u64 cgroup_id`; tcx: `u32 ifindex, u32 attach_type`; XDP: `u32 ifindex`.
    target: [u32; 2],
    rest: [u32; 26],
}

/// The system call. `A` is one of the structs above: `repr(C)`, a prefix of the kernel's union, without padding; the kernel
/// takes what is missing for zero.
fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for reading and writing its whole size for the call; what pointers in it point to was made by
    // the callers below and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it. Descriptors fit an int.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Attaches a program; the attachment lives as long as the link's descriptors and pins.
pub(super) fn link_create(program: BorrowedFd<'_>, target: Target<'_>, attach_type: AttachType) -> io::Result<OwnedFd> {
    let (target, flags) = match target {
        Target::Cgroup(fd) => (fd.as_raw_fd().cast_unsigned(), 0),
        Target::Interface(index) => (index, 0),
        Target::Xdp(index, flags) => (index, flags),
    };
    let mut attr = LinkCreate {
        program: program.as_raw_fd(),
        target,
        attach_type: attach_type as u32,
        flags,
    };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Replaces the program of a link: from one packet or call to the next, with no gap.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once; without this, the kernel takes its time after the last pin and descriptor are gone.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd();
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Where a link is attached.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    let mut info = LinkInfo {
        link_type: 0,
        id: 0,
        program: 0,
        padding: 0,
        target: [0; 2],
        rest: [0; 26],
    };
    let mut attr = ObjectInfo {
        object: link.as_raw_fd(),
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [first, second] = info.target;
    Ok(match info.link_type {
        BPF_LINK_TYPE_CGROUP if cfg!(target_endian = "little") => {
            LinkTarget::Cgroup(u64::from(second) << 32 | u64::from(first))
        }
        BPF_LINK_TYPE_CGROUP => LinkTarget::Cgroup(u64::from(first) << 32 | u64::from(second)),
        BPF_LINK_TYPE_TCX | BPF_LINK_TYPE_XDP => LinkTarget::Interface(first),
        _ => LinkTarget::Other,
    })
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectPath {
        path: path.as_ptr().expose_provenance() as u64,
        object: object.as_raw_fd(),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectPath {
        path: path.as_ptr().expose_provenance() as u64,
        object: 0,
        flags: 0,
    };
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}
