//! Capabilities: which a container gets (pure), and getting down to them.

use std::collections::BTreeSet;

/// Every capability by its number (include/uapi/linux/capability.h), without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it says otherwise (the same 14 as Docker and containerd).
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Caps(pub u64);

impl Caps {
    /// All there are.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// Whether the capability called `name` is in it.
    pub fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The default set with `drop` taken and `add` given, in that order. Unknown names are an error.
pub(super) fn effective(add: &[String], drop: &[String]) -> Result<Caps, String> {
    let parse = |names: &[String]| -> Result<u64, String> {
        let names: BTreeSet<_> = names.iter().map(|name| name.to_ascii_uppercase()).collect();
        names
            .iter()
            .try_fold(0, |set, name| match name.strip_prefix("CAP_").unwrap_or(name) {
                "ALL" => Ok(Caps::ALL.0),
                known => bit(known)
                    .map(|bit| set | bit)
                    .ok_or_else(|| format!("there is no capability \"{name}\"")),
            })
    };
    let default = DEFAULT
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |set, bit| set | bit);
    Ok(Caps(default & !parse(drop)? | parse(add)?))
}

/// Takes all capabilities beyond `keep` from the bounding set, so that no program executed later can get them.
pub(super) fn bound(keep: Caps) -> nix::Result<()> {
    for number in 0..64_u64 {
        if number < 64 && keep.0 & (1 << number) != 0 {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
        match nix::Error::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
            // Past the last capability this kernel knows.
            Err(nix::Error::EINVAL) => return Ok(()),
            result => result.map(drop)?,
        }
    }
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Leaves this process with exactly `caps`, permitted and effective.
pub(super) fn set(caps: Caps) -> nix::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |bits: u32| Data {
        effective: bits,
        permitted: bits,
        inheritable: 0,
    };
    let caps = caps.0 & permitted();
    let data = [half(caps as u32), half((caps >> 32) as u32)];
    // SAFETY: version 3 of the call reads one header and two data structures, laid out as in linux/capability.h, which
    // live through the call.
    nix::Error::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// What this process may have: a kernel may know fewer capabilities than we do, and the agent may run with fewer.
fn permitted() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(Caps::ALL.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_default_set_is_dockers() {
        // What `CapEff` shows in a container of Docker's.
        assert_eq!(effective(&[], &[]), Ok(Caps(0x0000_0000_a804_25fb)));
    }

    #[test]
    fn dropping_comes_before_adding() {
        let only_net = effective(&strings(&["NET_BIND_SERVICE"]), &strings(&["ALL"])).unwrap();
        assert_eq!(only_net, Caps(1 << 10));
        let more = effective(&strings(&["cap_sys_admin"]), &strings(&["CAP_KILL"])).unwrap();
        assert!(more.has("SYS_ADMIN") && !more.has("KILL") && more.has("CHOWN"));
        assert_eq!(effective(&strings(&["ALL"]), &[]), Ok(Caps::ALL));
        let error = effective(&strings(&["CAP_FLY"]), &[]).unwrap_err();
        assert_eq!(error, "there is no capability \"CAP_FLY\"");
    }
}
