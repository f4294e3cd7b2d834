//! From objects to JSON and YAML.

use serde_json::{Map, Value, json};

use crate::v1::Object;

/// The object in Kubernetes' JSON: `apiVersion`, `kind`, `metadata`, `spec`, `status`. An object without a kind is `{}`.
pub fn to_json(object: &Object) -> Value {
    let Some(kind) = object.kind() else {
        return Value::Object(Map::new());
    };
    let mut entries = Map::new();
    entries.insert("apiVersion".to_owned(), kind.api_version().into());
    entries.insert("kind".to_owned(), kind.name().into());
    // Messages hold only text keys, integers and text: there is nothing that JSON cannot express.
    if let Value::Object(fields) = object.fields_to_json().expect("messages of the API are JSON") {
        entries.extend(fields);
    }
    Value::Object(entries)
}

/// `kind: List` of the objects, as `kubectl get -o json` writes it.
pub fn list_json<'a>(objects: impl IntoIterator<Item = &'a Object>, resource_version: &str) -> Value {
    let items: Vec<Value> = objects.into_iter().map(to_json).collect();
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": resource_version},
        "items": items,
    })
}

/// The object as one YAML document.
pub fn to_yaml(object: &Object) -> String {
    value_to_yaml(&to_json(object))
}

/// JSON as one YAML document, ending in a line break.
pub fn value_to_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("JSON is YAML")
}
