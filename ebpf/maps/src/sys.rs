//! What the kernel tells of BPF objects beyond what aya passes on: where links are attached, and the memory of maps.
//! Layouts are those of `union bpf_attr` and `struct bpf_link_info` in `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// enum bpf_cmd
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

// enum bpf_link_type
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;

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

/// The anonymous member of `BPF_OBJ_GET`.
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

/// Where a link is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Id of a cgroup (its inode number), 0 once it is gone; and `enum bpf_attach_type`.
    Cgroup(u64, u32),
    /// Index of an interface in the node's namespace, 0 once it is gone; and `enum bpf_attach_type`.
    Tcx(u32, u32),
    /// Index of an interface in the node's namespace, 0 once it is gone.
    Xdp(u32),
    /// A link of another kind.
    Other,
}

/// A link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Id of its program.
    pub program: u32,
    /// Where it is attached.
    pub place: Place,
}

/// What a pinned link is.
pub(crate) fn pinned_link(path: &Path) -> io::Result<Link> {
    let link = open_pin(path)?;
    let mut info = RawLinkInfo::default();
    let mut attr = ObjectInfo {
        object: link.as_raw_fd(),
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
    Ok(Link {
        program: info.program,
        place,
    })
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectPath {
        path: path.as_ptr().expose_provenance() as u64,
        object: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else knows it. Descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The system call. `A` is one of the structs above: `repr(C)`, a prefix of the kernel's union, without padding; the kernel
/// takes what is missing for zero.
fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for reading and writing its whole size for the call; what pointers in it point to was made by
    // the callers above and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A field of `/proc/self/fdinfo/FD` (`proc_pid_fdinfo(5)`), such as "memlock".
pub(crate) fn fdinfo(fd: BorrowedFd<'_>, field: &str) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    Ok(fdinfo_field(&text, field))
}

fn fdinfo_field(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().parse().ok())?
    })
}

/// An exclusive lock on a directory, held until the descriptor is closed; `None` when somebody else holds it and `wait` is
/// false.
pub(crate) fn lock(dir: &Path, wait: bool) -> io::Result<Option<fs::File>> {
    let file = fs::File::open(dir)?;
    let how = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
        return Ok(Some(file));
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        Ok(None)
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_descriptor_are_read() {
        let text = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t5246976\n";
        assert_eq!(fdinfo_field(text, "memlock"), Some(5_246_976));
        assert_eq!(fdinfo_field(text, "missing"), None);
    }

    #[test]
    fn a_directory_is_locked_by_one() {
        let dir = std::env::temp_dir().join(format!("cwt-lock-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let first = lock(&dir, false).unwrap();
        assert!(first.is_some());
        assert!(lock(&dir, false).unwrap().is_none());
        drop(first);
        assert!(lock(&dir, false).unwrap().is_some());
        fs::remove_dir_all(&dir).unwrap();
    }
}
