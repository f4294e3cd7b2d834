//! Quantities and int-or-string values, which are scalars in JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::v1::{IntOrString, Quantity, int_or_string::Value};

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Int(i64),
    Float(f64),
    Text(String),
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.value)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = match Scalar::deserialize(from)? {
            Scalar::Int(n) => n.to_string(),
            Scalar::Float(n) => n.to_string(),
            Scalar::Text(text) => text,
        };
        Ok(Self { value })
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            None => to.serialize_i32(0),
            Some(Value::IntValue(n)) => to.serialize_i32(*n),
            Some(Value::StringValue(text)) => to.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = match Scalar::deserialize(from)? {
            Scalar::Int(n) => {
                Value::IntValue(i32::try_from(n).map_err(|_| D::Error::custom(format!("{n} does not fit 32 bits")))?)
            }
            Scalar::Float(n) => return Err(D::Error::custom(format!("{n} is neither an integer nor a name"))),
            Scalar::Text(text) => Value::StringValue(text),
        };
        Ok(Self { value: Some(value) })
    }
}
