//! Where in a document something is.

use std::fmt;

/// One step into a document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Segment {
    /// Into an object.
    Key(String),
    /// Into a list, counted from 0.
    Index(usize),
}

/// Path of a field, written as in "spec.containers[0].image" and "metadata.labels[example.com/role]".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The steps from the document's root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// True for the document itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `inside` with the path one step further, for this call only.
    pub(super) fn within<R>(&mut self, segment: Segment, inside: impl FnOnce(&mut Self) -> R) -> R {
        self.0.push(segment);
        let result = inside(self);
        self.0.pop();
        result
    }
}

impl FromIterator<Segment> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        Self(segments.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if key.contains(['.', '/', '[', ' ']) || key.is_empty() => write!(f, "[{key}]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}
