//! Forgetting of old versions: when (policy, pure) and how (step, within a write transaction).

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use redb::{Error, ReadableTable, Table};

use super::{
    super::Revision,
    schema::{VersionKey, VersionValue},
};

/// Changes forgotten per commit, so that writers do not wait long behind a compaction.
pub(super) const CHANGES_PER_STEP: usize = 2000;

/// Decides up to which revision history may be forgotten.
pub(super) struct Policy {
    retention: Duration,
    max_revisions: Revision,
    /// The last revision at some instants, oldest first.
    samples: VecDeque<(Instant, Revision)>,
}

impl Policy {
    pub(super) fn new(retention: Duration, max_revisions: u64) -> Self {
        Self {
            retention,
            max_revisions: Revision::try_from(max_revisions).unwrap_or(Revision::MAX),
            samples: VecDeque::new(),
        }
    }

    /// How often to ask.
    pub(super) fn interval(&self) -> Duration {
        (self.retention / 5).clamp(Duration::from_millis(100), Duration::from_mins(1))
    }

    /// The revision to compact to now, given the last one.
    pub(super) fn target(&mut self, now: Instant, last: Revision) -> Revision {
        self.samples.push_back((now, last));
        let mut by_age = 0;
        while let Some((taken, revision)) = self.samples.front().copied()
            && now.duration_since(taken) >= self.retention
        {
            by_age = revision;
            self.samples.pop_front();
        }
        by_age.max(last - self.max_revisions)
    }
}

/// Forgets what was replaced at or before `target`, as far as one step goes. Answers the revision up to which all is done.
pub(super) fn step(
    versions: &mut Table<'_, VersionKey, VersionValue>,
    changes: &mut Table<'_, (i64, &'static str), ()>,
    target: Revision,
) -> Result<Revision, Error> {
    let mut done = target;
    let mut rows: Vec<(Revision, String)> = Vec::new();
    for row in changes.range(..(target + 1, ""))? {
        let (change, _) = row?;
        let (revision, key) = change.value();
        // Only whole revisions: a list at the compacted revision has to be right.
        if rows.len() >= CHANGES_PER_STEP && rows.last().is_some_and(|(last, _)| *last != revision) {
            done = revision - 1;
            break;
        }
        rows.push((revision, key.to_owned()));
    }
    let keys: BTreeSet<&str> = rows.iter().map(|(_, key)| key.as_str()).collect();
    for key in keys {
        forget(versions, key, done)?;
    }
    for (revision, key) in &rows {
        changes.remove((*revision, key.as_str()))?;
    }
    Ok(done)
}

/// Removes all versions of a key up to a revision but the newest, and that too if it is a deletion.
fn forget(versions: &mut Table<'_, VersionKey, VersionValue>, key: &str, up_to: Revision) -> Result<(), Error> {
    let mut old = Vec::new();
    for (position, row) in versions.range((key, 0)..=(key, up_to))?.rev().enumerate() {
        let (id, version) = row?;
        let is_deletion = version.value().0 == 0;
        if position > 0 || is_deletion {
            old.push(id.value().1);
        }
    }
    for revision in old {
        versions.remove((key, revision))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_retention_may_go() {
        let mut policy = Policy::new(Duration::from_mins(5), 1_000_000);
        let start = Instant::now();
        assert_eq!(policy.target(start, 10), 0);
        assert_eq!(policy.target(start + Duration::from_secs(200), 50), 0);
        assert_eq!(policy.target(start + Duration::from_mins(5), 60), 10);
        assert_eq!(policy.target(start + Duration::from_secs(510), 70), 50);
    }

    #[test]
    fn too_many_revisions_go_however_young() {
        let mut policy = Policy::new(Duration::from_mins(5), 100);
        let start = Instant::now();
        assert_eq!(policy.target(start, 90), 0);
        assert_eq!(policy.target(start + Duration::from_secs(1), 250), 150);
    }
}
