//! Events: what happened to which object.

use causeway_proto::{
    event::{EventType, MESSAGE_MAX_BYTES},
    v1::Event,
};

use super::field::{Path, Violations};

const REASON_MAX: usize = 128;

/// Fills in what a source may leave out.
pub fn default(event: &mut Event) {
    if event.r#type.is_empty() {
        event.r#type = EventType::Normal.name().into();
    }
    if event.count == 0 {
        event.count = 1;
    }
    let now = causeway_proto::time::now();
    event.first_timestamp.get_or_insert(now);
    event.last_timestamp.get_or_insert(now);
}

/// Checks a new or changed event.
pub fn validate(event: &Event, v: &mut Violations) {
    let about = Path::new("involvedObject");
    let namespace = event
        .metadata
        .as_ref()
        .map(|meta| meta.namespace.as_str())
        .unwrap_or_default();
    match &event.involved_object {
        None => v.required(&about, ""),
        // Events about cluster-scoped objects live in namespace default.
        Some(object) if object.namespace.is_empty() && namespace != "default" => {
            v.invalid(
                &about.child("namespace"),
                &object.namespace,
                "events about cluster-scoped objects belong to namespace default",
            );
        }
        Some(object) if !object.namespace.is_empty() && object.namespace != namespace => {
            v.invalid(
                &about.child("namespace"),
                &object.namespace,
                "does not match event.namespace",
            );
        }
        Some(_) => {}
    }
    if !EventType::NAMES.contains(&event.r#type.as_str()) {
        v.not_supported(&Path::new("type"), &event.r#type, EventType::NAMES);
    }
    if event.reason.len() > REASON_MAX {
        v.too_long(&Path::new("reason"), REASON_MAX);
    }
    if event.message.len() > MESSAGE_MAX_BYTES {
        v.too_long(&Path::new("message"), MESSAGE_MAX_BYTES);
    }
    v.at_least(&Path::new("count"), Some(event.count.into()), 1);
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ObjectMeta, ObjectReference};

    use super::{super::field::texts, *};

    fn check(namespace: &str, about: Option<&str>, kind: &str) -> Vec<String> {
        let mut event = Event {
            metadata: Some(ObjectMeta {
                namespace: namespace.into(),
                ..Default::default()
            }),
            involved_object: about.map(|ns| ObjectReference {
                namespace: ns.into(),
                ..Default::default()
            }),
            r#type: kind.into(),
            ..Default::default()
        };
        default(&mut event);
        assert_eq!(event.count, 1);
        let mut v = Violations::default();
        validate(&event, &mut v);
        texts(v)
    }

    #[test]
    fn events_live_beside_their_object() {
        assert!(check("a", Some("a"), "").is_empty());
        assert!(check("default", Some(""), "Warning").is_empty());
        assert_eq!(check("a", None, ""), ["involvedObject: Required value"]);
        assert!(check("a", Some("b"), "")[0].contains("does not match event.namespace"));
        assert!(check("a", Some("a"), "Error")[0].starts_with("type: Unsupported value: \"Error\""));
    }
}
