//! READY bits of local pods, flipped the moment a verdict is there.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_abi::backend::{Backend, LOCAL, READY, READY_ALWAYS, TERMINATING, UNSETTLED};
use causeway_maps::{MappedArray, Protocol};
use tokio::sync::Notify;

use super::{
    desired::{BackendId, HostedPorts, Readiness},
    services::{Condition, backends::Held, writer},
};

/// Flips readiness bits in the shared memory of `BACKENDS`.
///
/// Clones share one state. What was said here about a pod outweighs what a pass over the services says of it (that comes
/// from the API server and is older), until [`forget`](Self::forget). The lock inside is only ever held for a look-up and
/// a few stores, never over a pass or a system call.
#[derive(Clone, Debug)]
pub struct ReadinessHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backends: MappedArray<Backend>,
    state: Mutex<State>,
    /// A verdict has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Indexes of the backends of each pod.
    by_pod: HashMap<IpAddr, Vec<u32>>,
    verdicts: HashMap<IpAddr, Verdict>,
    /// The same for ports at the node's own addresses, with the UID of the pod that has the port.
    hosted: HashMap<(IpAddr, u16, Protocol), (String, Verdict)>,
    /// Pods of which something was said since the last call of `take_changed`.
    changed: BTreeSet<IpAddr>,
    /// Backends that were marked as unsettled since the last call of `take_unsettled`.
    unsettled: Vec<u32>,
}

impl State {
    /// What was said of whoever is behind a backend.
    fn verdict(&self, id: &BackendId) -> Verdict {
        let hosted = || Some(self.hosted.get(&(id.address, id.port, id.protocol))?.1);
        self.verdicts
            .get(&id.address)
            .copied()
            .or_else(hosted)
            .unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    ready: Option<bool>,
    terminating: bool,
}

impl Verdict {
    /// The flags with this verdict taken into account.
    fn apply(self, flags: u32) -> u32 {
        let flags = match self.ready {
            Some(true) => flags | READY,
            Some(false) if flags & READY_ALWAYS == 0 => flags & !READY,
            _ => flags,
        };
        if self.terminating { flags | TERMINATING } else { flags }
    }
}

impl ReadinessHandle {
    pub(crate) fn new(backends: MappedArray<Backend>) -> Self {
        Self {
            shared: Arc::new(Shared {
                backends,
                state: Mutex::default(),
                changed: Notify::new(),
            }),
        }
    }

    /// Says whether a pod of this node takes new connections. One atomic store for each of its backends, no system call.
    /// Answers how many bits changed.
    pub fn set_ready(&self, pod: IpAddr, ready: bool) -> usize {
        self.judge(pod, |verdict| verdict.ready = Some(ready))
    }

    /// Says that a pod of this node was asked to end: it keeps its connections and gets new ones only when nobody else is
    /// ready. Answers how many backends changed.
    pub fn set_terminating(&self, pod: IpAddr) -> usize {
        self.judge(pod, |verdict| verdict.terminating = true)
    }

    /// Says of a pod in the node's network whether it takes new connections, and whether it was asked to end: of its ports at one of the
    /// node's addresses. Answers how many backends changed.
    pub fn set_hosted(&self, hosted: &HostedPorts, address: IpAddr, readiness: Readiness) -> usize {
        let mut state = self.state();
        for (port, protocol) in &hosted.ports {
            let verdict = Verdict {
                ready: Some(readiness.ready),
                terminating: readiness.terminating,
            };
            let verdict = (hosted.pod.clone(), verdict);
            state.hosted.insert((address, *port, *protocol), verdict);
        }
        let indexes = state.by_pod.get(&address).map_or(&[][..], Vec::as_slice);
        let theirs = indexes.iter().filter_map(|index| {
            let id = writer::owner(&self.shared.backends.read(*index)?)?;
            hosted
                .ports
                .contains(&(id.port, id.protocol))
                .then(|| (*index, state.verdict(&id)))
        });
        theirs.filter(|(index, verdict)| self.flip(*index, *verdict)).count()
    }

    /// Forgets what was said of a pod in the node's network. Another pod that has one of its ports by now keeps its word.
    pub fn forget_hosted(&self, hosted: &HostedPorts, address: IpAddr) {
        self.state()
            .hosted
            .retain(|(at, ..), (pod, _)| *at != address || *pod != hosted.pod);
    }

    /// Forgets what was said of an address; for when its pod is gone, so that the next pod with it starts afresh.
    pub fn forget(&self, pod: IpAddr) {
        self.state().verdicts.remove(&pod);
    }

    /// What is known of a pod of this node, given what the API server says.
    pub fn known(&self, pod: IpAddr, listed: Readiness) -> Readiness {
        let verdict = self.state().verdicts.get(&pod).copied().unwrap_or_default();
        Readiness {
            ready: verdict.ready.unwrap_or(listed.ready),
            terminating: verdict.terminating || listed.terminating,
        }
    }

    /// Returns once a verdict has changed since the last return. For one waiter.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// The pods of which something was said since the last call.
    pub fn take_changed(&self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.state().changed)
    }

