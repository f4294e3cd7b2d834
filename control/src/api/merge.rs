//! Three-way merge of JSON objects: what the user wrote before, what the user writes now, what is stored. Pure.
//!
//! As in `kubectl apply`: what the user writes wins; what the user wrote before and writes no more goes; what others added
//! stays. Lists are merged element by element where Kubernetes' API gives a merge key, else replaced.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Merges; `original` is `Null` when nothing is known of an earlier manifest.
pub fn three_way(original: &Value, modified: &Value, current: &Value) -> Value {
    merge("", original, modified, current)
}

fn merge(field: &str, original: &Value, modified: &Value, current: &Value) -> Value {
    match (modified, current) {
        (Value::Object(modified), Value::Object(current)) => merge_objects(original, modified, current),
        (Value::Array(modified), Value::Array(current)) => {
            let none = Vec::new();
            let original = original.as_array().unwrap_or(&none);
            merge_lists(field, original, modified, current).unwrap_or_else(|| Value::Array(modified.clone()))
        }
        _ => modified.clone(),
    }
}

fn merge_objects(original: &Value, modified: &Map<String, Value>, current: &Map<String, Value>) -> Value {
    let mut merged = current.clone();
    if let Value::Object(original) = original {
        merged.retain(|key, _| modified.contains_key(key) || !original.contains_key(key));
    }
    for (key, value) in modified {
        // As in a manifest, `null` takes the field away.
        if value.is_null() {
            merged.remove(key);
            continue;
        }
        let value = match current.get(key) {
            Some(current) => merge(key, original.get(key).unwrap_or(&Value::Null), value, current),
            None => value.clone(),
        };
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

/// `None` when the list is to be replaced as a whole.
fn merge_lists(field: &str, original: &[Value], modified: &[Value], current: &[Value]) -> Option<Value> {
    let key = |element: &Value| merge_key(field, element);
    let keys: Vec<String> = modified.iter().map(key).collect::<Option<_>>()?;
    let given: BTreeSet<&String> = keys.iter().collect();
    // A list that names an element twice is left as it is, for validation to tell.
    if given.len() != keys.len() {
        return None;
    }
    let find = |list: &[Value], wanted: &String| {
        list.iter()
            .find(|element| key(element).as_ref() == Some(wanted))
            .cloned()
    };
    let mut merged: Vec<Value> = Vec::new();
    for (element, name) in modified.iter().zip(&keys) {
        merged.push(match find(current, name) {
            Some(current) => merge("", &find(original, name).unwrap_or(Value::Null), element, &current),
            None => element.clone(),
        });
    }
    for element in current {
        let name = key(element)?;
        if !given.contains(&name) && find(original, &name).is_none() {
            merged.push(element.clone());
        }
    }
    Some(Value::Array(merged))
}

/// What tells an element of a list from the others (`patchMergeKey` in Kubernetes' API types). Ports are told by number *and*
/// protocol: by number alone, which Kubernetes takes, DNS's two port 53 would be one.
fn merge_key(field: &str, element: &Value) -> Option<String> {
    let text = |name: &str| element.get(name).map(ToString::to_string);
    match field {
        "containers" | "initContainers" | "env" => text("name"),
        "ports" => {
            let number = text("containerPort").or_else(|| text("port"))?;
            Some(format!(
                "{number}/{}",
                element.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
            ))
        }
        "ownerReferences" => text("uid"),
        "conditions" => text("type"),
        "finalizers" => element.as_str().map(ToOwned::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_added_stays_and_what_the_user_dropped_goes() {
        let original = json!({"metadata": {"labels": {"app": "web", "tier": "a"}}, "spec": {"replicas": 3}});
        let modified = json!({"metadata": {"labels": {"app": "web2"}}, "spec": {}});
        let current = json!({"metadata": {"labels": {"app": "web", "tier": "a", "added": "x"}, "uid": "1"}, "spec": {"replicas": 5}});
        assert_eq!(
            three_way(&original, &modified, &current),
            json!({"metadata": {"labels": {"app": "web2", "added": "x"}, "uid": "1"}, "spec": {}})
        );
    }

    #[test]
    fn without_an_earlier_manifest_nothing_goes() {
        let current = json!({"a": 1, "b": 2});
        assert_eq!(
            three_way(&Value::Null, &json!({"a": 3}), &current),
            json!({"a": 3, "b": 2})
        );
        assert_eq!(three_way(&Value::Null, &json!({"a": null}), &current), json!({"b": 2}));
    }

    #[test]
    fn containers_are_merged_by_name() {
        let original = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        let modified = json!({"containers": [{"name": "c", "image": "1"}, {"name": "a", "image": "2"}]});
        let current = json!({"containers": [
            {"name": "a", "image": "1", "imagePullPolicy": "Always"},
            {"name": "b", "image": "1"},
            {"name": "sidecar", "image": "9"}
        ]});
        assert_eq!(
            three_way(&original, &modified, &current),
            json!({"containers": [
                {"name": "c", "image": "1"},
                {"name": "a", "image": "2", "imagePullPolicy": "Always"},
                {"name": "sidecar", "image": "9"}
            ]})
        );
    }

    #[test]
    fn ports_are_told_by_number_and_protocol() {
        let dns = json!({"ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 53, "name": "dns-tcp"}]});
        let current = json!({"ports": [
            {"port": 53, "protocol": "UDP", "name": "dns", "targetPort": 53},
            {"port": 53, "protocol": "TCP", "name": "dns-tcp", "targetPort": 53}
        ]});
        assert_eq!(three_way(&dns, &dns, &current), current);
    }

    #[test]
    fn other_lists_are_replaced() {
        let modified = json!({"args": ["b"], "containers": [{"name": "a"}, {"name": "a"}]});
        let current = json!({"args": ["a", "c"], "containers": [{"name": "a", "image": "x"}]});
        assert_eq!(three_way(&Value::Null, &modified, &current), modified);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..5_i32).prop_map(Value::from),
            "[ab]".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]|containers|name", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn applying_again_changes_nothing(original in value(), modified in value(), current in value()) {
            let once = three_way(&original, &modified, &current);
            prop_assert_eq!(three_way(&modified, &modified, &once), once);
        }
    }
}
