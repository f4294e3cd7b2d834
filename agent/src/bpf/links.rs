//! Attaching programs so that they outlive the agent, and replacing them in place when it comes back.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use causeway_maps::link::{AttachType, Link, Target};

use super::{config::TcAttachment, error::DatapathError};

/// Programs on the cgroup and where they hook in.
pub(super) const CGROUP_PROGRAMS: [(&str, AttachType); 9] = [
    ("cw_connect4", AttachType::Inet4Connect),
    ("cw_connect6", AttachType::Inet6Connect),
    ("cw_sendmsg4", AttachType::Udp4Sendmsg),
    ("cw_sendmsg6", AttachType::Udp6Sendmsg),
    ("cw_recvmsg4", AttachType::Udp4Recvmsg),
    ("cw_recvmsg6", AttachType::Udp6Recvmsg),
    ("cw_getpeername4", AttachType::Inet4Getpeername),
    ("cw_getpeername6", AttachType::Inet6Getpeername),
    ("cw_sock_release", AttachType::InetSockRelease),
];

/// A program of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InterfaceProgram {
    /// Its name in the object.
    pub name: &'static str,
    /// Packets that leave, instead of packets that come in.
    pub egress: bool,
}

/// Host side of a pod's veth pair.
pub(super) const FROM_POD: InterfaceProgram = InterfaceProgram {
    name: "cw_from_pod",
    egress: false,
};
/// The same, what the node's own stack sends to the pod.
pub(super) const FROM_HOST: InterfaceProgram = InterfaceProgram {
    name: "cw_from_host",
    egress: true,
};
/// The VXLAN device, both ways.
pub(super) const TUNNEL: [InterfaceProgram; 2] = [
    InterfaceProgram {
        name: "cw_from_tunnel",
        egress: false,
    },
    InterfaceProgram {
        name: "cw_to_tunnel",
        egress: true,
    },
];

/// The uplink, both ways.
pub(super) const UPLINK: [InterfaceProgram; 2] = [
    InterfaceProgram {
        name: "cw_from_uplink",
        egress: false,
    },
    InterfaceProgram {
        name: "cw_to_uplink",
        egress: true,
    },
];

/// Priority and handle of our clsact filters: known, so that a later agent can replace them.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x6377);

impl InterfaceProgram {
    /// Its pin for one interface.
    pub(super) fn pin(self, links_dir: &Path, ifindex: u32) -> PathBuf {
        links_dir.join(format!("{}-{ifindex}", self.name))
    }

    fn attach_type(self) -> AttachType {
        if self.egress {
            AttachType::TcxEgress
        } else {
            AttachType::TcxIngress
        }
    }

    fn tc_attach_type(self) -> TcAttachType {
        if self.egress {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        }
    }
}

/// Attaches a program to an interface, or replaces it there. Tries tcx first, unless told otherwise.
pub(super) fn attach_interface(
    program: &mut SchedClassifier,
    which: InterfaceProgram,
    ifindex: u32,
    links_dir: &Path,
    how: TcAttachment,
) -> Result<(), DatapathError> {
    if how == TcAttachment::Probe {
        let fd = program.fd().map_err(|source| DatapathError::Program {
            name: which.name,
            source,
        })?;
        let pin = which.pin(links_dir, ifindex);
        match attach(fd.as_fd(), which.attach_type(), Target::Interface(ifindex), &pin) {
            Ok(()) => return Ok(()),
            // Kernels without tcx do not know the attach type.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                tracing::info!(ifindex, program = which.name, %error, "no tcx here, using a clsact filter");
            }
            Err(source) => {
                return Err(DatapathError::AttachInterface {
                    name: which.name,
                    ifindex,
                    source,
                });
            }
        }
    }
    attach_clsact(program, which, ifindex)
}

/// Detaches a program from an interface; one that is not attached, or whose interface is gone, is fine.
pub(super) fn detach_interface(which: InterfaceProgram, ifindex: u32, links_dir: &Path) -> io::Result<()> {
    match fs::remove_file(which.pin(links_dir, ifindex)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    // Perhaps by a filter; interface gone means filter gone.
    if let Ok(interface) = interface_name(ifindex)
        && let Ok(link) =
            SchedClassifierLink::attached(&interface, which.tc_attach_type(), CLSACT_PRIORITY, CLSACT_HANDLE, None)
    {
        // Dropping the link removes the filter, if there is one.
        drop(link);
    }
    Ok(())
}

/// Whether the interface or cgroup of a pinned link is gone.
pub(super) fn is_defunct(pin: &Path) -> io::Result<bool> {
    Ok(Link::open(pin)?.info()?.place.is_gone())
}

/// Attaches a program by a pinned link, or puts it in the place of the one whose link is pinned there already.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    attach_type: AttachType,
    target: Target<'_>,
    pin: &Path,
) -> io::Result<()> {
    match Link::open(pin) {
        Ok(link) if link.info()?.place == target.place(attach_type) => return link.update(program),
        // The pinned link's interface or cgroup is gone, or another one is meant now.
        Ok(_) => {
            let link = Link::create(program, target, attach_type)?;
            fs::remove_file(pin)?;
            return link.pin(pin);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Link::create(program, target, attach_type)?.pin(pin)
}

fn attach_clsact(program: &mut SchedClassifier, which: InterfaceProgram, ifindex: u32) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::AttachClsact {
        name: which.name,
        ifindex,
        source,
    };
    let interface = interface_name(ifindex).map_err(|source| DatapathError::AttachInterface {
        name: which.name,
        ifindex,
        source,
    })?;
    match tc::qdisc_add_clsact(&interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let attach_type = which.tc_attach_type();
    let options = NlOptions {
        priority: CLSACT_PRIORITY,
        handle: CLSACT_HANDLE,
        classid: None,
    };
    let added = program.attach_with_options(&interface, attach_type, TcAttachOptions::Netlink(options));
    let id = if let Ok(id) = added {
        id
    } else {
        // Ours from before is there: replaced in place.
        let old = SchedClassifierLink::attached(&interface, attach_type, CLSACT_PRIORITY, CLSACT_HANDLE, None)
            .map_err(|source| DatapathError::AttachInterface {
                name: which.name,
                ifindex,
                source,
            })?;
        program.attach_to_link(old).map_err(failed)?
    };
    // The filter belongs to the interface; forgotten here, it stays when this process ends.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
}

/// Name of an interface of the calling thread's network namespace.
fn interface_name(ifindex: u32) -> io::Result<String> {
    let mut buffer = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that if_indextoname(3) asks for.
    if unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&buffer).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}
