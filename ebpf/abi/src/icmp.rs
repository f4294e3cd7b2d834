//! `ICMP_BUDGET`: how many ICMP errors the node's programs may send.
//!
//! Routers must limit the errors they originate (RFC 1812, 4.3.2.8; RFC 4443, 2.4 (f)). The numbers are Linux's
//! (`net.ipv4.icmp_msgs_per_sec`, `net.ipv4.icmp_msgs_burst`), and the programs' errors do not count against the kernel's own. TCP
//! resets are not limited, as in Linux.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Element of `ICMP_BUDGET` (array; index: [`TOO_BIG`] or [`OTHERS`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IcmpBudget {
    /// Monotonic time at which all of [`BURST`] may be sent at once again, nanoseconds (`bpf_ktime_get_coarse_ns`).
    pub full_ns: u64,
}
const _: () = assert!(size_of::<IcmpBudget>() == 8);

/// Errors that path MTU discovery needs, which would otherwise fail while somebody provokes others.
pub const TOO_BIG: u32 = 0;
/// All other errors.
pub const OTHERS: u32 = 1;
/// Elements of `ICMP_BUDGET`.
pub const BUDGETS: usize = 2;

/// Nanoseconds after which one more may be sent: a thousand in a second.
pub const INTERVAL_NS: u64 = 1_000_000;
/// How many may be sent at once after a pause.
pub const BURST: u64 = 50;
