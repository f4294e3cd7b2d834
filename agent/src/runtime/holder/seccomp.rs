//! The system calls a container may not make.
//!
//! A list of refusals rather than of permissions: what Docker's default profile keeps from containers is refused here with
//! EPERM, each unless the container has the capability that the profile asks for. Two more rules close what such a list would leave
//! open: calls newer than this list answer ENOSYS, as do calls through the x32 numbers; other architectures' calls kill.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use super::caps::Caps;

/// Calls refused without the capability; the empty name is never had.
const REFUSED: &[(&str, &[i64])] = &[
    (
        "SYS_ADMIN",
        &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_fanotify_init,
            libc::SYS_lookup_dcookie,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
        ],
    ),
    ("DAC_READ_SEARCH", &[libc::SYS_open_by_handle_at]),
    (
        "SYS_BOOT",
        &[libc::SYS_reboot, libc::SYS_kexec_load, libc::SYS_kexec_file_load],
    ),
    (
        "SYS_MODULE",
        &[libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module],
    ),
    ("SYS_PACCT", &[libc::SYS_acct]),
    (
        "SYS_PTRACE",
        &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_madvise],
    ),
    (
        "SYS_TIME",
        &[libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime],
    ),
    ("SYS_TTY_CONFIG", &[libc::SYS_vhangup]),
    (
        "SYS_NICE",
        &[
            libc::SYS_get_mempolicy,
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            libc::SYS_set_mempolicy_home_node,
        ],
    ),
    ("SYSLOG", &[libc::SYS_syslog]),
    (
        "",
        &[
            libc::SYS_add_key,
            libc::SYS_request_key,
            libc::SYS_keyctl,
            libc::SYS_move_pages,
            libc::SYS_migrate_pages,
            libc::SYS_nfsservctl,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
        ],
    ),
];

/// Old calls only x86 has.
#[cfg(target_arch = "x86_64")]
const REFUSED_X86: &[(&str, &[i64])] = &[
    ("SYS_RAWIO", &[libc::SYS_iopl, libc::SYS_ioperm]),
    (
        "",
        &[libc::SYS__sysctl, libc::SYS_sysfs, libc::SYS_uselib, libc::SYS_ustat],
    ),
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_X86: &[(&str, &[i64])] = &[];

/// The newest call judged by the lists above (include/uapi/asm-generic/unistd.h; numbers agree from 424 on).
const NEWEST_KNOWN: u32 = 462;

/// Bit that marks a call through the x32 interface.
const X32: u32 = 0x4000_0000;

const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// `personality` values that are harmless: Linux, with the variants for old programs, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Filters for a process with these capabilities, to be installed in this order.
pub(super) fn filters(caps: Caps) -> Result<Vec<BpfProgram>, String> {
    let refused = refusals(caps).map_err(|error| error.to_string())?;
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|error: BackendError| error.to_string())?;
    let filter = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    );
    let program = filter
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())?;
    Ok(vec![unknown_calls(caps), program])
}

/// Whether `caps` open what `capability` guards. `SYS_ADMIN` no longer opens all that it once did, but for `bpf` and
/// `perf_event_open` it is enough, as are their own capabilities.
fn refusals(caps: Caps) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let lists = REFUSED
        .iter()
        .chain(REFUSED_X86)
        .filter(|(capability, _)| !caps.has(capability));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = lists
        .flat_map(|(_, calls)| calls.iter().map(|call| (*call, Vec::new())))
        .collect();
    for (capability, call) in [("BPF", libc::SYS_bpf), ("PERFMON", libc::SYS_perf_event_open)] {
        if caps.has(capability) {
            rules.remove(&call);
        }
    }
    if !caps.has("SYS_ADMIN") {
        let flag = |flag: &i32| {
            let flag = u64::from(flag.unsigned_abs());
            SeccompRule::new(vec![SeccompCondition::new(0, Len::Qword, Op::MaskedEq(flag), flag)?])
        };
        rules.insert(
            libc::SYS_clone,
            NAMESPACE_FLAGS.iter().map(flag).collect::<Result<_, _>>()?,
        );
    }
    let other = PERSONALITIES
        .iter()
        .map(|value| SeccompCondition::new(0, Len::Dword, Op::Ne, *value));
    rules.insert(
        libc::SYS_personality,
        vec![SeccompRule::new(other.collect::<Result<_, _>>()?)?],
    );
    let family = |family: i32| {
        let family = u64::from(family.unsigned_abs());
        SeccompRule::new(vec![SeccompCondition::new(0, Len::Dword, Op::Eq, family)?])
    };
    rules.insert(libc::SYS_socket, vec![family(libc::AF_VSOCK)?, family(libc::AF_ALG)?]);
    Ok(rules)
}

/// ENOSYS for calls nobody has judged, and for `clone3`, whose flags a filter cannot see: the C library then uses `clone`.
fn unknown_calls(caps: Caps) -> BpfProgram {
    let op = |code: u32, k: u32, jt: u8, jf: u8| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let nosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let clone3 = if caps.has("SYS_ADMIN") {
        X32
    } else {
        libc::SYS_clone3 as u32
    };
    vec![
        // The call's number is the first word of struct seccomp_data.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, NEWEST_KNOWN, 2, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, clone3, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, nosys, 0, 0),
    ]
}

/// Installs a filter on this process, which must have `no_new_privs` or `CAP_SYS_ADMIN`. (The crate's own installer sets
/// `no_new_privs` always, which containers that may gain privileges must not have.)
pub(super) fn install(program: &BpfProgram) -> nix::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| nix::Error::E2BIG)?,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `filter` points at `len` instructions laid out as the kernel's struct sock_filter (both are repr(C) with the
    // same four fields); the kernel copies them during the call and does not write to them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
    nix::Error::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_open_what_they_guard() {
        let none = refusals(Caps(0)).unwrap();
        assert!(none.contains_key(&libc::SYS_mount) && none.contains_key(&libc::SYS_bpf));
        let admin = super::super::caps::effective(&["SYS_ADMIN".to_owned()], &[]).unwrap();
        let open = refusals(admin).unwrap();
        assert!(!open.contains_key(&libc::SYS_mount) && !open.contains_key(&libc::SYS_clone));
        assert!(open.contains_key(&libc::SYS_keyctl) && open.contains_key(&libc::SYS_reboot));
        let bpf = super::super::caps::effective(&["BPF".to_owned()], &[]).unwrap();
        let open = refusals(bpf).unwrap();
        assert!(!open.contains_key(&libc::SYS_bpf) && open.contains_key(&libc::SYS_perf_event_open));
    }

    #[test]
    fn ordinary_calls_are_not_on_the_list() {
        let rules = refusals(Caps(0)).unwrap();
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_setuid,
            libc::SYS_ptrace,
            libc::SYS_chroot,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }

    #[test]
    fn every_filter_compiles() {
        for caps in [Caps(0), Caps::ALL] {
            assert_eq!(filters(caps).unwrap().len(), 2);
        }
    }
}
