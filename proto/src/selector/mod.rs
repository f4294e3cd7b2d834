//! Label and field selectors: parsing with positions, and matching. Pure.

mod field;
mod label;
mod token;

use thiserror::Error;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement, check_label_key, check_label_value};

/// Why a text is not a selector, and where.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("selector \"{text}\", column {column}: {problem}")]
pub struct SelectorError {
    /// The whole selector.
    pub text: String,
    /// Where in it, in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: String,
}

impl SelectorError {
    /// `offset` counts bytes from 0.
    fn at(text: &str, offset: usize, problem: impl Into<String>) -> Self {
        let column = text.get(..offset).map_or(0, |before| before.chars().count()) + 1;
        Self {
            text: text.to_owned(),
            column,
            problem: problem.into(),
        }
    }
}
