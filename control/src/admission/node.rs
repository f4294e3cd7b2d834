//! Nodes. An agent registers its node with a status; the control plane adds the pod range.

use causeway_proto::v1::{Node, NodeSpec};

use crate::cidr::Cidr;

use super::{
    container,
    field::{Path, Violations},
    names,
};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `podCIDR` is the first of `podCIDRs`.
pub fn default(node: &mut Node) {
    let spec = node.spec.get_or_insert_default();
    if spec.pod_cidrs.is_empty() && !spec.pod_cidr.is_empty() {
        spec.pod_cidrs = vec![spec.pod_cidr.clone()];
    } else if spec.pod_cidr.is_empty()
        && let [first, ..] = spec.pod_cidrs.as_slice()
    {
        spec.pod_cidr.clone_from(first);
    }
}

/// A changed node keeps its pod range when the change does not name one: agents register without knowing it.
pub fn prepare_update(node: &mut Node, old: &Node) {
    if let (Some(new), Some(old)) = (&mut node.spec, &old.spec)
        && new.pod_cidr.is_empty()
        && new.pod_cidrs.is_empty()
    {
        new.pod_cidr.clone_from(&old.pod_cidr);
        new.pod_cidrs.clone_from(&old.pod_cidrs);
    } else if node.spec.is_none() {
        node.spec.clone_from(&old.spec);
    }
    default(node);
}

/// Checks a new or changed node.
pub fn validate(node: &Node, v: &mut Violations) {
    let path = Path::new("spec");
    if let Some(spec) = &node.spec {
        validate_spec(spec, &path, v);
    }
    if let Some(status) = &node.status {
        let path = Path::new("status");
        for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
            for (name, amount) in amounts {
                container::quantity(amount, &path.child(field).key(name), v);
            }
        }
    }
}

fn validate_spec(spec: &NodeSpec, path: &Path, v: &mut Violations) {
    for (at, text) in spec.pod_cidrs.iter().enumerate() {
        if let Err(error) = text.parse::<Cidr>() {
            v.invalid(&path.child("podCIDRs").index(at), text, &error.to_string());
        }
    }
    if spec.pod_cidrs.first().is_some_and(|first| *first != spec.pod_cidr) {
        v.invalid(
            &path.child("podCIDRs"),
            &spec.pod_cidrs,
            "first value must match `podCIDR`",
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    for (at, taint) in spec.taints.iter().enumerate() {
        let path = path.child("taints").index(at);
        if taint.key.is_empty() {
            v.required(&path.child("key"), "");
        } else {
            v.invalid_each(&path.child("key"), &taint.key, names::qualified_name(&taint.key));
        }
        v.invalid_each(&path.child("value"), &taint.value, names::label_value(&taint.value));
        if !EFFECTS.contains(&taint.effect.as_str()) {
            v.not_supported(&path.child("effect"), &taint.effect, EFFECTS);
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            v.duplicate(&path, format!("{}:{}", taint.key, taint.effect));
        }
    }
}

/// Checks that the pod range, once given, stayed.
pub fn validate_update(new: &Node, old: &Node, v: &mut Violations) {
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else {
        return;
    };
    if !old.pod_cidrs.is_empty() && new.pod_cidrs != old.pod_cidrs {
        v.forbidden(
            &Path::new("spec").child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::Taint;

    use super::{super::field::texts, *};

    fn node(pod_cidr: &str) -> Node {
        Node {
            spec: Some(NodeSpec {
                pod_cidr: pod_cidr.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_range_is_given_once() {
        let mut old = node("");
        default(&mut old);
        let mut ranged = node("10.244.1.0/24");
        prepare_update(&mut ranged, &old);
        assert_eq!(ranged.spec.as_ref().unwrap().pod_cidrs, ["10.244.1.0/24"]);
        let mut v = Violations::default();
        validate_update(&ranged, &old, &mut v);
        validate(&ranged, &mut v);
        assert!(texts(v).is_empty());

        let mut again = node("");
        prepare_update(&mut again, &ranged);
        assert_eq!(
            again.spec.as_ref().unwrap().pod_cidr,
            "10.244.1.0/24",
            "registration keeps the range"
        );

        let mut moved = node("10.244.2.0/24");
        prepare_update(&mut moved, &ranged);
        let mut v = Violations::default();
        validate_update(&moved, &ranged, &mut v);
        assert!(texts(v)[0].starts_with("spec.podCIDRs: Forbidden"));
    }

    #[test]
    fn taints_are_checked() {
        let mut bad = node("10.244.0.1/24");
        bad.spec.as_mut().unwrap().taints = vec![
            Taint {
                effect: "Never".into(),
                ..Default::default()
            };
            2
        ];
        default(&mut bad);
        let mut v = Violations::default();
        validate(&bad, &mut v);
        let found = texts(v);
        assert!(
            found[0].starts_with("spec.podCIDRs[0]: Invalid value: \"10.244.0.1/24\""),
            "{found:?}"
        );
        assert_eq!(found[1], "spec.taints[0].key: Required value");
        assert!(found[2].starts_with("spec.taints[0].effect: Unsupported value: \"Never\""));
        assert_eq!(found.last().unwrap(), "spec.taints[1]: Duplicate value: \":Never\"");
    }
}
