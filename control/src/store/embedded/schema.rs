//! Tables of the database and the smallest reads of them.

use bytes::Bytes;
use redb::{Database, Error, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::{KeyValue, Revision};

/// Changes when a table's meaning does.
pub(super) const FORMAT: i64 = 1;

/// (key, revision) → (create revision, lease, value). Create revision 0 is a deletion; lease 0 is none.
pub(super) type VersionKey = (&'static str, i64);
/// See [`VersionKey`].
pub(super) type VersionValue = (i64, i64, &'static [u8]);
/// Every version since the last compaction, and at least the present one, of each key.
pub(super) const VERSIONS: TableDefinition<'_, VersionKey, VersionValue> = TableDefinition::new("versions");
/// (revision, key): what changed when, since the last compaction.
pub(super) const CHANGES: TableDefinition<'_, (i64, &'static str), ()> = TableDefinition::new("changes");
/// lease → time to live in seconds.
pub(super) const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
/// (lease, key): what ends with a lease.
pub(super) const LEASE_KEYS: TableDefinition<'_, (i64, &'static str), ()> = TableDefinition::new("lease_keys");
/// The counters below.
pub(super) const META: TableDefinition<'_, &'static str, i64> = TableDefinition::new("meta");

pub(super) const META_FORMAT: &str = "format";
pub(super) const META_REVISION: &str = "revision";
pub(super) const META_COMPACTED: &str = "compacted";
pub(super) const META_LAST_LEASE: &str = "last_lease";

/// What the store has to know before it can answer.
pub(super) struct State {
    pub format: i64,
    pub revision: Revision,
    pub compacted: Revision,
    /// Identifier and seconds.
    pub leases: Vec<(i64, u64)>,
}

/// Makes the tables if they are missing.
pub(super) fn initialise(database: &Database) -> Result<State, Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(VERSIONS)?;
        transaction.open_table(CHANGES)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(LEASE_KEYS)?;
        let mut meta = transaction.open_table(META)?;
        if meta.get(META_FORMAT)?.is_none() {
            meta.insert(META_FORMAT, FORMAT)?;
        }
    }
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let leases = transaction.open_table(LEASES)?;
    let leases = leases.iter()?.map(|row| row.map(|(id, ttl)| (id.value(), ttl.value())));
    Ok(State {
        format: counter(&meta, META_FORMAT)?,
        revision: counter(&meta, META_REVISION)?,
        compacted: counter(&meta, META_COMPACTED)?,
        leases: leases.collect::<Result<_, _>>()?,
    })
}

/// A counter; 0 if it was never written.
pub(super) fn counter(meta: &impl ReadableTable<&'static str, i64>, name: &str) -> Result<i64, Error> {
    Ok(meta.get(name)?.map_or(0, |value| value.value()))
}

/// One version of a key.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub mod_revision: Revision,
    pub create_revision: Revision,
    pub lease: i64,
    pub value: Bytes,
}

impl Version {
    pub(super) fn decode(mod_revision: Revision, (create_revision, lease, value): (i64, i64, &[u8])) -> Self {
        Self {
            mod_revision,
            create_revision,
            lease,
            value: Bytes::copy_from_slice(value),
        }
    }

    pub(super) fn is_deletion(&self) -> bool {
        self.create_revision == 0
    }

    pub(super) fn into_key_value(self, key: &str) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
        }
    }
}

/// The version of a key that was the newest at a revision, deletions included.
pub(super) fn version_at(
    versions: &impl ReadableTable<VersionKey, VersionValue>,
    key: &str,
    at: Revision,
) -> Result<Option<Version>, Error> {
    let Some(row) = versions.range((key, 0)..=(key, at))?.next_back() else {
        return Ok(None);
    };
    let (id, version) = row?;
    Ok(Some(Version::decode(id.value().1, version.value())))
}

/// The version of a key that existed at a revision.
pub(super) fn live_at(
    versions: &impl ReadableTable<VersionKey, VersionValue>,
    key: &str,
    at: Revision,
) -> Result<Option<Version>, Error> {
    Ok(version_at(versions, key, at)?.filter(|version| !version.is_deletion()))
}
