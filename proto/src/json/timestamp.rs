//! RFC 3339 text for `google.protobuf.Timestamp`.

use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

use crate::time;

/// Writes seconds since the epoch as RFC 3339, with a fraction only where there is one.
pub fn serialize<S: Serializer>(value: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        None => to.serialize_none(),
        Some(at) => to.serialize_str(&time::to_rfc3339(at)),
    }
}

/// Reads RFC 3339 text, or `null`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    time::from_rfc3339(&text).map(Some).map_err(D::Error::custom)
}
