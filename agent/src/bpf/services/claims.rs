//! What services want of their backends, when several share one.

use std::collections::hash_map::Entry;

use causeway_abi::backend::{IN_USE, LOCAL, READY, READY_ALWAYS, TERMINATING};

use super::writer::Condition;
use crate::{
    bpf::desired::{BackendId, DesiredBackend},
    hash::HashMap,
};

/// A backend as one service wants it.
pub type Claim = (BackendId, Condition);

/// The claims of all services.
#[derive(Debug, Default)]
pub struct Claims {
    by_backend: HashMap<BackendId, Claimed>,
}

/// Different conditions and how often each is claimed; nearly always one.
#[derive(Debug)]
struct Claimed {
    first: (Condition, u32),
    others: Vec<(Condition, u32)>,
}

impl Claims {
    /// Makes room for so many backends.
    pub fn reserve(&mut self, backends: usize) {
        self.by_backend.reserve(backends.saturating_sub(self.by_backend.len()));
    }

    /// Replaces one owner's claims by others, both sorted, and tells of the backends for which that may make a difference.
    pub fn replace(&mut self, before: &[Claim], after: &[Claim], mut touched: impl FnMut(BackendId)) {
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(old), Some(new)) => old.cmp(new),
            };
            if order.is_eq() {
                old.next();
                new.next();
                continue;
            }
            // What both have at one place stays; the rest comes or goes.
            if let Some(claim) = order.is_lt().then(|| old.next()).flatten() {
                self.withdraw(claim);
                touched(claim.0);
            } else if let Some(claim) = new.next() {
                self.add(claim);
                touched(claim.0);
            }
        }
    }

    /// A backend as all of its services want it: ready when all say so, terminating when any does. `None` when nobody wants it.
    pub fn condition(&self, id: &BackendId) -> Option<Condition> {
        let claimed = self.by_backend.get(id)?;
        let others = claimed.others.iter().map(|(condition, _)| *condition);
        let merged = others.fold(claimed.first.0, |a, b| Condition {
            flags: (a.flags | b.flags) & (a.flags & b.flags | !READY),
            node: a.node.max(b.node),
        });
        let here = merged.flags & LOCAL != 0;
        Some(Condition {
            node: merged.node.filter(|_| !here),
            ..merged
        })
    }

    fn add(&mut self, (id, condition): &Claim) {
        match self.by_backend.entry(*id) {
            Entry::Vacant(place) => {
                place.insert(Claimed {
                    first: (*condition, 1),
                    others: Vec::new(),
                });
            }
            Entry::Occupied(place) => {
                let Claimed { first, others } = place.into_mut();
                let mut all = std::iter::once(first).chain(&mut *others);
                match all.find(|(known, _)| known == condition) {
                    Some((_, count)) => *count += 1,
                    None => others.push((*condition, 1)),
                }
            }
        }
    }

    fn withdraw(&mut self, (id, condition): &Claim) {
        let Some(Claimed { first, others }) = self.by_backend.get_mut(id) else {
            return;
        };
        let mut all = std::iter::once(&mut *first).chain(&mut *others);
        if let Some((_, count)) = all.find(|(known, _)| known == condition) {
            *count -= 1;
        }
        others.retain(|(_, count)| *count > 0);
        if first.1 == 0 {
            match others.pop() {
                Some(other) => *first = other,
                None => drop(self.by_backend.remove(id)),
            }
        }
    }
}

/// What a service claims of a backend.
pub fn claim(backend: &DesiredBackend) -> Claim {
    let bit = |is: bool, bit: u32| if is { bit } else { 0 };
    let flags = IN_USE
        | bit(backend.ready || backend.id.ready_always, READY)
        | bit(backend.terminating, TERMINATING)
        | bit(backend.local, LOCAL)
        | bit(backend.id.ready_always, READY_ALWAYS);
    let node = backend.node;
    (backend.id, Condition { flags, node })
}

#[cfg(test)]
mod tests {
    use causeway_maps::Protocol;

    use super::*;

    fn id(port: u16) -> BackendId {
        BackendId::new("10.244.1.2".parse().unwrap(), port, Protocol::TCP)
    }

    fn with(flags: u32) -> Condition {
        Condition { flags, node: None }
    }

    /// The backends that a replacement touches, each once.
    fn replace(claims: &mut Claims, before: &[Claim], after: &[Claim]) -> Vec<BackendId> {
        let mut touched = Vec::new();
        claims.replace(before, after, |id| touched.push(id));
        touched.dedup();
        touched
    }

    #[test]
    fn a_backend_of_two_services_is_ready_when_both_say_so() {
        let mut claims = Claims::default();
        replace(&mut claims, &[], &[(id(1), with(IN_USE | READY))]);
        assert_eq!(
            replace(&mut claims, &[], &[(id(1), with(IN_USE | TERMINATING))]),
            [id(1)]
        );
        assert_eq!(claims.condition(&id(1)), Some(with(IN_USE | TERMINATING)));
        replace(&mut claims, &[(id(1), with(IN_USE | TERMINATING))], &[]);
        assert_eq!(claims.condition(&id(1)), Some(with(IN_USE | READY)));
        replace(&mut claims, &[(id(1), with(IN_USE | READY))], &[]);
        assert_eq!(claims.condition(&id(1)), None);
    }

    #[test]
    fn only_what_differs_is_touched() {
        let mut claims = Claims::default();
        let before = [
            (id(1), with(IN_USE)),
            (id(2), with(IN_USE)),
            (id(2), with(IN_USE)),
            (id(3), with(IN_USE)),
        ];
        replace(&mut claims, &[], &before);
        let after = [
            (id(1), with(IN_USE)),
            (id(2), with(IN_USE)),
            (id(3), with(IN_USE | READY)),
            (id(4), with(IN_USE)),
        ];
        assert_eq!(replace(&mut claims, &before, &after), [id(2), id(3), id(4)]);
        assert_eq!(claims.condition(&id(2)), Some(with(IN_USE)), "one of two is left");
        replace(&mut claims, &after, &[]);
        assert_eq!(claims.condition(&id(2)), None);
    }
}
