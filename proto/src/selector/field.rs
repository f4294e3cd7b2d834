//! Field selectors: "metadata.name=x,spec.nodeName!=y".

use std::fmt;

use super::{
    SelectorError,
    token::{Token, Tokens},
};
use crate::{
    kind::Kind,
    v1::{Object, object},
};

/// A conjunction of requirements on fields; the empty one selects everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// What one field must (or must not) be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRequirement {
    /// Path of the field, one of those [`FieldSelector::supported`] names.
    pub path: String,
    /// The value.
    pub value: String,
    /// True for `!=`.
    pub negated: bool,
}

impl FieldSelector {
    /// The fields by which objects of a kind can be selected.
    pub fn supported(kind: Kind) -> Vec<&'static str> {
        let mut fields = vec!["metadata.name"];
        if kind.namespaced() {
            fields.push("metadata.namespace");
        }
        fields.extend_from_slice(match kind {
            Kind::Pod => &[
                "spec.nodeName",
                "spec.schedulerName",
                "spec.restartPolicy",
                "status.phase",
                "status.podIP",
            ],
            Kind::Node => &["spec.unschedulable"],
            Kind::Namespace => &["status.phase"],
            Kind::Event => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "reason",
                "type",
            ],
            Kind::Lease | Kind::ReplicationController | Kind::Service | Kind::Endpoints => &[],
        });
        fields
    }

    /// Reads the text form for objects of a kind; empty text selects everything.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, SelectorError> {
        Ok(Self {
            requirements: Tokens::new(text).separated(|tokens| requirement(kind, text, tokens))?,
        })
    }

    /// Selects the field's value exactly.
    pub fn equals(path: &str, value: &str) -> Self {
        Self {
            requirements: vec![FieldRequirement {
                path: path.to_owned(),
                value: value.to_owned(),
                negated: false,
            }],
        }
    }

    /// The requirements, all of which must hold.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The one value a field must have, when the selector says so.
    pub fn required_value(&self, path: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|required| required.path == path && !required.negated)
            .map(|required| required.value.as_str())
    }

    /// True when the object meets every requirement. A field that is not set is the empty value.
    pub fn matches(&self, object: &Object) -> bool {
        self.requirements
            .iter()
            .all(|required| (field(object, &required.path) == required.value) != required.negated)
    }
}

fn requirement(kind: Kind, text: &str, tokens: &mut Tokens<'_>) -> Result<FieldRequirement, SelectorError> {
    let path = match tokens.next() {
        (at, Token::Word(path)) => {
            let supported = FieldSelector::supported(kind);
            if !supported.contains(&path) {
                let problem = format!(
                    "{} cannot be selected by field \"{path}\"; supported: {}",
                    kind.plural(),
                    supported.join(", ")
                );
                return Err(SelectorError::at(text, at, problem));
            }
            path.to_owned()
        }
        (at, other) => {
            return Err(SelectorError::at(
                text,
                at,
                format!("expected a field path, found {}", other.describe()),
            ));
        }
    };
    let negated = match tokens.next() {
        (_, Token::Equals) => false,
        (_, Token::NotEquals) => true,
        (at, other) => {
            return Err(SelectorError::at(
                text,
                at,
                format!("expected =, == or != after \"{path}\", found {}", other.describe()),
            ));
        }
    };
    let value = match tokens.peek() {
        (_, Token::Word(value)) => {
            tokens.next();
            value.to_owned()
        }
        _ => String::new(),
    };
    Ok(FieldRequirement { path, value, negated })
}

