//! Objects as people write them: YAML and JSON manifests in Kubernetes' shape.
//!
//! Reading is strict: every field that is not in the API, every value of a wrong type and every key given twice is an
//! error with its path, and all errors of all documents come at once. The `.proto` files are the schema ([`schema`]), so
//! a new field is known here without further code.

mod check;
mod document;
mod error;
mod path;
mod schema;
#[cfg(test)]
mod tests;
mod write;
mod yaml;

pub use document::{Document, from_json, parse_yaml};
pub use error::{ManifestError, ManifestErrors};
pub use path::{FieldPath, Segment};
pub use write::{list_json, to_json, to_yaml, value_to_yaml};
