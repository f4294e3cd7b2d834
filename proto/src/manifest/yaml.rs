//! YAML text (of which JSON is a part) as values that know their line.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use super::{
    error::ManifestError,
    path::{FieldPath, Segment},
};

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// Line of the value, from 1; of its key when it has one.
    line: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Splits text into its documents; empty ones are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, ManifestError> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| ManifestError {
        document: None,
        object: None,
        line: error.location().map(|location| location.line()),
        path: FieldPath::default(),
        problem: message(&error),
    })
}

/// The parser's words without its own rendering of the place, and without what only a programmer could follow.
fn message(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error.without_snippet() {
        return match key.as_deref() {
            // Every document begins with these: given twice, they are most likely the next document's.
            Some(key @ ("apiVersion" | "kind" | "metadata")) => {
                format!("duplicate key \"{key}\": are two documents joined without \"---\" between them?")
            }
            Some(key) => format!("duplicate key \"{key}\""),
            None => "duplicate key".to_owned(),
        };
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.lines().next().unwrap_or(text).to_owned()
}

impl Node {
    /// The plain value.
    pub(super) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(nodes) => Value::Array(nodes.iter().map(Self::to_value).collect()),
            Content::Object(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.clone(), node.to_value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// True for a document without content.
    pub(super) const fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    /// The line of a field, or of its nearest ancestor that is there.
    pub(super) fn line_of(&self, path: &[Segment]) -> u64 {
        let inner = path
            .split_first()
            .and_then(|(first, rest)| Some((self.child(first)?, rest)));
        inner.map_or(self.line, |(child, rest)| child.line_of(rest))
    }

    fn child(&self, segment: &Segment) -> Option<&Self> {
        match (&self.content, segment) {
            (Content::List(nodes), Segment::Index(index)) => nodes.get(*index),
            (Content::Object(entries), Segment::Key(key)) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The elements of the list below a key.
    pub(super) fn items(&self, key: &str) -> &[Self] {
        match self.child(&Segment::Key(key.to_owned())) {
            Some(Self {
                content: Content::List(nodes),
                ..
            }) => nodes,
            _ => &[],
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(from)?;
        Ok(Self {
            line: spanned.referenced.line(),
            content: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Content, D::Error> {
        Content::deserialize(from)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom(format!("{value} is not a number")))?;
        Ok(Content::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element()? {
            nodes.push(node);
        }
        Ok(Content::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            if entries.iter().any(|(known, _)| *known == key.value) {
                return Err(A::Error::custom(format!("duplicate key \"{}\"", key.value)));
            }
            let node = access.next_value::<Node>()?;
            entries.push((
                key.value,
                Node {
                    line: key.referenced.line(),
                    ..node
                },
            ));
        }
        Ok(Content::Object(entries))
    }
}
