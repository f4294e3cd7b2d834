//! bpf(2) where aya has no form for it, and what the kernel tells of BPF objects by files. Layouts are those of `union bpf_attr` in
//! `include/uapi/linux/bpf.h`.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
    path::Path,
};

// enum bpf_cmd
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// `batch`.
#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: RawFd,
    element_flags: u64,
    flags: u64,
}

/// Sets `count` keys of a map to these values, in this order (Linux 5.6, for per-CPU arrays 5.13). Where one is refused, answers
/// how many were set before it, and why.
///
/// # Safety
/// `keys` and `values` point to as many keys and values as `count` says, in the map's sizes.
pub(crate) unsafe fn update_batch<K, V>(
    map: BorrowedFd<'_>,
    keys: *const K,
    values: *const V,
    count: u32,
) -> Result<(), (u32, io::Error)> {
    let mut attr = Batch {
        from: 0,
        next: 0,
        keys: keys.expose_provenance() as u64,
        values: values.expose_provenance() as u64,
        count,
        map: map.as_raw_fd(),
        element_flags: 0,
        flags: 0,
    };
    let result = bpf(BPF_MAP_UPDATE_BATCH, &mut attr);
    // A call that is refused as a whole leaves the count as it was.
    result.map(drop).map_err(|error| (attr.count % count, error))
}

/// The system call. `A` is a struct of this crate for this command: `repr(C)`, a prefix of the kernel's union, without padding; the
/// kernel takes what is missing for zero.
pub(crate) fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for reading and writing its whole size for the call; what pointers in it point to was made by
    // the callers and outlives the call.
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
