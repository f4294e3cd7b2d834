//! Field paths and violations, worded as Kubernetes words them (apimachinery `validation/field`).

use std::fmt;

use tonic_types::FieldViolation;

/// Where a field is: `spec.containers[0].ports[1].name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A top-level field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that is wrong with an object, in the order found.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// The violations found; empty for a valid object.
    pub fn into_vec(self) -> Vec<FieldViolation> {
        self.0
    }

    /// A mandatory field is absent. `detail` may be empty.
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.add(
            path,
            if detail.is_empty() {
                "Required value".to_owned()
            } else {
                format!("Required value: {detail}")
            },
        );
    }

    /// The value breaks the rule in `detail`.
    pub fn invalid(&mut self, path: &Path, value: impl fmt::Debug, detail: &str) {
        self.add(path, format!("Invalid value: {value:?}: {detail}"));
    }

    /// The value is not one of a closed set.
    pub fn not_supported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        self.add(
            path,
            format!(
                "Unsupported value: {value:?}: supported values: {}",
                supported.join(", ")
            ),
        );
    }

    /// The value occurs twice where it must be unique.
    pub fn duplicate(&mut self, path: &Path, value: impl fmt::Debug) {
        self.add(path, format!("Duplicate value: {value:?}"));
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(&mut self, path: &Path, detail: &str) {
        self.add(path, format!("Forbidden: {detail}"));
    }

    /// The text or list is longer than allowed.
    pub fn too_long(&mut self, path: &Path, max_bytes: usize) {
        self.add(path, format!("Too long: may not be more than {max_bytes} bytes"));
    }

    /// The list has more elements than allowed.
    pub fn too_many(&mut self, path: &Path, len: usize, max: usize) {
        self.add(path, format!("Too many: {len}: must have at most {max} items"));
    }

    /// `invalid` for each broken rule.
    pub fn invalid_each(&mut self, path: &Path, value: impl fmt::Debug, details: Vec<String>) {
        for detail in details {
            self.invalid(path, &value, &detail);
        }
    }

    /// The value of a field that never changes after creation was changed.
    pub fn immutable<T: PartialEq + fmt::Debug>(&mut self, path: &Path, new: &T, old: &T) {
        if new != old {
            self.invalid(path, new, "field is immutable");
        }
    }

    /// A number below its minimum.
    pub fn at_least(&mut self, path: &Path, value: Option<i64>, min: i64) {
        if let Some(value) = value.filter(|v| *v < min) {
            self.invalid(path, value, &format!("must be greater than or equal to {min}"));
        }
    }

    fn add(&mut self, path: &Path, description: String) {
        self.0.push(FieldViolation::new(path.to_string(), description));
    }
}

#[cfg(test)]
pub(crate) fn texts(violations: Violations) -> Vec<String> {
    violations
        .into_vec()
        .into_iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_kubernetes() {
        let port = Path::new("spec").child("ports").index(1).child("port");
        let mut v = Violations::default();
        v.required(&port, "");
        v.required(&port, "must be given");
        v.invalid(&port, 0, "must be between 1 and 65535, inclusive");
        v.not_supported(&port, "SCTP", &["TCP", "UDP"]);
        v.duplicate(&port, "http");
        v.forbidden(&port, "no");
        assert_eq!(
            texts(v),
            [
                "spec.ports[1].port: Required value",
                "spec.ports[1].port: Required value: must be given",
                "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].port: Unsupported value: \"SCTP\": supported values: \"TCP\", \"UDP\"",
                "spec.ports[1].port: Duplicate value: \"http\"",
                "spec.ports[1].port: Forbidden: no",
            ]
        );
    }
}
