//! Debian packages, what they are for, and the file by which each is recognised (whoever installed it).

use std::env;
use std::path::Path;

/// A package that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Package {
    /// Debian's name.
    pub(super) name: &'static str,
    /// What for.
    pub(super) why: &'static str,
    /// A program in `PATH` or `/usr/sbin`, or a path.
    proof: &'static str,
}

const PACKAGES: [Package; 9] = [
    Package {
        name: "gcc",
        why: "links every Rust program",
        proof: "cc",
    },
    Package {
        name: "libc6-dev",
        why: "links programs, the demo's statically",
        proof: "/usr/include/stdio.h",
    },
    Package {
        name: "protobuf-compiler",
        why: "builds the etcd client",
        proof: "protoc",
    },
    Package {
        name: "libprotobuf-dev",
        why: "message types for the etcd client",
        proof: "/usr/include/google/protobuf/empty.proto",
    },
    Package {
        name: "iproute2",
        why: "makes the cluster's network",
        proof: "ip",
    },
    Package {
        name: "etcd-server",
        why: "for --store etcd and its tests",
        proof: "etcd",
    },
    Package {
        name: "etcd-client",
        why: "looks into etcd in tests",
        proof: "etcdctl",
    },
    Package {
        name: "bpftool",
        why: "reads maps and programs",
        proof: "bpftool",
    },
    Package {
        name: "busybox-static",
        why: "fills container images in tests",
        proof: "busybox",
    },
];

/// What only benchmarks need: what they compare with, and letters for their plots.
const FOR_BENCHMARKS: [Package; 3] = [
    Package {
        name: "iptables",
        why: "is compared with",
        proof: "iptables-restore",
    },
    Package {
        name: "nftables",
        why: "is compared with",
        proof: "nft",
    },
    Package {
        name: "fonts-dejavu-core",
        why: "labels plots",
        proof: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    },
];

/// What only tests need.
const FOR_TESTS: [Package; 6] = [
    Package {
        name: "iperf3",
        why: "sends much through the data path in tests",
        proof: "iperf3",
    },
    Package {
        name: "iputils-tracepath",
        why: "looks for what fits through it in tests",
        proof: "tracepath",
    },
    Package {
        name: "nginx-light",
        why: "serves in tests",
        proof: "nginx",
    },
    Package {
        name: "redis-server",
        why: "serves in tests",
        proof: "redis-server",
    },
    Package {
        name: "dnsmasq-base",
        why: "answers for names in tests",
        proof: "dnsmasq",
    },
    Package {
        name: "wrk",
        why: "loads the data path in tests",
        proof: "wrk",
    },
];

/// What tests need and is not there.
pub(super) fn missing_for_tests() -> Vec<Package> {
    not_there(&FOR_TESTS)
}

/// What only tests in emulated machines need.
const FOR_VIRTUAL_MACHINES: [Package; 3] = [
    Package {
        name: "qemu-system-x86",
        why: "emulates a machine",
        proof: "qemu-system-x86_64",
    },
    Package {
        name: "binutils",
        why: "strips programs",
        proof: "strip",
    },
    Package {
        name: "xz-utils",
        why: "unpacks kernel modules",
        proof: "xz",
    },
];

/// What tests in emulated machines need and is not there.
pub(super) fn missing_for_virtual_machines() -> Vec<Package> {
    not_there(&FOR_VIRTUAL_MACHINES)
}

/// What is not there.
pub(super) fn missing() -> Vec<Package> {
    not_there(&PACKAGES)
}

/// What benchmarks need and is not there.
pub(super) fn missing_for_benchmarks() -> Vec<Package> {
    not_there(&FOR_BENCHMARKS)
}

fn not_there(packages: &[Package]) -> Vec<Package> {
    let packages = packages.iter().copied();
    packages.filter(|package| !is_there(package.proof)).collect()
}

fn is_there(proof: &str) -> bool {
    if proof.starts_with('/') {
        return Path::new(proof).exists();
    }
    in_path(proof)
}

/// Whether a program is in `PATH`, or where Debian keeps what root uses.
pub(super) fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_files_by_path() {
        assert!(is_there("sh") && is_there("/etc/passwd"));
        assert!(!is_there("no-such-program") && !is_there("/no/such/file"));
    }
}
