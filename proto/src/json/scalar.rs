//! Quantities and int-or-string values, which are scalars in JSON.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};

use crate::{
    quantity::Amount,
    v1::{IntOrString, Quantity, int_or_string::Value},
};

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.value)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(QuantityVisitor)
    }
}

struct QuantityVisitor;

impl QuantityVisitor {
    fn read<E: Error>(text: String) -> Result<Quantity, E> {
        Amount::parse(&text).map_err(E::custom)?;
        Ok(Quantity { value: text })
    }
}

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Quantity, E> {
        Self::read(number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
        Self::read(number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Quantity, E> {
        Self::read(number.to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
        Self::read(text.to_owned())
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
        from.deserialize_any(IntOrStringVisitor)
    }
}

struct IntOrStringVisitor;

impl Visitor<'_> for IntOrStringVisitor {
    type Value = IntOrString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 32-bit integer or a string")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<IntOrString, E> {
        let number = i32::try_from(number).map_err(|_| E::custom(format!("{number} does not fit 32 bits")))?;
        Ok(IntOrString {
            value: Some(Value::IntValue(number)),
        })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<IntOrString, E> {
        let number = i32::try_from(number).map_err(|_| E::custom(format!("{number} does not fit 32 bits")))?;
        Ok(IntOrString {
            value: Some(Value::IntValue(number)),
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<IntOrString, E> {
        Ok(IntOrString {
            value: Some(Value::StringValue(text.to_owned())),
        })
    }
}

impl From<i32> for IntOrString {
    fn from(number: i32) -> Self {
        Self {
            value: Some(Value::IntValue(number)),
        }
    }
}

impl From<&str> for IntOrString {
    fn from(text: &str) -> Self {
        Self {
            value: Some(Value::StringValue(text.to_owned())),
        }
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => f.write_str("0"),
            Some(Value::IntValue(number)) => number.fmt(f),
            Some(Value::StringValue(text)) => text.fmt(f),
        }
    }
}
