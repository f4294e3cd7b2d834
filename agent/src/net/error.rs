//! What can go wrong with the pod network.

use std::{io, net::IpAddr, path::PathBuf};

/// A failed operation on the pod network. The source says what the kernel answered.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// A network namespace cannot be entered.
    #[error("cannot enter the network namespace {}", path.display())]
    Namespace {
        /// Where it was expected.
        path: PathBuf,
        /// From open or setns.
        #[source]
        source: io::Error,
    },
    /// A request about a link failed.
    #[error("cannot {verb} link {name}")]
    Link {
        /// What was tried.
        verb: &'static str,
        /// Interface name.
        name: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A link that must be there is not.
    #[error("there is no link {0}")]
    NoLink(String),
    /// A link of the right name is not what it should be.
    #[error("link {name} exists but is not {expected}; remove it or choose another name")]
    Foreign {
        /// Interface name.
        name: String,
        /// What it should be.
        expected: String,
    },
    /// A link without an Ethernet address.
    #[error("link {0} has no Ethernet address")]
    NoMac(String),
    /// An address could not be added.
    #[error("cannot give {address} to link {link}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Interface name.
        link: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A route could not be set or removed.
    #[error("cannot {verb} the route to {destination}/{prefix_len}")]
    Route {
        /// What was tried.
        verb: &'static str,
        /// Destination.
        destination: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A destination and its preferred source, or a prefix length, do not fit together.
    #[error("no route to {destination}/{prefix_len} can be written: {reason}")]
    InvalidRoute {
        /// Destination.
        destination: IpAddr,
        /// Its prefix length.
        prefix_len: u8,
        /// Why.
        reason: String,
    },
    /// A neighbour entry could not be set.
    #[error("cannot set the neighbour entry of {address} on link {link}")]
    Neighbour {
        /// The neighbour.
        address: IpAddr,
        /// Interface name.
        link: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel has no IPv6, but the node has an IPv6 range.
    #[error("the node has an IPv6 pod range, but its kernel has IPv6 switched off")]
    NoIpv6,
    /// A link cannot carry IPv6.
    #[error("pods would have an MTU of {mtu_bytes} bytes, and IPv6 needs 1280: give link {link} a larger one")]
    MtuTooSmall {
        /// The uplink.
        link: String,
        /// What is left of its MTU for pods.
        mtu_bytes: u32,
    },
    /// Routes cannot be listed.
    #[error("cannot list routes")]
    Routes(#[source] rtnetlink::Error),
    /// A kernel parameter could not be set.
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        /// File below /proc/sys.
        path: PathBuf,
        /// Value.
        value: String,
        /// From the file system.
        #[source]
        source: io::Error,
    },
}

/// The errno of a kernel answer.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}
