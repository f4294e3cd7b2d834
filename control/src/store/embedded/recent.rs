//! The last changes in memory, so that watches that keep up need no disk.

use std::{collections::VecDeque, sync::Arc};

use super::super::{Revision, WatchBatch, WatchEvent};

/// Bounds of what is kept.
const MAX_BATCHES: usize = 4096;
const MAX_BYTES: usize = 32 << 20;

/// Consecutive batches of all keys, ending with the last committed one.
pub(super) struct Recent {
    batches: VecDeque<(usize, Arc<WatchBatch>)>,
    bytes: usize,
    /// Every batch after this revision is in `batches`.
    after: Revision,
}

impl Recent {
    pub(super) fn starting_after(revision: Revision) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            after: revision,
        }
    }

    pub(super) fn push(&mut self, batch: WatchBatch) {
        let bytes = batch.events.iter().map(size).sum();
        self.bytes += bytes;
        self.batches.push_back((bytes, Arc::new(batch)));
        while self.batches.len() > MAX_BATCHES || self.bytes > MAX_BYTES {
            let Some((bytes, batch)) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            self.after = batch.revision;
        }
    }

    /// The batches after a revision, `max` at most; `None` if some of them are only on disk.
    pub(super) fn since(&self, revision: Revision, max: usize) -> Option<Vec<Arc<WatchBatch>>> {
        if revision < self.after {
            return None;
        }
        let first = self.batches.partition_point(|(_, batch)| batch.revision <= revision);
        Some(
            self.batches
                .range(first..)
                .take(max)
                .map(|(_, batch)| Arc::clone(batch))
                .collect(),
        )
    }
}

fn size(event: &WatchEvent) -> usize {
    let (current, previous) = match event {
        WatchEvent::Put { current, previous } => (current.value.len(), previous),
        WatchEvent::Delete { previous, .. } => (0, previous),
    };
    event.key().len() + current + previous.as_ref().map_or(0, |previous| previous.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(revision: Revision) -> WatchBatch {
        WatchBatch {
            revision,
            events: vec![WatchEvent::Delete {
                key: "k".into(),
                previous: None,
            }],
        }
    }

    #[test]
    fn old_batches_leave_and_are_known_to_be_missing() {
        let mut recent = Recent::starting_after(10);
        let last = 10 + Revision::try_from(MAX_BATCHES).expect("small") + 5;
        for revision in 11..=last {
            recent.push(deletion(revision));
        }
        assert!(recent.since(14, 1).is_none(), "revision 15 has been pushed out");
        let kept = recent.since(15, usize::MAX).expect("revision 16 is the oldest kept");
        assert_eq!(kept.len(), MAX_BATCHES);
        assert_eq!(kept[0].revision, 16);
        assert_eq!(recent.since(last, 10).expect("up to date").len(), 0);
        assert_eq!(recent.since(last - 2, 1).expect("in memory")[0].revision, last - 1);
    }

    #[test]
    fn a_new_store_knows_nothing_before_its_start() {
        let recent = Recent::starting_after(7);
        assert!(recent.since(6, 1).is_none());
        assert!(recent.since(7, 1).is_some_and(|batches| batches.is_empty()));
    }
}
