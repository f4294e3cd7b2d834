//! Everything wrong with a manifest, at once.

use std::fmt;

use super::path::FieldPath;

/// One thing wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestError {
    /// Which document of several, from 1; `None` when there is one.
    pub document: Option<usize>,
    /// The object it is in, as "pod/web", as far as it could be read.
    pub object: Option<String>,
    /// Line in the text, from 1, where it is known.
    pub line: Option<u64>,
    /// Field in the object.
    pub path: FieldPath,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = self.document.map(|number| format!("document {number}"));
        let line = self.line.map(|number| format!("line {number}"));
        let place: Vec<String> = [document, line, self.object.clone()].into_iter().flatten().collect();
        if !place.is_empty() {
            write!(f, "{}: ", place.join(", "))?;
        }
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

/// Everything wrong with a manifest; one a line when shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestErrors(Vec<ManifestError>);

impl ManifestErrors {
    /// `None` for no errors.
    pub(super) fn of(errors: Vec<ManifestError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// The errors, at least one.
    pub fn errors(&self) -> &[ManifestError] {
        &self.0
    }
}

impl From<ManifestError> for ManifestErrors {
    fn from(error: ManifestError) -> Self {
        Self(vec![error])
    }
}

impl IntoIterator for ManifestErrors {
    type Item = ManifestError;
    type IntoIter = std::vec::IntoIter<ManifestError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            let break_before = if position > 0 { "\n" } else { "" };
            write!(f, "{break_before}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}
