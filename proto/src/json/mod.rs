//! serde for the parts of Kubernetes' JSON that prost's shapes do not give by themselves.

use serde::{Deserialize, Deserializer};

mod scalar;
pub mod timestamp;

/// True for the zero value, which Kubernetes' JSON leaves out.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads `null` as the zero value, as Kubernetes does.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
