//! What the maps hold of each service: frontends that share a table, by number, by key and by owner.

use std::sync::Arc;

use causeway_abi::service::{Service, ServiceKey};

use super::{arena::Range, claims::Claim, holds::Holds};
use crate::{
    bpf::desired::{BackendId, SourceRange},
    hash::HashMap,
};

/// Number of a group; used again after it is gone.
pub type GroupId = u32;

/// Frontends in the maps that share a table and an id.
#[derive(Debug)]
pub struct Group {
    /// "namespace/name".
    pub owner: Arc<str>,
    /// "namespace/name:port".
    pub name: String,
    /// Its id: key of counters, name and source ranges.
    pub service_id: u32,
    /// Whether the id is its alone; not so only after a botched adoption.
    pub owns_id: bool,
    /// Its range of `SLOTS`; `None` when empty or, after adoption, not trustworthy.
    pub range: Option<Range>,
    /// Slots that remember whose they were.
    pub holds: Holds,
    /// Backends that are kept for its flows; sorted.
    pub members: Vec<BackendId>,
    /// Those of them that its table points to; sorted.
    pub choice: Vec<BackendId>,
    /// Clients that are let in; `None` after adoption, when it is not known.
    pub source_ranges: Option<Vec<SourceRange>>,
    /// Its entries of `SERVICES`.
    pub keys: Vec<ServiceKey>,
    /// Adopted in a state that must be written anew whatever is desired.
    pub stale: bool,
}

impl Group {
    /// A group that has nothing yet.
    pub fn empty(owner: Arc<str>) -> Self {
        Self {
            owner,
            name: String::new(),
            service_id: 0,
            owns_id: false,
            range: None,
            holds: Holds::default(),
            members: Vec::new(),
            choice: Vec::new(),
            source_ranges: None,
            keys: Vec::new(),
            stale: false,
        }
    }
}

/// An entry of `SERVICES`.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// Whose it is.
    pub group: GroupId,
    /// As it is in the map.
    pub service: Service,
}

/// A namespace's service with all its ports.
#[derive(Debug, Default)]
pub struct Owner {
    /// What it claims of backends; sorted.
    pub claims: Vec<Claim>,
    /// Its groups.
    pub groups: Vec<GroupId>,
}

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// By number.
    slab: Vec<Option<Group>>,
    free: Vec<GroupId>,
    entries: HashMap<ServiceKey, Applied>,
    owners: HashMap<Arc<str>, Owner>,
}

impl Groups {
    /// A group.
    pub fn get(&self, id: GroupId) -> Option<&Group> {
        self.slab.get(id as usize)?.as_ref()
    }

    /// A group, to be changed.
    pub fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.slab.get_mut(id as usize)?.as_mut()
    }

    /// The numbers of all groups.
    pub fn ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        (0..)
            .zip(&self.slab)
            .filter_map(|(id, group)| group.as_ref().map(|_| id))
    }

    /// Adds a group without keys.
    pub fn insert(&mut self, group: Group) -> GroupId {
        let owner = Arc::clone(&group.owner);
        let id = if let Some(id) = self.free.pop() {
            self.slab[id as usize] = Some(group);
            id
        } else {
            self.slab.push(Some(group));
            (self.slab.len() - 1) as GroupId
        };
        self.owners.entry(owner).or_default().groups.push(id);
        id
    }

    /// Takes out a group that has no keys.
    pub fn remove(&mut self, id: GroupId) -> Option<Group> {
        let group = self.slab.get_mut(id as usize)?.take()?;
        self.free.push(id);
        if let Some(owner) = self.owners.get_mut(&group.owner) {
            owner.groups.retain(|other| *other != id);
        }
        self.forget_if_empty(&group.owner);
        Some(group)
    }

    /// An entry of `SERVICES`.
    pub fn entry(&self, key: &ServiceKey) -> Option<&Applied> {
        self.entries.get(key)
    }

    /// Notes an entry of `SERVICES` for a group; answers the group from which it was taken and which has none left now.
    pub fn assign(&mut self, key: ServiceKey, group: GroupId, service: Service) -> Option<GroupId> {
        let before = self.entries.insert(key, Applied { group, service });
        let before = before.map(|applied| applied.group);
        if before == Some(group) {
            return None;
        }
        if let Some(group) = self.get_mut(group) {
            group.keys.push(key);
        }
        before.filter(|before| self.lose(&key, *before))
    }

    /// Notes that an entry is gone; answers its group when that has none left now.
    pub fn unassign(&mut self, key: &ServiceKey) -> Option<GroupId> {
        let applied = self.entries.remove(key)?;
        Some(applied.group).filter(|group| self.lose(key, *group))
    }

    /// Takes a key from a group; tells whether it was the last.
    fn lose(&mut self, key: &ServiceKey, group: GroupId) -> bool {
        self.get_mut(group).is_some_and(|group| {
            group.keys.retain(|other| other != key);
            group.keys.is_empty()
        })
    }

    /// What an owner has.
    pub fn owner(&self, name: &str) -> Option<&Owner> {
        self.owners.get(name)
    }

    /// The names of all owners.
    pub fn owners(&self) -> impl Iterator<Item = &Arc<str>> {
        self.owners.keys()
    }

    /// Replaces an owner's claims, and answers those it had and those it has.
    pub fn set_claims(&mut self, name: &str, claims: Vec<Claim>) -> (Vec<Claim>, &[Claim]) {
        let before = match self.owners.get_mut(name) {
            Some(owner) => std::mem::replace(&mut owner.claims, claims),
            None if claims.is_empty() => Vec::new(),
            None => {
                let owner = Owner {
                    claims,
                    groups: Vec::new(),
                };
                let owner = self.owners.entry(Arc::from(name)).insert_entry(owner).into_mut();
                return (Vec::new(), &owner.claims);
            }
        };
        self.forget_if_empty(name);
        (before, self.owners.get(name).map_or(&[], |owner| &owner.claims))
    }

    /// Makes room for so many owners, each with an entry.
    pub fn reserve(&mut self, owners: usize) {
        self.owners.reserve(owners.saturating_sub(self.owners.len()));
        self.entries.reserve(owners.saturating_sub(self.entries.len()));
        self.slab.reserve(owners.saturating_sub(self.slab.len()));
    }

    fn forget_if_empty(&mut self, name: &str) {
        let empty = |owner: &Owner| owner.groups.is_empty() && owner.claims.is_empty();
        if self.owners.get(name).is_some_and(empty) {
            self.owners.remove(name);
        }
    }

    /// The owner's name, shared where it is known.
    pub fn shared_name(&self, name: &str) -> Arc<str> {
        let known = self.owners.get_key_value(name);
        known.map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name))
    }
}
