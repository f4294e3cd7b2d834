//! Keys as etcd has them: the configured prefix, a slash, our key. Our keys begin with a slash of their own.

use bytes::Bytes;

use super::super::{KeyValue, StoreError};

pub(super) struct Keyspace {
    prefix: Vec<u8>,
    /// For errors.
    location: String,
}

impl Keyspace {
    pub(super) fn new(prefix: &str, endpoints: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        // Never empty: etcd knows no empty key, and a prefix of other clusters' prefixes would mix them.
        Self {
            prefix: format!("/{prefix}/").into_bytes(),
            location: format!("at {endpoints}"),
        }
    }

    pub(super) fn full(&self, key: &str) -> Vec<u8> {
        [&self.prefix, key.as_bytes()].concat()
    }

    /// The first key behind one.
    pub(super) fn after(&self, key: &str) -> Vec<u8> {
        let mut full = self.full(key);
        full.push(0);
        full
    }

    /// First and end (exclusive) of the keys with a prefix, behind `start_after`.
    pub(super) fn range(&self, prefix: &str, start_after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        let first = match start_after {
            Some(key) if key >= prefix => self.after(key),
            _ => self.full(prefix),
        };
        (first, prefix_end(self.full(prefix)))
    }

    pub(super) fn decode(&self, kv: etcd_client::KeyValue) -> Result<KeyValue, StoreError> {
        let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
        let (key, value) = kv.into_key_value();
        Ok(KeyValue {
            key: self.strip(&key)?,
            value: Bytes::from(value),
            create_revision,
            mod_revision,
        })
    }

    pub(super) fn strip(&self, key: &[u8]) -> Result<String, StoreError> {
        let ours = key
            .strip_prefix(self.prefix.as_slice())
            .and_then(|key| std::str::from_utf8(key).ok());
        ours.map(str::to_owned).ok_or_else(|| StoreError::Corrupt {
            location: self.location.clone(),
            detail: format!("key {} is none of this cluster's", String::from_utf8_lossy(key)),
        })
    }
}

/// The least key greater than all keys with a prefix; `\0`, etcd's "to the end", if there is none.
fn prefix_end(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_prefix_and_lose_it_again() {
        let keyspace = Keyspace::new("/causeway/dev/", "x");
        assert_eq!(keyspace.full("/pods/a"), b"/causeway/dev//pods/a");
        assert_eq!(keyspace.strip(b"/causeway/dev//pods/a").expect("ours"), "/pods/a");
        assert!(keyspace.strip(b"/causeway/prod//pods/a").is_err());
    }

    #[test]
    fn ranges_end_behind_the_last_key_with_the_prefix() {
        let keyspace = Keyspace::new("c", "x");
        let (first, end) = keyspace.range("/pods/", None);
        assert_eq!(
            (first.as_slice(), end.as_slice()),
            (&b"/c//pods/"[..], &b"/c//pods0"[..])
        );
        let (first, _) = keyspace.range("/pods/", Some("/pods/a"));
        assert_eq!(first, b"/c//pods/a\0");
        assert_eq!(prefix_end(vec![b'a', 0xff, 0xff]), b"b");
        assert_eq!(prefix_end(vec![0xff]), [0]);
    }
}
