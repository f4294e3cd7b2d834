//! RFC 3339 text for `google.protobuf.Timestamp`.

use jiff::Timestamp as Jiff;
use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};

/// Writes seconds since the epoch as RFC 3339, with a fraction only where there is one.
pub fn serialize<S: Serializer>(value: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        None => to.serialize_none(),
        Some(t) => to.collect_str(&Jiff::new(t.seconds, t.nanos).map_err(S::Error::custom)?),
    }
}

/// Reads RFC 3339 text, or `null`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let t: Jiff = text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not an RFC 3339 time")))?;
    Ok(Some(Timestamp { seconds: t.as_second(), nanos: t.subsec_nanosecond() }))
}
