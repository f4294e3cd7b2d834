//! What a call can fail with, in words.

use std::{error::Error as _, fmt};

use thiserror::Error;
pub use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::kind::Kind;

/// Why a call failed.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// There was no answer.
    #[error("cannot reach the control plane at {target}: {problem}")]
    Unreachable {
        /// Where the control plane should be.
        target: String,
        /// The innermost cause, such as "connection refused".
        problem: String,
    },
    /// The control plane refused, or failed.
    #[error("{message}{}", Listed(violations))]
    Refused {
        /// The canonical code.
        code: Code,
        /// The control plane's words.
        message: String,
        /// Every field that is wrong.
        violations: Vec<Violation>,
    },
    /// The answer holds no object of the kind asked for.
    #[error("the control plane answered with something other than a {0}")]
    WrongKind(Kind),
    /// The request could not be written as JSON.
    #[error("cannot write the object as JSON: {0}")]
    Json(String),
}

/// One field that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Path of the field, such as "spec.containers[0].image".
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.description)
        } else {
            write!(f, "{}: {}", self.field, self.description)
        }
    }
}

/// Violations below a message, one a line.
struct Listed<'a>(&'a [Violation]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl ClientError {
    /// What a status from the target means. A status with a cause was made on this side: there was no answer.
    pub fn from_status(target: &str, status: &Status) -> Self {
        let no_answer = matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        );
        if no_answer && let Some(cause) = status.source() {
            return Self::Unreachable {
                target: target.to_owned(),
                problem: innermost(cause),
            };
        }
        let details = status.get_error_details();
        let mut violations: Vec<Violation> = Vec::new();
        if let Some(bad) = details.bad_request() {
            violations.extend(bad.field_violations.iter().map(|violation| Violation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            }));
        }
        if let Some(failed) = details.precondition_failure() {
            violations.extend(failed.violations.iter().map(|violation| Violation {
                field: violation.subject.clone(),
                description: violation.description.clone(),
            }));
        }
        let message = match status.message() {
            "" => format!("the control plane answered {:?}", status.code()),
            text => text.to_owned(),
        };
        Self::Refused {
            code: status.code(),
            message,
            violations,
        }
    }

    /// The canonical code; `Unavailable` when there was no answer.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Refused { code, .. } => *code,
            Self::WrongKind(_) | Self::Json(_) => Code::Internal,
        }
    }

    /// Every field that is wrong, when the control plane said so.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Refused { violations, .. } => violations,
            _ => &[],
        }
    }

    /// There is no such object.
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// A compare-and-swap lost, or a precondition does not hold any more: read again and retry.
    pub fn is_conflict(&self) -> bool {
        self.code() == Code::Aborted
    }

    /// There is such an object already.
    pub fn is_already_exists(&self) -> bool {
        self.code() == Code::AlreadyExists
    }

    /// The object itself was refused; the same request will be refused again.
    pub fn is_invalid(&self) -> bool {
        self.code() == Code::InvalidArgument
    }

    /// The control plane is away, or cannot serve now: retry later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::DeadlineExceeded)
    }

    /// The revision asked for is compacted: list again.
    pub fn is_expired(&self) -> bool {
        self.code() == Code::OutOfRange
    }
}

/// The text of the innermost cause: the one a person can act on.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    // The kernel's words without "(os error 111)".
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn every_violation_is_listed_with_its_path() {
        let violations = vec![
            FieldViolation::new("spec.containers[0].image", "is required"),
            FieldViolation::new("", "no kind"),
        ];
        let details = ErrorDetails::with_bad_request(violations);
        let status = Status::with_error_details(Code::InvalidArgument, "pod default/web is invalid", details);
        let error = ClientError::from_status("http://test", &status);
        assert!(error.is_invalid());
        assert_eq!(
            error.to_string(),
            "pod default/web is invalid\n  spec.containers[0].image: is required\n  no kind"
        );
    }

    #[test]
    fn codes_are_told_apart() {
        let of = |code| ClientError::from_status("http://test", &Status::new(code, "no"));
        assert!(of(Code::NotFound).is_not_found());
        assert!(of(Code::Aborted).is_conflict());
        assert!(of(Code::AlreadyExists).is_already_exists());
        assert!(of(Code::Unavailable).is_unavailable());
        assert!(of(Code::OutOfRange).is_expired());
        assert_eq!(of(Code::Internal).to_string(), "no");
    }
}