/// The field's value, empty when it is not set.
fn field<'a>(object: &'a Object, path: &str) -> &'a str {
    let meta = object.meta();
    match (path, &object.kind) {
        ("metadata.name", _) => meta.map_or("", |meta| &meta.name),
        ("metadata.namespace", _) => meta.map_or("", |meta| &meta.namespace),
        (path, Some(object::Kind::Pod(pod))) => match path {
            "spec.nodeName" => pod.spec.as_ref().map_or("", |spec| &spec.node_name),
            "spec.schedulerName" => pod.spec.as_ref().map_or("", |spec| &spec.scheduler_name),
            "spec.restartPolicy" => pod.spec.as_ref().map_or("", |spec| &spec.restart_policy),
            "status.phase" => pod.status.as_ref().map_or("", |status| &status.phase),
            "status.podIP" => pod.status.as_ref().map_or("", |status| &status.pod_ip),
            _ => "",
        },
        ("status.phase", Some(object::Kind::Namespace(namespace))) => {
            namespace.status.as_ref().map_or("", |status| &status.phase)
        }
        ("spec.unschedulable", Some(object::Kind::Node(node))) => {
            if node.spec.as_ref().is_some_and(|spec| spec.unschedulable) {
                "true"
            } else {
                "false"
            }
        }
        (path, Some(object::Kind::Event(event))) => {
            let involved = event.involved_object.as_ref();
            match path {
                "involvedObject.kind" => involved.map_or("", |object| &object.kind),
                "involvedObject.namespace" => involved.map_or("", |object| &object.namespace),
                "involvedObject.name" => involved.map_or("", |object| &object.name),
                "involvedObject.uid" => involved.map_or("", |object| &object.uid),
                "reason" => &event.reason,
                "type" => &event.r#type,
                _ => "",
            }
        }
        _ => "",
    }
}

impl From<FieldSelector> for String {
    fn from(selector: FieldSelector) -> Self {
        selector.to_string()
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldRequirement { path, value, negated }) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if *negated { "!=" } else { "=" };
            write!(f, "{comma}{path}{operator}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Resource, v1};

    fn pod() -> Object {
        v1::Pod {
            metadata: Some(v1::ObjectMeta {
                name: "web".into(),
                namespace: "default".into(),
                ..Default::default()
            }),
            spec: Some(v1::PodSpec {
                node_name: "node-1".into(),
                ..Default::default()
            }),
            status: Some(v1::PodStatus {
                phase: "Running".into(),
                ..Default::default()
            }),
        }
        .into_object()
    }

    #[test]
    fn every_supported_field_selects() {
        let cases = [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==db", false),
            ("metadata.namespace=default,spec.nodeName=node-1", true),
            ("spec.nodeName!=node-1", false),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("status.phase != Pending", true),
        ];
        for (text, expected) in cases {
            let selector = FieldSelector::parse(Kind::Pod, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(selector.matches(&pod()), expected, "{text}");
            assert_eq!(FieldSelector::parse(Kind::Pod, &selector.to_string()), Ok(selector));
        }
    }

    #[test]
    fn events_are_selected_by_what_they_are_about() {
        let involved_object = Some(v1::ObjectReference {
            kind: "Pod".into(),
            name: "web".into(),
            ..Default::default()
        });
        let event = v1::Event {
            involved_object,
            r#type: "Warning".into(),
            ..Default::default()
        }
        .into_object();
        let matches = |text| FieldSelector::parse(Kind::Event, text).expect(text).matches(&event);
        assert!(matches("involvedObject.kind=Pod,involvedObject.name=web,type=Warning"));
        assert!(!matches("involvedObject.name!=web"));
    }

    #[test]
    fn every_field_named_as_supported_is_really_looked_at() {
        for &kind in Kind::ALL {
            for path in FieldSelector::supported(kind) {
                let text = format!("{path}!=no-such-value");
                assert!(
                    FieldSelector::parse(kind, &text)
                        .expect(&text)
                        .matches(&Object::empty(kind))
                );
            }
        }
    }

    #[test]
    fn an_unsupported_field_is_named_with_the_supported_ones() {
        let error = FieldSelector::parse(Kind::Service, "metadata.name=a,spec.clusterIP=b").expect_err("unsupported");
        assert_eq!(error.column, 17);
        assert_eq!(
            error.problem,
            "services cannot be selected by field \"spec.clusterIP\"; supported: metadata.name, metadata.namespace"
        );
        let error = FieldSelector::parse(Kind::Pod, "metadata.name").expect_err("no operator");
        assert_eq!(
            error.problem,
            "expected =, == or != after \"metadata.name\", found the end"
        );
    }
}
