//! From text or JSON to objects.

use serde_json::Value;

use super::{
    check::{self, closest, describe},
    error::{ManifestError, ManifestErrors},
    path::{FieldPath, Segment},
    yaml::{self, Node},
};
use crate::{
    kind::{self, Kind},
    v1::Object,
};

/// An object of a manifest.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    /// The object.
    pub object: Object,
    /// The same as the user wrote it, for `apply`: there, an absent field and a zero one are different things.
    pub raw: Value,
    /// Line in the text where it begins, from 1.
    pub line: u64,
}

/// Reads every object of YAML or JSON text: several documents, and the items of lists (`kind: List`).
pub fn parse_yaml(text: &str) -> Result<Vec<Document>, ManifestErrors> {
    let nodes: Vec<Node> = yaml::parse(text)?.into_iter().filter(|node| !node.is_null()).collect();
    let several = nodes.len() > 1;
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for (position, node) in nodes.iter().enumerate() {
        let place = Place {
            document: several.then_some(position + 1),
            prefix: Vec::new(),
            root: Some(node),
        };
        read(node.to_value(), Some(node), &place, &mut documents, &mut errors);
    }
    match ManifestErrors::of(errors) {
        Some(errors) => Err(errors),
        None => Ok(documents),
    }
}

/// Reads one object.
pub fn from_json(value: Value) -> Result<Object, ManifestErrors> {
    let place = Place {
        document: None,
        prefix: Vec::new(),
        root: None,
    };
    read_object(value, &place).map(|(object, _)| object).map_err(|errors| {
        let problem = || ManifestError {
            document: None,
            object: None,
            line: None,
            path: FieldPath::default(),
            problem: "not an object of the API".to_owned(),
        };
        ManifestErrors::of(errors).unwrap_or_else(|| problem().into())
    })
}

/// Where a value stands in the text, for errors.
struct Place<'a> {
    document: Option<usize>,
    /// Path from the document to the object ("items[3]").
    prefix: Vec<Segment>,
    root: Option<&'a Node>,
}

impl Place<'_> {
    fn error(&self, object: Option<String>, path: &FieldPath, problem: impl Into<String>) -> ManifestError {
        let full: FieldPath = self.prefix.iter().chain(path.segments()).cloned().collect();
        ManifestError {
            document: self.document,
            object,
            line: self.root.map(|root| root.line_of(full.segments())),
            path: full,
            problem: problem.into(),
        }
    }
}

fn read(
    value: Value,
    node: Option<&Node>,
    place: &Place<'_>,
    documents: &mut Vec<Document>,
    errors: &mut Vec<ManifestError>,
) {
    if is_list(&value) {
        let items = value.get("items").cloned().unwrap_or_default();
        let Value::Array(items) = items else {
            let path = [Segment::Key("items".into())].into_iter().collect();
            errors.push(place.error(None, &path, format!("expected a list, found {}", describe(&items))));
            return;
        };
        for (index, item) in items.into_iter().enumerate() {
            let mut prefix = place.prefix.clone();
            prefix.extend([Segment::Key("items".into()), Segment::Index(index)]);
            let inner = Place {
                document: place.document,
                prefix,
                root: place.root,
            };
            read(
                item,
                node.and_then(|node| node.items("items").get(index)),
                &inner,
                documents,
                errors,
            );
        }
        return;
    }
    match read_object(value, place) {
        Ok((object, raw)) => {
            documents.push(Document {
                object,
                raw,
                line: node.map_or(0, |node| node.line_of(&[])),
            });
        }
        Err(found) => errors.extend(found),
    }
}

/// `kind: List`, and the typed lists that `get -o yaml` of other tools writes (`kind: PodList`).
fn is_list(value: &Value) -> bool {
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
    text("kind").strip_suffix("List").is_some_and(|item| {
        item.is_empty() && text("apiVersion") == "v1" || Kind::from_manifest(text("apiVersion"), item).is_some()
    })
}

/// The object and the value it was read from.
fn read_object(value: Value, place: &Place<'_>) -> Result<(Object, Value), Vec<ManifestError>> {
    let root = FieldPath::default();
    let Value::Object(entries) = &value else {
        return Err(vec![place.error(
            None,
            &root,
            format!("expected an object, found {}", describe(&value)),
        )]);
    };
    let kind = read_kind(&value, place)?;
    let name = value
        .pointer("/metadata/name")
        .or_else(|| value.pointer("/metadata/generateName"));
    let title = name
        .and_then(Value::as_str)
        .map_or_else(|| kind.singular(), |name| format!("{}/{name}", kind.singular()));

    let mut fields = entries.clone();
    fields.remove("apiVersion");
    fields.remove("kind");
    let fields = Value::Object(fields);
    let findings = check::check(kind.name(), &fields);
    if !findings.is_empty() {
        let error = |(path, problem): (FieldPath, String)| place.error(Some(title.clone()), &path, problem);
        return Err(findings.into_iter().map(error).collect());
    }
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(fields, &mut track);
    match kind::deserialize_fields(kind, tracked) {
        Ok(object) => Ok((object, value)),
        // The check knows all that can fail here; should it not, the error still has its path.
        Err(error) => Err(vec![place.error(
            Some(title),
            &root,
            format!("{}: {error}", track.path()),
        )]),
    }
}

fn read_kind(value: &Value, place: &Place<'_>) -> Result<Kind, Vec<ManifestError>> {
    let mut errors = Vec::new();
    let mut text = |key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        other => {
            let path = [Segment::Key(key.to_owned())].into_iter().collect();
            let problem = match other {
                None | Some(Value::Null) => "is required".to_owned(),
                Some(other) => format!("expected a string, found {}", describe(other)),
            };
            errors.push(place.error(None, &path, problem));
            String::new()
        }
    };
    let (api_version, name) = (text("apiVersion"), text("kind"));
    if !errors.is_empty() {
        return Err(errors);
    }
    Kind::from_manifest(&api_version, &name).ok_or_else(|| {
        let known = Kind::ALL.iter().copied().find(|kind| kind.name() == name);
        let (key, problem) = match known {
            Some(kind) => (
                "apiVersion",
                format!(
                    "{name} is of apiVersion \"{}\", not \"{api_version}\"",
                    kind.api_version()
                ),
            ),
            None => ("kind", unknown_kind(&api_version, &name)),
        };
        vec![place.error(None, &[Segment::Key(key.to_owned())].into_iter().collect(), problem)]
    })
}

fn unknown_kind(api_version: &str, name: &str) -> String {
    let names = || Kind::ALL.iter().map(|kind| kind.name());
    let unknown = format!("unknown kind \"{name}\" of apiVersion \"{api_version}\"");
    match closest(name, names()) {
        Some(close) => format!("{unknown}, did you mean \"{close}\"?"),
        None => format!("{unknown}; known kinds: {}", names().collect::<Vec<_>>().join(", ")),
    }
}
