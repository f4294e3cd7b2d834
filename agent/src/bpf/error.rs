//! What can go wrong with the data path.

use std::{io, path::PathBuf};

use causeway_maps::{MapsError, bpffs::BpffsError};

/// The data path could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process lacks the rights.
    #[error("the data path needs root (CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN), but this process runs as uid {uid}")]
    NotRoot {
        /// Effective user id.
        uid: u32,
    },
    /// The kernel has no BTF.
    #[error("the kernel gives no BTF at {path}: use one built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf {
        /// Where it was looked for.
        path: &'static str,
    },
    /// The kernel has no bpf(2).
    #[error("the kernel has no bpf(2): use one built with CONFIG_BPF_SYSCALL, and leave lockdown off")]
    NoBpf(#[source] io::Error),
    /// The cgroup directory cannot be used.
    #[error("cannot open the cgroup {path}")]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cgroup directory is not in a v2 tree.
    #[error("{path} is not in a cgroup v2 tree: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)")]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// bpffs cannot be used.
    #[error("bpffs cannot be used")]
    Bpffs(#[from] BpffsError),
    /// Pinned maps do not fit, or cannot be reached.
    #[error("the pinned maps cannot be used")]
    Maps(#[from] MapsError),
    /// A pinned map has another size than is configured. What is in it cannot move to another map under traffic.
    #[error(
        "the pinned map {map} has {found} elements, {wanted} are configured (--map-...): configure {found} again, or \
         remove the pins in {dir} (this ends the connections of this node)"
    )]
    MapSize {
        /// Its name.
        map: &'static str,
        /// Its size.
        found: u32,
        /// The size in the configuration.
        wanted: u32,
        /// Directory of the pins.
        dir: PathBuf,
    },
    /// The pinned maps belong to another version of the agent.
    #[error(
        "the pinned maps in {dir} have ABI version {found}, this agent speaks version {expected}: \
         remove the pins (this ends the connections of this node) or run the agent that made them"
    )]
    AbiVersion {
        /// Directory of the pins.
        dir: PathBuf,
        /// Version in the map `NODE`.
        found: u32,
        /// The agent's version.
        expected: u32,
    },
    /// The BPF object could not be loaded.
    #[error("cannot load the BPF object")]
    Load(#[source] aya::EbpfError),
    /// The BPF object lacks a program.
    #[error("the BPF object has no program {name}")]
    NoProgram {
        /// Its name.
        name: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// A program could not be attached to the cgroup.
    #[error("cannot attach {name} to the cgroup {path}")]
    AttachCgroup {
        /// Name of the program.
        name: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be attached to an interface.
    #[error("cannot attach {name} to interface {ifindex}")]
    AttachInterface {
        /// Name of the program.
        name: &'static str,
        /// The interface.
        ifindex: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be attached to an interface by a clsact filter either.
    #[error("cannot attach {name} to interface {ifindex}, neither by tcx nor by a clsact filter")]
    AttachClsact {
        /// Name of the program.
        name: &'static str,
        /// The interface.
        ifindex: u32,
        /// Why.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// A pin could not be read, made or removed.
    #[error("cannot use the pin {path}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
