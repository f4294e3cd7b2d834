//! Replication controllers.

use std::collections::BTreeMap;

use causeway_proto::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerStatus};

use super::{
    field::{Path, Violations},
    meta, pod,
};

/// Fills in what Kubernetes fills in: the selector and the labels come from the template.
pub fn default(controller: &mut ReplicationController) {
    let meta = controller.metadata.get_or_insert_default();
    let spec = controller.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    spec.min_ready_seconds.get_or_insert(0);
    let Some(template) = &mut spec.template else { return };
    if let Some(spec) = &mut template.spec {
        pod::default_spec(spec);
    }
    let labels = labels_of(template);
    if spec.selector.is_empty() {
        spec.selector.clone_from(&labels);
    }
    if meta.labels.is_empty() {
        meta.labels = labels;
    }
}

/// A new controller has seen nothing yet.
pub fn prepare_create(controller: &mut ReplicationController) {
    default(controller);
    controller.status = Some(ReplicationControllerStatus::default());
}

fn labels_of(template: &PodTemplateSpec) -> BTreeMap<String, String> {
    template
        .metadata
        .as_ref()
        .map(|meta| meta.labels.clone())
        .unwrap_or_default()
}

/// Checks a new or changed controller.
pub fn validate(controller: &ReplicationController, v: &mut Violations) {
    let path = Path::new("spec");
    let Some(spec) = &controller.spec else {
        return v.required(&path, "");
    };
    v.at_least(&path.child("replicas"), spec.replicas.map(Into::into), 0);
    v.at_least(
        &path.child("minReadySeconds"),
        spec.min_ready_seconds.map(Into::into),
        0,
    );
    meta::labels(&spec.selector, &path.child("selector"), v);
    if spec.selector.is_empty() {
        v.required(&path.child("selector"), "");
    }
    let path = path.child("template");
    let Some(template) = &spec.template else {
        return v.required(&path, "");
    };
    let labels = labels_of(template);
    let labels_path = path.child("metadata").child("labels");
    meta::labels(&labels, &labels_path, v);
    if !spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        v.invalid(&labels_path, &labels, "`selector` does not match template `labels`");
    }
    let path = path.child("spec");
    let Some(spec) = &template.spec else {
        return v.required(&path, "");
    };
    pod::validate_spec(spec, &path, v);
    if spec.restart_policy != "Always" && !spec.restart_policy.is_empty() {
        v.not_supported(&path.child("restartPolicy"), &spec.restart_policy, &["Always"]);
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{Container, ObjectMeta, PodSpec, ReplicationControllerSpec};

    use super::{super::field::texts, *};

    fn controller(labels: &[(&str, &str)], selector: &[(&str, &str)]) -> ReplicationController {
        let map = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let container = Container {
            name: "web".into(),
            image: "nginx".into(),
            ..Default::default()
        };
        ReplicationController {
            spec: Some(ReplicationControllerSpec {
                selector: map(selector),
                template: Some(PodTemplateSpec {
                    metadata: Some(ObjectMeta {
                        labels: map(labels),
                        ..Default::default()
                    }),
                    spec: Some(PodSpec {
                        containers: vec![container],
                        ..Default::default()
                    }),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn check(mut controller: ReplicationController) -> Vec<String> {
        default(&mut controller);
        let mut v = Violations::default();
        validate(&controller, &mut v);
        texts(v)
    }

    #[test]
    fn selector_labels_and_replicas_come_from_the_template() {
        let mut rc = controller(&[("app", "web")], &[]);
        prepare_create(&mut rc);
        let spec = rc.spec.as_ref().unwrap();
        assert_eq!(spec.replicas, Some(1));
        assert_eq!(spec.selector["app"], "web");
        assert_eq!(rc.metadata.as_ref().unwrap().labels["app"], "web");
        assert_eq!(
            spec.template.as_ref().unwrap().spec.as_ref().unwrap().restart_policy,
            "Always"
        );
        assert!(check(rc).is_empty());
    }

    #[test]
    fn the_template_must_match_the_selector() {
        assert_eq!(
            check(controller(&[("app", "api")], &[("app", "web")])),
            [
                "spec.template.metadata.labels: Invalid value: {\"app\": \"api\"}: `selector` does not match template `labels`"
            ]
        );
        assert_eq!(check(controller(&[], &[])), ["spec.selector: Required value"]);
    }

    #[test]
    fn templates_are_checked_like_pods() {
        let mut rc = controller(&[("app", "web")], &[]);
        let spec = rc.spec.as_mut().unwrap();
        spec.replicas = Some(-1);
        let pod = spec.template.as_mut().unwrap().spec.as_mut().unwrap();
        pod.restart_policy = "Never".into();
        pod.containers[0].name = String::new();
        assert_eq!(
            check(rc),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.spec.containers[0].name: Required value",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ]
        );
        let mut rc = controller(&[("app", "web")], &[]);
        rc.spec.as_mut().unwrap().template = None;
        rc.spec.as_mut().unwrap().selector.insert("app".into(), "web".into());
        assert_eq!(check(rc), ["spec.template: Required value"]);
    }
}
