//! Session affinity: a client keeps its backend as long as it comes back in time.

use aya_ebpf::bindings::BPF_ANY;
use causeway_abi::{
    affinity::{Affinity, AffinityKey},
    service::Service,
};
use causeway_ebpf::select::{Eligibility, eligibility};

use crate::{balance, conntrack::now_ns, maps::AFFINITY};

/// The backend a client was given last, if that takes connections and not too much time went by since.
#[inline(always)]
pub fn remembered(key: &AffinityKey, service: &Service) -> Option<u32> {
    // SAFETY: the value is copied out at once.
    let found = unsafe { AFFINITY.get(key).copied() }?;
    let age_ns = now_ns().wrapping_sub(found.last_seen_ns);
    let flags = balance::flags_of(found.backend, found.generation)?;
    let is_fresh = age_ns < u64::from(service.affinity_seconds) * 1_000_000_000;
    (is_fresh && matches!(eligibility(flags), Eligibility::Ready)).then_some(found.backend)
}

/// Remembers a client's backend, from now; an index that no backend has is not remembered.
#[inline(always)]
pub fn remember(key: &AffinityKey, index: u32) {
    let Some(backend) = balance::backend(index) else { return };
    let value = Affinity {
        last_seen_ns: now_ns(),
        backend: index,
        generation: backend.generation,
    };
    // The table makes room by itself; when it cannot, the client's hash leads to the same backend most of the time.
    let _ = AFFINITY.insert(key, &value, BPF_ANY.into());
}