    fn judge(&self, pod: IpAddr, change: impl FnOnce(&mut Verdict)) -> usize {
        let mut state = self.state();
        let verdict = state.verdicts.entry(pod).or_default();
        change(verdict);
        let verdict = *verdict;
        state.changed.insert(pod);
        let indexes = state.by_pod.get(&pod).map_or(&[][..], Vec::as_slice);
        let flipped = indexes.iter().filter(|index| self.flip(**index, verdict)).count();
        drop(state);
        self.shared.changed.notify_one();
        flipped
    }

    fn flip(&self, index: u32, verdict: Verdict) -> bool {
        let Some(flags) = self.shared.backends.flags(index) else {
            return false;
        };
        let wanted = verdict.apply(flags);
        // A backend on its way out is no longer marked local, and takes no verdicts.
        if wanted == flags || flags & LOCAL == 0 {
            return false;
        }
        self.shared.backends.set_flags(index, wanted & !flags, flags & !wanted);
        true
    }

    /// Writes a backend for a pass over the services; tells whether anything differed.
    pub(super) fn publish(&self, held: Held, id: &BackendId, condition: Condition) -> bool {
        let mut state = self.state();
        let mut flags = condition.flags;
        // Of pods elsewhere, and of backends that are on their way out, nothing is said here.
        if flags & LOCAL != 0 {
            let indexes = state.by_pod.entry(id.address).or_default();
            if !indexes.contains(&held.index) {
                indexes.push(held.index);
            }
            let verdict = state.verdict(id);
            flags = verdict.apply(flags);
        }
        let backends = &self.shared.backends;
        let Some(present) = backends.read(held.index) else {
            return false;
        };
        // In one step with READY: a program that sees the one sees the other.
        let returns = returns(&present, held, flags);
        let flags = flags | settling(&present, held, flags, returns);
        if returns {
            state.unsettled.push(held.index);
        }
        let wanted = writer::element(held, id, Condition { flags, ..condition });
        if present == wanted {
            return false;
        }
        if writer::owner(&present) != Some(*id) || present.generation != held.generation {
            return backends.replace(held.index, &wanted);
        }
        if present.node_v4_be != wanted.node_v4_be {
            // Word by word over equal words: the element stays valid all the time. Flags change below, in one step.
            let flags = present.flags;
            backends.write(held.index, &Backend { flags, ..wanted });
        }
        backends.set_flags(held.index, flags & !present.flags, present.flags & !flags);
        true
    }

    /// Sets the flags of a backend that is on its way out; tells whether they differed.
    pub(super) fn retire(&self, held: Held, id: &BackendId, flags: u32) -> bool {
        let _state = self.state();
        let backends = &self.shared.backends;
        match backends.read(held.index) {
            Some(present) if writer::owner(&present) == Some(*id) && present.flags != flags => {
                backends.set_flags(held.index, flags, !flags);
                true
            }
            _ => false,
        }
    }

    /// The backends that were marked as unsettled since the last call, or that adopted maps have so.
    pub(super) fn take_unsettled(&self) -> Vec<u32> {
        std::mem::take(&mut self.state().unsettled)
    }

    /// Lets the slots of a backend decide alone again.
    pub(super) fn settle(&self, index: u32) {
        let _state = self.state();
        self.shared.backends.set_flags(index, 0, UNSETTLED);
    }

    /// Frees an element; the generation stays so that the next owner gets another.
    pub(super) fn withdraw(&self, index: u32, id: &BackendId) {
        let mut state = self.state();
        if let Some(indexes) = state.by_pod.get_mut(&id.address) {
            indexes.retain(|known| *known != index);
            if indexes.is_empty() {
                state.by_pod.remove(&id.address);
            }
        }
        self.shared.backends.set_flags(index, 0, u32::MAX);
    }

    /// Registers the backends that adopted maps hold.
    pub(super) fn adopt(&self, owners: impl IntoIterator<Item = (u32, IpAddr)>) {
        let mut state = self.state();
        for (index, address) in owners {
            state.by_pod.entry(address).or_default().push(index);
            if self
                .shared
                .backends
                .flags(index)
                .is_some_and(|flags| flags & UNSETTLED != 0)
            {
                state.unsettled.push(index);
            }
        }
    }

    /// A panic elsewhere cannot leave the state half-changed: no step of a change can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a backend takes new connections as long as others do.
fn takes(flags: u32) -> bool {
    flags & (READY | TERMINATING) == READY
}

/// Whether a backend is about to take connections again: flows of its slots that began meanwhile are elsewhere. Of this node's own,
/// slots never decide alone.
fn returns(present: &Backend, held: Held, flags: u32) -> bool {
    present.generation == held.generation && !takes(present.flags) && takes(flags) && flags & LOCAL == 0
}

/// The bit of a backend that is unsettled; it stays until [`ReadinessHandle::settle`].
fn settling(present: &Backend, held: Held, flags: u32, returns: bool) -> u32 {
    let stays = present.generation == held.generation && takes(flags) && flags & LOCAL == 0;
    match (returns, stays) {
        (true, _) => UNSETTLED,
        (false, true) => present.flags & UNSETTLED,
        (false, false) => 0,
    }
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
