//! Compares a document with the schema. Pure; finds every error, in the order of the document.

use serde_json::Value;

use super::{
    path::{FieldPath, Segment},
    schema::{self, Fields, Shape},
};
use crate::{quantity::Amount, time};

/// Most field names that are listed when none is close to the unknown one.
const LISTED_FIELDS: usize = 24;

/// A field and what is wrong with it.
pub(super) type Finding = (FieldPath, String);

/// Everything in the fields of a document that does not fit the message of that name.
pub(super) fn check(message: &str, document: &Value) -> Vec<Finding> {
    let mut check = Check {
        path: FieldPath::default(),
        findings: Vec::new(),
    };
    check.message(message, document);
    check.findings
}

struct Check {
    path: FieldPath,
    findings: Vec<Finding>,
}

impl Check {
    fn report(&mut self, problem: impl Into<String>) {
        self.findings.push((self.path.clone(), problem.into()));
    }

    fn expected(&mut self, expected: &str, found: &Value) {
        let hint = match (expected, found) {
            ("a string", Value::Number(_) | Value::Bool(_)) => "; put it in quotes",
            _ => "",
        };
        self.report(format!("expected {expected}, found {}{hint}", describe(found)));
    }

    fn within(&mut self, segment: Segment, inside: impl FnOnce(&mut Self)) {
        let mut path = std::mem::take(&mut self.path);
        path.within(segment, |path| {
            self.path = std::mem::take(path);
            inside(self);
            *path = std::mem::take(&mut self.path);
        });
        self.path = path;
    }

    fn message(&mut self, message: &str, value: &Value) {
        let Some(fields) = schema::fields(message) else {
            self.report(format!("{message} is not in the API"));
            return;
        };
        let Value::Object(given) = value else {
            self.expected("an object", value);
            return;
        };
        for (key, value) in given {
            self.within(Segment::Key(key.clone()), |check| match fields.get(key) {
                None => check.report(left_out(message, key).map_or_else(|| unknown_field(key, fields), str::to_owned)),
                // Kubernetes reads null as absence.
                Some(_) if value.is_null() => {}
                Some(shape) => check.value(shape, value),
            });
        }
    }

    fn value(&mut self, shape: &Shape, value: &Value) {
        match shape {
            Shape::Message(name) => self.message(name, value),
            Shape::List(element) => match value {
                Value::Array(elements) => {
                    for (index, value) in elements.iter().enumerate() {
                        self.within(Segment::Index(index), |check| check.value(element, value));
                    }
                }
                other => self.expected("a list", other),
            },
            Shape::Map(element) => match value {
                Value::Object(entries) => {
                    for (key, value) in entries {
                        self.within(Segment::Key(key.clone()), |check| check.value(element, value));
                    }
                }
                other => self.expected("an object", other),
            },
            Shape::Text => self.expect(value, "a string", Value::is_string),
            Shape::Boolean => self.expect(value, "true or false", Value::is_boolean),
            Shape::Int32 => self.expect(value, "a 32-bit integer", is_int32),
            Shape::Int64 => self.expect(value, "an integer", Value::is_i64),
            Shape::IntOrString => {
                self.expect(value, "a 32-bit integer or a string", |value| {
                    is_int32(value) || value.is_string()
                });
            }
            Shape::Quantity => {
                let text = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    other => return self.expected("a quantity", other),
                };
                if let Err(error) = Amount::parse(&text) {
                    self.report(error.to_string());
                }
            }
            Shape::Time => match value {
                Value::String(text) => {
                    if let Err(error) = time::from_rfc3339(text) {
                        self.report(error.to_string());
                    }
                }
                other => self.expected("an RFC 3339 time", other),
            },
        }
    }

    fn expect(&mut self, value: &Value, expected: &str, fits: impl FnOnce(&Value) -> bool) {
        if !fits(value) {
            self.expected(expected, value);
        }
    }
}

fn is_int32(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

/// A value in the words of an error.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.chars().count() > 60 => "a long string".to_owned(),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Why a field that Kubernetes has, and that people are likely to write, is not here.
fn left_out(message: &str, key: &str) -> Option<&'static str> {
    Some(match (message, key) {
        ("ServiceSpec", "loadBalancerIP") => {
            "deprecated in Kubernetes and not supported; addresses come from the control plane's --load-balancer-range"
        }
        ("ServiceSpec", "loadBalancerClass") => "not supported; there is one kind of load balancer",
        ("ServiceSpec", "externalName") => "not supported; services of type ExternalName are not",
        _ => return None,
    })
}

fn unknown_field(key: &str, fields: &Fields) -> String {
    if let Some(close) = closest(key, fields.keys().map(String::as_str)) {
        return format!("unknown field, did you mean \"{close}\"?");
    }
    let known: Vec<&str> = fields.keys().map(String::as_str).take(LISTED_FIELDS).collect();
    format!("unknown or unsupported field; supported here: {}", known.join(", "))
}

/// The candidate that a typo most likely meant: at most a third of its letters wrong, case aside.
pub(super) fn closest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
    candidates
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}
