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
mod tests {
    use causeway_abi::backend::IN_USE;
    use causeway_maps::Protocol;

    use super::*;

    const LOCAL_READY: u32 = IN_USE | LOCAL | READY;

    fn id(port: u16, ready_always: bool) -> BackendId {
        BackendId {
            address: pod(),
            port,
            protocol: Protocol::TCP,
            ready_always,
        }
    }

    fn pod() -> IpAddr {
        "10.244.1.2".parse().unwrap()
    }

    fn handle() -> (ReadinessHandle, MappedArray<Backend>) {
        let backends = MappedArray::anonymous(8).unwrap();
        (ReadinessHandle::new(backends.clone()), backends)
    }

    fn publish(handle: &ReadinessHandle, held: Held, id: &BackendId, flags: u32) -> bool {
        handle.publish(held, id, Condition { flags, node: None })
    }

    fn held(index: u32) -> Held {
        Held { index, generation: 1 }
    }

    #[test]
    fn a_verdict_flips_every_backend_of_the_pod() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        publish(&handle, held(3), &id(81, false), LOCAL_READY);
        assert_eq!(handle.set_ready(pod(), false), 2);
        assert_eq!(
            (backends.flags(0), backends.flags(3)),
            (Some(IN_USE | LOCAL), Some(IN_USE | LOCAL))
        );
        assert_eq!(handle.set_ready(pod(), false), 0, "nothing left to flip");
        assert_eq!(handle.set_ready(pod(), true), 2);
        assert_eq!(backends.flags(3), Some(LOCAL_READY));
    }

    #[test]
    fn an_older_list_does_not_undo_a_verdict() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        handle.set_ready(pod(), false);
        assert!(
            !publish(&handle, held(0), &id(80, false), LOCAL_READY),
            "the list still says ready"
        );
        assert_eq!(backends.flags(0), Some(IN_USE | LOCAL));
        handle.forget(pod());
        assert!(publish(&handle, held(0), &id(80, false), LOCAL_READY));
        assert_eq!(backends.flags(0), Some(LOCAL_READY));
    }

    #[test]
    fn a_verdict_waits_for_its_backend() {
        let (handle, backends) = handle();
        assert_eq!(handle.set_ready(pod(), true), 0);
        publish(&handle, held(2), &id(80, false), IN_USE | LOCAL);
        assert_eq!(backends.flags(2), Some(LOCAL_READY));
    }

    #[test]
    fn a_terminating_pod_stays_ready_for_when_nobody_else_is() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        assert_eq!(handle.set_terminating(pod()), 1);
        assert_eq!(backends.flags(0), Some(LOCAL_READY | TERMINATING));
        assert_eq!(handle.set_ready(pod(), false), 1);
        assert_eq!(backends.flags(0), Some(IN_USE | LOCAL | TERMINATING));
    }

    #[test]
    fn a_backend_on_its_way_out_takes_no_verdicts() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), IN_USE | TERMINATING);
        assert_eq!(handle.set_ready(pod(), true), 0);
        assert_eq!(backends.flags(0), Some(IN_USE | TERMINATING));
    }

    fn hosted(pod: &str, ports: &[u16]) -> HostedPorts {
        HostedPorts {
            pod: pod.to_owned(),
            ports: ports.iter().map(|port| (*port, Protocol::TCP)).collect(),
        }
    }

    #[test]
    fn a_pod_in_the_nodes_network_speaks_for_its_own_ports_alone() {
        let readiness = |ready| Readiness {
            ready,
            terminating: false,
        };
        let (handle, backends) = handle();
        let first = hosted("u-1", &[80, 81]);
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        publish(&handle, held(1), &id(90, false), LOCAL_READY);
        assert_eq!(handle.set_hosted(&first, pod(), readiness(false)), 1);
        assert_eq!(
            (backends.flags(0), backends.flags(1)),
            (Some(IN_USE | LOCAL), Some(LOCAL_READY))
        );
        // A list that is older does not undo it, and a backend that comes later heeds it.
        assert!(!publish(&handle, held(0), &id(80, false), LOCAL_READY));
        publish(&handle, held(2), &id(81, false), LOCAL_READY);
        assert_eq!(backends.flags(2), Some(IN_USE | LOCAL));
        // The port goes to another pod before the first is forgotten.
        let heir = hosted("u-3", &[80]);
        assert_eq!(handle.set_hosted(&heir, pod(), readiness(true)), 1);
        handle.forget_hosted(&first, pod());
        assert!(
            !publish(&handle, held(0), &id(80, false), IN_USE | LOCAL),
            "the heir's word counts"
        );
        assert_eq!(backends.flags(0), Some(LOCAL_READY));
        assert!(
            publish(&handle, held(2), &id(81, false), LOCAL_READY),
            "the list's word counts again"
        );
    }

    #[test]
    fn a_pod_in_the_nodes_network_that_ends_is_the_last_resort() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        let ending = Readiness {
            ready: true,
            terminating: true,
        };
        assert_eq!(handle.set_hosted(&hosted("u-1", &[80]), pod(), ending), 1);
        assert_eq!(backends.flags(0), Some(LOCAL_READY | TERMINATING));
    }

    #[test]
    fn who_publishes_not_ready_addresses_is_left_alone() {
        let (handle, backends) = handle();
        let flags = LOCAL_READY | READY_ALWAYS;
        publish(&handle, held(0), &id(80, true), flags);
        assert_eq!(handle.set_ready(pod(), false), 0);
        assert_eq!(backends.flags(0), Some(flags));
    }

    #[test]
    fn another_owner_replaces_the_whole_element() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        handle.withdraw(0, &id(80, false));
        assert_eq!(backends.read(0).unwrap().flags, 0);
        assert_eq!(backends.read(0).unwrap().generation, 1);
        publish(
            &handle,
            Held {
                index: 0,
                generation: 2,
            },
            &id(90, false),
            LOCAL_READY,
        );
        let element = backends.read(0).unwrap();
        assert_eq!(
            (u16::from_be(element.port_be), element.generation, element.flags),
            (90, 2, LOCAL_READY)
        );
    }

    #[test]
    fn a_backend_that_returns_is_unsettled_until_it_is_seen_to() {
        let (handle, backends) = handle();
        let publish = |flags| handle.publish(held(0), &id(80, false), Condition { flags, node: None });
        publish(IN_USE | READY);
        assert_eq!(backends.flags(0), Some(IN_USE | READY), "nobody had its flows before");
        for away in [IN_USE, IN_USE | READY | TERMINATING] {
            publish(away);
            assert_eq!(backends.flags(0), Some(away));
            publish(IN_USE | READY);
            assert_eq!(backends.flags(0), Some(IN_USE | READY | UNSETTLED));
            assert!(!publish(IN_USE | READY), "it stays so");
            assert_eq!(handle.take_unsettled(), [0]);
            assert!(handle.take_unsettled().is_empty());
            handle.settle(0);
            assert_eq!(backends.flags(0), Some(IN_USE | READY));
        }
        // Another one with the same index has no flows elsewhere.
        publish(IN_USE);
        let next = Held {
            index: 0,
            generation: 2,
        };
        let flags = IN_USE | READY;
        handle.publish(next, &id(81, false), Condition { flags, node: None });
        assert_eq!(backends.flags(0), Some(IN_USE | READY));
        // What an earlier agent had not seen to is seen to by this one.
        backends.set_flags(0, UNSETTLED, 0);
        handle.adopt([(0, pod())]);
        assert_eq!(handle.take_unsettled(), [0]);
    }

    #[test]
    fn slots_of_this_nodes_backends_never_decide_alone() {
        let (handle, backends) = handle();
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        handle.set_ready(pod(), false);
        handle.set_ready(pod(), true);
        publish(&handle, held(0), &id(80, false), LOCAL_READY);
        assert_eq!(backends.flags(0), Some(LOCAL_READY));
        assert!(handle.take_unsettled().is_empty());
    }

    #[test]
    fn a_backend_that_moves_to_another_node_keeps_its_generation() {
        let (handle, backends) = handle();
        let on = |node: &str| Condition {
            flags: IN_USE | READY,
            node: Some(node.parse().unwrap()),
        };
        assert!(handle.publish(held(0), &id(80, false), on("172.30.0.2")));
        assert!(handle.publish(held(0), &id(80, false), on("172.30.0.3")));
        assert!(!handle.publish(held(0), &id(80, false), on("172.30.0.3")));
        let element = backends.read(0).unwrap();
        assert_eq!(element.node_v4_be.to_ne_bytes(), [172, 30, 0, 3], "network byte order");
        assert_eq!((element.flags, element.generation), (IN_USE | READY, 1));
        assert!(handle.retire(held(0), &id(80, false), IN_USE | TERMINATING));
        let element = backends.read(0).unwrap();
        assert_eq!(
            element.node_v4_be.to_ne_bytes(),
            [172, 30, 0, 3],
            "its flows still need it"
        );
        assert!(
            !handle.retire(held(0), &id(81, false), 0),
            "another's element is left alone"
        );
    }
}
