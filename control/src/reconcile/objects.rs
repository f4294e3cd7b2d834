//! Small readings of objects that several reconcilers share.

use std::sync::Arc;

use causeway_proto::{
    Resource,
    v1::{Condition, Object, ObjectMeta, ObjectReference, OwnerReference},
};

/// The objects of a snapshot, as the kind they are.
pub fn typed<T: Resource>(objects: &[Arc<Object>]) -> impl Iterator<Item = &T> {
    objects.iter().filter_map(|object| T::from_object_ref(object))
}

/// How events and endpoints name an object.
pub fn reference<T: Resource>(object: &T) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        kind: T::KIND.name().to_owned(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        api_version: T::KIND.api_version().to_owned(),
        ..ObjectReference::default()
    }
}

/// Names an object as the managing controller of another.
pub fn controller_reference<T: Resource>(owner: &T) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: T::KIND.api_version().to_owned(),
        kind: T::KIND.name().to_owned(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether equality requirements hold. An empty selector selects nothing: with controllers and services it means "none".
pub fn selects(selector: &std::collections::BTreeMap<String, String>, meta: &ObjectMeta) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| meta.labels.get(key) == Some(value))
}

/// The condition of a type.
pub fn condition<'c>(conditions: &'c [Condition], kind: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.r#type == kind)
}

/// The status of the condition of a type; empty if there is none.
pub fn condition_status<'c>(conditions: &'c [Condition], kind: &str) -> &'c str {
    condition(conditions, kind).map_or("", |condition| condition.status.as_str())
}

/// Sets a condition; its transition time moves only with its status. False if it was so already.
pub fn set_condition(conditions: &mut Vec<Condition>, mut wanted: Condition) -> bool {
    match conditions
        .iter_mut()
        .find(|condition| condition.r#type == wanted.r#type)
    {
        Some(present) => {
            let same = present.status == wanted.status;
            if same && present.reason == wanted.reason && present.message == wanted.message {
                return false;
            }
            if same {
                wanted.last_transition_time = present.last_transition_time;
            }
            wanted.last_heartbeat_time = present.last_heartbeat_time;
            *present = wanted;
        }
        None => conditions.push(wanted),
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ready(status: &str, second: i64) -> Condition {
        Condition {
            r#type: "Ready".into(),
            status: status.into(),
            last_transition_time: Some(prost_types::Timestamp {
                seconds: second,
                nanos: 0,
            }),
            ..Condition::default()
        }
    }

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let mut conditions = vec![ready("True", 1)];
        assert!(!set_condition(&mut conditions, ready("True", 2)));
        let because = Condition {
            reason: "Because".into(),
            ..ready("True", 3)
        };
        assert!(set_condition(&mut conditions, because));
        assert_eq!(conditions[0].last_transition_time, ready("", 1).last_transition_time);
        assert!(set_condition(&mut conditions, ready("False", 4)));
        assert_eq!(conditions, [ready("False", 4)]);
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        assert!(!selects(&BTreeMap::new(), &ObjectMeta::default()));
    }
}
