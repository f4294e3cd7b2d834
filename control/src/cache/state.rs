//! What a cache knows: the present objects and a bounded window of the changes that led to them. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use causeway_proto::v1::Object;

use crate::store::Revision;

/// Namespace (empty for cluster-scoped kinds) and name; the order of lists.
pub type Name = (String, String);

/// One object's step from one version to the next. Not both sides are `None`.
#[derive(Clone, Debug)]
pub struct Change {
    /// Store revision of the step.
    pub revision: Revision,
    /// `None`: created.
    pub before: Option<Arc<Object>>,
    /// `None`: deleted.
    pub after: Option<Arc<Object>>,
    name: Name,
}

/// A revision outside the window of kept changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The oldest one that works.
    pub oldest: Revision,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page {
    /// Matching objects, in order.
    pub items: Vec<Arc<Object>>,
    /// Where the next page begins (exclusive), if more objects follow.
    pub next_after: Option<Name>,
}

/// The objects of one kind as of one revision, and how they became so.
#[derive(Debug)]
pub struct State {
    objects: BTreeMap<Name, Arc<Object>>,
    revision: Revision,
    history: VecDeque<Change>,
    /// Changes at or before this revision are not in `history`.
    forgotten: Revision,
    capacity: usize,
}

impl State {
    /// An empty state at revision 0 that keeps `capacity` changes.
    pub fn new(capacity: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            revision: 0,
            history: VecDeque::new(),
            forgotten: 0,
            capacity,
        }
    }

    /// Everything up to this revision is in.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The present objects, in order.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// One present object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Starts over from a complete list; nothing before it can be resumed.
    pub fn start(&mut self, objects: BTreeMap<Name, Arc<Object>>, revision: Revision) {
        self.objects = objects;
        self.history.clear();
        self.revision = revision;
        self.forgotten = revision;
    }

    /// Catches up from a complete list after changes were missed: what differs counts as changed at the list's revision,
    /// so that watchers go on without listing again. Answers whether anything differed.
    pub fn catch_up(&mut self, objects: &BTreeMap<Name, Arc<Object>>, revision: Revision) -> bool {
        let gone = self.objects.keys().filter(|name| !objects.contains_key(*name));
        let mut changes: Vec<(Name, Option<Arc<Object>>)> = gone.map(|name| (name.clone(), None)).collect();
        for (name, object) in objects {
            if self.objects.get(name).is_none_or(|known| known != object) {
                changes.push((name.clone(), Some(object.clone())));
            }
        }
        let differed = !changes.is_empty();
        self.apply(revision, changes);
        differed
    }

    /// Takes in all changes of one revision; without changes, the mere progress to it.
    pub fn apply(&mut self, revision: Revision, changes: Vec<(Name, Option<Arc<Object>>)>) {
        for (name, after) in changes {
            let before = match &after {
                Some(object) => self.objects.insert(name.clone(), object.clone()),
                None => self.objects.remove(&name),
            };
            if before.is_some() || after.is_some() {
                self.history.push_back(Change {
                    revision,
                    before,
                    after,
                    name,
                });
            }
        }
        self.revision = self.revision.max(revision);
        self.forget();
    }

    /// Drops the oldest changes beyond the capacity, always all of a revision together.
    fn forget(&mut self) {
        while self.history.len() > self.capacity {
            let Some(oldest) = self.history.pop_front() else { return };
            self.forgotten = oldest.revision;
            while self
                .history
                .front()
                .is_some_and(|next| next.revision == oldest.revision)
            {
                self.history.pop_front();
            }
        }
    }

    fn kept_after(&self, revision: Revision) -> Result<impl Iterator<Item = &Change>, Forgotten> {
        if revision < self.forgotten {
            return Err(Forgotten { oldest: self.forgotten });
        }
        let start = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(start..))
    }

    /// Changes after a revision, oldest first; at least `limit` if there are as many, and all of a revision together.
    pub fn changes_after(&self, revision: Revision, limit: usize) -> Result<Vec<Change>, Forgotten> {
        let mut found: Vec<Change> = Vec::new();
        for change in self.kept_after(revision)? {
            if found.len() >= limit && found.last().is_some_and(|last| last.revision != change.revision) {
                break;
            }
            found.push(change.clone());
        }
        Ok(found)
    }

    /// At most `limit` (0: all) matching objects after `after`, as they were at a revision that is not in the future.
    pub fn page(
        &self,
        at: Revision,
        after: Option<&Name>,
        limit: usize,
        matches: impl Fn(&Object) -> bool,
    ) -> Result<Page, Forgotten> {
        // What has changed since is undone: the first step after `at` knows the object as it was then.
        let mut as_of: BTreeMap<&Name, Option<&Arc<Object>>> = BTreeMap::new();
        for change in self.kept_after(at)? {
            as_of.entry(&change.name).or_insert(change.before.as_ref());
        }
        let from = || after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut now = self.objects.range((from(), Bound::Unbounded)).peekable();
        let mut then = as_of.range::<Name, _>((from(), Bound::Unbounded)).peekable();
        let mut page = Page {
            items: Vec::new(),
            next_after: None,
        };
        let mut last: Option<&Name> = None;
        loop {
            let (name, object) = match (now.peek(), then.peek()) {
                (Some((present, object)), past) if past.is_none_or(|(past, _)| *present < **past) => {
                    let found = (*present, Some(*object));
                    now.next();
                    found
                }
                (present, Some((past, object))) => {
                    let found = (**past, **object);
                    if present.is_some_and(|(present, _)| *present == **past) {
                        now.next();
                    }
                    then.next();
                    found
                }
                (_, None) => return Ok(page),
            };
            let Some(object) = object.filter(|object| matches(object)) else {
                continue;
            };
            if limit > 0 && page.items.len() == limit {
                page.next_after = last.cloned();
                return Ok(page);
            }
            page.items.push(object.clone());
            last = Some(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::{Resource, v1::Pod};
    use proptest::prelude::*;

    use super::*;

    fn pod(name: &str, version: Revision) -> Arc<Object> {
        let mut pod = Pod::default();
        name.clone_into(&mut pod.meta_mut().name);
        pod.meta_mut().resource_version = version.to_string();
        Arc::new(pod.into_object())
    }

    fn name(name: &str) -> Name {
        (String::new(), name.to_owned())
    }

    fn put(state: &mut State, key: &str, revision: Revision) {
        state.apply(revision, vec![(name(key), Some(pod(key, revision)))]);
    }

    fn delete(state: &mut State, key: &str, revision: Revision) {
        state.apply(revision, vec![(name(key), None)]);
    }

    fn titles(page: &Page) -> Vec<String> {
        page.items
            .iter()
            .map(|o| format!("{}@{}", o.key(), o.meta().unwrap().resource_version))
            .collect()
    }

    fn all(state: &State, at: Revision) -> Result<Vec<String>, Forgotten> {
        state.page(at, None, 0, |_| true).map(|page| titles(&page))
    }

    #[test]
    fn changes_resume_from_any_kept_revision() {
        let mut state = State::new(10);
        put(&mut state, "a", 1);
        put(&mut state, "a", 3);
        delete(&mut state, "a", 4);
        let revisions = |after| -> Vec<Revision> {
            state
                .changes_after(after, 100)
                .unwrap()
                .iter()
                .map(|change| change.revision)
                .collect()
        };
        assert_eq!(revisions(0), [1, 3, 4]);
        assert_eq!(revisions(2), [3, 4]);
        assert_eq!(revisions(4), [0_i64; 0]);
        assert_eq!(revisions(9), [0_i64; 0]);
        let last = state.changes_after(3, 100).unwrap().remove(0);
        assert_eq!(last.before.unwrap().meta().unwrap().resource_version, "3");
        assert!(last.after.is_none());
    }

    #[test]
    fn the_window_is_bounded_and_forgets_whole_revisions() {
        let mut state = State::new(3);
        state.apply(1, vec![(name("a"), Some(pod("a", 1))), (name("b"), Some(pod("b", 1)))]);
        put(&mut state, "c", 2);
        assert!(state.changes_after(0, 9).is_ok());
        put(&mut state, "d", 3);
        assert_eq!(state.changes_after(0, 9).unwrap_err(), Forgotten { oldest: 1 });
        assert_eq!(state.changes_after(1, 9).unwrap().len(), 2);
        assert_eq!(all(&state, 0), Err(Forgotten { oldest: 1 }));
        assert_eq!(all(&state, 1).unwrap(), ["a@1", "b@1"]);
    }

    #[test]
    fn a_limit_does_not_split_a_revision() {
        let mut state = State::new(10);
        state.apply(1, vec![(name("a"), Some(pod("a", 1))), (name("b"), Some(pod("b", 1)))]);
        put(&mut state, "c", 2);
        assert_eq!(state.changes_after(0, 1).unwrap().len(), 2);
    }

    #[test]
    fn pages_show_one_revision_while_objects_change() {
        let mut state = State::new(100);
        for (revision, key) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            put(&mut state, key, revision);
        }
        let first = state.page(4, None, 2, |_| true).unwrap();
        assert_eq!(titles(&first), ["a@1", "b@2"]);
        put(&mut state, "c", 5);
        delete(&mut state, "d", 6);
        put(&mut state, "bb", 7);
        let second = state.page(4, first.next_after.as_ref(), 2, |_| true).unwrap();
        assert_eq!(titles(&second), ["c@3", "d@4"]);
        assert_eq!(second.next_after, None);
        assert_eq!(all(&state, 7).unwrap(), ["a@1", "b@2", "bb@7", "c@5"]);
    }

    #[test]
    fn catching_up_tells_the_difference_once() {
        let mut state = State::new(10);
        state.start([(name("a"), pod("a", 1)), (name("b"), pod("b", 2))].into(), 2);
        let list = [(name("b"), pod("b", 5)), (name("c"), pod("c", 6))].into();
        assert!(state.catch_up(&list, 8));
        let changes = state.changes_after(2, 10).unwrap();
        assert_eq!(changes.len(), 3);
        assert!(changes.iter().all(|change| change.revision == 8));
        assert_eq!(all(&state, 8).unwrap(), ["b@5", "c@6"]);
        assert!(!state.catch_up(&list, 9));
        assert_eq!(state.revision(), 9);
    }

    proptest! {
        #[test]
        fn every_past_revision_lists_as_it_was(steps in prop::collection::vec((0..6_usize, any::<bool>()), 1..60), limit in 1..4_usize) {
            let mut state = State::new(1000);
            let mut model: BTreeMap<String, Revision> = BTreeMap::new();
            let mut past = vec![(0, model.clone())];
            for (revision, (key, is_put)) in (1..).zip(steps) {
                let key = format!("k{key}");
                if is_put {
                    put(&mut state, &key, revision);
                    model.insert(key, revision);
                } else {
                    delete(&mut state, &key, revision);
                    model.remove(&key);
                }
                past.push((revision, model.clone()));
            }
            for (revision, model) in past {
                let expected: Vec<String> = model.iter().map(|(key, version)| format!("{key}@{version}")).collect();
                prop_assert_eq!(&all(&state, revision).unwrap(), &expected);
                let (mut paged, mut after) = (Vec::new(), None);
                loop {
                    let page = state.page(revision, after.as_ref(), limit, |_| true).unwrap();
                    prop_assert!(page.items.len() <= limit);
                    paged.extend(titles(&page));
                    after = page.next_after;
                    if after.is_none() {
                        break;
                    }
                }
                prop_assert_eq!(paged, expected);
            }
        }
    }
}
