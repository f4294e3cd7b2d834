//! Reading and writing manifests.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    Kind, Resource,
    v1::{self, Object, Pod},
};

/// A replication controller and its service, as the Kubernetes documentation writes them.
const GUESTBOOK: &str = r#"
# The front end.
apiVersion: v1
kind: ReplicationController
metadata:
  name: frontend
  labels: {app: guestbook, "example.com/tier": frontend}
spec:
  replicas: 3
  selector:
    app: guestbook
  template:
    metadata:
      creationTimestamp: null
      labels:
        app: guestbook
    spec:
      containers:
      - name: php-redis
        image: gcr.io/google_samples/gb-frontend:v3
        args: ["--port", "80"]
        env:
        - {name: GET_HOSTS_FROM, value: dns}
        - name: POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        resources:
          requests:
            cpu: 100m
            memory: 100Mi
          limits: {cpu: 1, memory: 1.5Gi}
        ports:
        - containerPort: 80
          name: http
        readinessProbe:
          httpGet:
            path: /healthz
            port: http
          periodSeconds: 1
        livenessProbe:
          tcpSocket: {port: 80}
          initialDelaySeconds: 0
---
---
apiVersion: v1
kind: Service
metadata:
  name: frontend
spec:
  ports:
  - port: 80
    targetPort: http
  - port: 81
    targetPort: 8081
    name: other
    protocol: UDP
  selector:
    app: guestbook
status: {}
"#;

fn errors(text: &str) -> Vec<String> {
    let errors = parse_yaml(text).expect_err("not a valid manifest");
    errors.errors().iter().map(ToString::to_string).collect()
}

#[test]
fn real_manifests_are_read_and_written_again_without_loss() {
    let documents = parse_yaml(GUESTBOOK).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(
        documents.iter().map(|document| document.line).collect::<Vec<_>>(),
        [3, 46]
    );
    for document in &documents {
        let json = to_json(&document.object);
        let again = from_json(json.clone()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(again, document.object);
        let from_yaml = parse_yaml(&to_yaml(&document.object)).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(from_yaml[0].object, document.object);
    }
    let controller = v1::ReplicationController::from_object_ref(&documents[0].object).expect("a controller");
    let spec = controller.spec.as_ref().expect("a spec");
    assert_eq!(spec.replicas, Some(3));
    let container = &spec
        .template
        .as_ref()
        .expect("a template")
        .spec
        .as_ref()
        .expect("a spec")
        .containers[0];
    let probe = container.liveness_probe.as_ref().expect("a probe");
    assert_eq!(probe.initial_delay_seconds, Some(0), "zero is not absence");
    assert_eq!(
        probe.tcp_socket.as_ref().and_then(|tcp| tcp.port.clone()),
        Some(80.into())
    );
    assert_eq!(
        container.resources.as_ref().expect("resources").limits["cpu"].value,
        "1"
    );
    // What the user wrote stays beside the object: nothing defaulted, nothing lost.
    assert_eq!(
        documents[1].raw["spec"]["ports"][0],
        json!({"port": 80, "targetPort": "http"})
    );
    assert_eq!(documents[1].raw["status"], json!({}));
}

#[test]
fn json_has_the_shape_of_kubernetes() {
    let documents = parse_yaml(GUESTBOOK).expect("valid");
    let json = to_json(&documents[1].object);
    let keys: Vec<&str> = json
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["apiVersion", "kind", "metadata", "spec", "status"]);
    assert_eq!(
        json["spec"]["ports"][1],
        json!({"name": "other", "port": 81, "protocol": "UDP", "targetPort": 8081})
    );
    let status = v1::ContainerStatus {
        name: "a".into(),
        ..Default::default()
    };
    let shown = serde_json::to_value(status).expect("json");
    assert_eq!(
        shown,
        json!({"name": "a", "ready": false, "restartCount": 0}),
        "zeros that mean something are shown"
    );
    let list = list_json([&documents[1].object], "7");
    assert_eq!(
        (&list["kind"], &list["metadata"]["resourceVersion"]),
        (&json!("List"), &json!("7"))
    );
    assert_eq!(list["items"][0], json);
}

#[test]
fn every_error_of_every_document_is_reported_with_path_and_line() {
    let text = r"apiVersion: v1
kind: Pod
metadata:
  name: web
  label: {a: b}
spec:
  containers:
  - name: web
    image: 5
    readinesProbe:
      httpGet: {port: 80}
    livenessProbe:
      periodSeconds: often
    resources:
      limits:
        memory: 64MB
  - image: busybox
    ports: {containerPort: 80}
  volumes: []
---
apiVersion: v1
kind: Servise
metadata: {name: a}
---
apiVersion: apps/v1
kind: Pod
---
kind: Pod
---
just text
";
    assert_eq!(
        errors(text),
        [
            "document 1, line 5, pod/web: metadata.label: unknown field, did you mean \"labels\"?",
            "document 1, line 9, pod/web: spec.containers[0].image: expected a string, found 5; put it in quotes",
            "document 1, line 13, pod/web: spec.containers[0].livenessProbe.periodSeconds: expected a 32-bit integer, \
             found \"often\"",
            "document 1, line 10, pod/web: spec.containers[0].readinesProbe: unknown field, did you mean \
             \"readinessProbe\"?",
            "document 1, line 16, pod/web: spec.containers[0].resources.limits.memory: quantity \"64MB\" has the \
             unknown suffix \"MB\" (known: n u m k M G T P E, Ki Mi Gi Ti Pi Ei, e<exponent>)",
            "document 1, line 18, pod/web: spec.containers[1].ports: expected a list, found an object",
            "document 1, line 19, pod/web: spec.volumes: unknown or unsupported field; supported here: containers, \
             hostNetwork, hostname, initContainers, nodeName, nodeSelector, restartPolicy, schedulerName, securityContext, \
             terminationGracePeriodSeconds, tolerations",
            "document 2, line 22, kind: unknown kind \"Servise\" of apiVersion \"v1\", did you mean \"Service\"?",
            "document 3, line 25, apiVersion: Pod is of apiVersion \"v1\", not \"apps/v1\"",
            "document 4, line 28, apiVersion: is required",
            "document 5, line 30: expected an object, found \"just text\"",
        ]
        .map(|line| line
            .replacen(", kind:", ": kind:", 1)
            .replacen(", apiVersion:", ": apiVersion:", 1))
    );
}

#[test]
fn the_items_of_a_list_are_read_each() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
                - {apiVersion: v1, kind: Namespace, metadata: {nam: b}}\n";
    assert_eq!(
        errors(text),
        ["line 5, namespace: items[1].metadata.nam: unknown field, did you mean \"name\"?"]
    );
    let list = list_json(
        &parse_yaml(GUESTBOOK)
            .expect("valid")
            .into_iter()
            .map(|d| d.object)
            .collect::<Vec<_>>(),
        "1",
    );
    assert_eq!(parse_yaml(&list.to_string()).expect("JSON is read too").len(), 2);
    let typed = json!({"apiVersion": "v1", "kind": "PodList", "items": [{"apiVersion": "v1", "kind": "Pod"}]});
    assert_eq!(parse_yaml(&typed.to_string()).expect("a typed list").len(), 1);
}

#[test]
fn a_key_given_twice_is_refused() {
    let error = errors("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n");
    assert_eq!(error.len(), 1);
    assert!(
        error[0].starts_with("line 5: ") && error[0].contains("duplicate") && error[0].contains("name"),
        "{error:?}"
    );
    let error = errors(r#"{"apiVersion": "v1", "kind": "Pod", "kind": "Service"}"#);
    assert!(error[0].contains("duplicate"), "{error:?}");
}

#[test]
fn documents_joined_without_a_line_between_them_are_recognised() {
    let error =
        errors("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n");
    assert_eq!(
        error,
        ["line 4: duplicate key \"apiVersion\": are two documents joined without \"---\" between them?"]
    );
    assert_eq!(
        errors("apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}\n"),
        ["line 3: duplicate key \"name\""]
    );
}

#[test]
fn fields_of_kubernetes_that_are_left_out_on_purpose_are_refused_with_the_reason() {
    let error = errors(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {loadBalancerIP: 192.0.2.1, externalName: b}\n",
    );
    assert_eq!(error.len(), 2, "{error:?}");
    assert!(
        error[1].contains("spec.loadBalancerIP: ") && error[1].contains("--load-balancer-range"),
        "{error:?}"
    );
    assert!(
        error[0].contains("spec.externalName: ") && error[0].contains("ExternalName"),
        "{error:?}"
    );
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    let error = errors("apiVersion: v1\nkind: [Pod\nmetadata: {name: a}\n");
    assert_eq!(error.len(), 1);
    assert!(error[0].starts_with("line "), "{error:?}");
}

#[test]
fn json_may_be_indented_with_tabs() {
    let text =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t}\n}\n";
    assert_eq!(parse_yaml(text).expect("valid JSON")[0].object.key(), "a");
}

#[test]
fn scalars_mean_what_kubernetes_reads() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {a: \"5\", b: yes, c: '', d: \"true\"}\n";
    let object = parse_yaml(text)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .remove(0)
        .object;
    let labels = &object.meta().expect("metadata").labels;
    assert_eq!(labels.values().collect::<Vec<_>>(), ["5", "yes", "", "true"]);
    let again = parse_yaml(&to_yaml(&object)).expect("valid").remove(0).object;
    assert_eq!(again, object);
    let error = errors("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {version: 1.10}\n");
    assert_eq!(
        error,
        ["line 4, pod: metadata.labels.version: expected a string, found 1.1; put it in quotes"]
    );
    let error = errors("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {example.com/on: true}\n");
    assert_eq!(
        error,
        ["line 4, pod: metadata.labels[example.com/on]: expected a string, found true; put it in quotes"]
    );
}

#[test]
fn null_is_absence_for_fields_but_not_inside_lists_and_maps() {
    let with = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}});
    assert!(from_json(with(Value::Null)).is_ok());
    let error = from_json(with(json!([null]))).expect_err("no container");
    assert_eq!(
        error.to_string(),
        "pod: spec.containers[0]: expected an object, found null"
    );
    let error = from_json(json!({"apiVersion": "v1", "kind": "Pod", "spec": []})).expect_err("a list");
    assert_eq!(error.to_string(), "pod: spec: expected an object, found a list");
}

#[test]
fn times_are_checked() {
    let pod = |time: Value| {
        from_json(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": time}}))
            .map(|object| to_json(&object)["metadata"]["creationTimestamp"].clone())
            .map_err(|errors| errors.to_string())
    };
    assert_eq!(
        pod(json!("2026-01-31T13:00:00+01:00")),
        Ok(json!("2026-01-31T12:00:00Z"))
    );
    let refused = "pod: metadata.creationTimestamp: `noon` is not an RFC 3339 time such as 2026-01-31T12:00:00Z";
    assert_eq!(pod(json!("noon")), Err(refused.to_owned()));
}

#[test]
fn an_empty_object_of_every_kind_survives_its_json() {
    for &kind in Kind::ALL {
        let object = Object::empty(kind);
        let json = to_json(&object);
        assert_eq!(json, json!({"apiVersion": kind.api_version(), "kind": kind.name()}));
        assert_eq!(from_json(json).expect("valid"), object);
    }
}

/// JSON of the shapes that manifests have, with the API's names and near misses of them.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9:./ -]{0,12}".prop_map(Value::from),
        "[0-9]{1,3}(m|Mi|)".prop_map(Value::from),
    ];
    let key = "name|labels|spec|containers|image|env|value|ports|port|httpGet|readinessProbe|limits|resources|x";
    scalar.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What the check lets through, serde reads: otherwise an error would come out without its path.
    #[test]
    fn the_check_and_serde_agree(spec in any_json(), metadata in any_json()) {
        let value = json!({"metadata": metadata, "spec": spec});
        if check::check("Pod", &value).is_empty() {
            prop_assert!(serde_json::from_value::<Pod>(value).is_ok());
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[a-zA-Z0-9:{}\\[\\], \n\"'&*!|>-]{0,120}") {
        let _ = parse_yaml(&text);
    }

    #[test]
    fn any_text_in_an_object_survives_yaml(value in "\\PC{0,40}", line in "[ \\t]{0,2}[a-z:#-]{0,9}\n[a-z ]{0,9}\n?") {
        let metadata = v1::ObjectMeta {
            name: "a".into(),
            annotations: [("value".to_owned(), value), ("lines".to_owned(), line)].into(),
            ..Default::default()
        };
        let object = Pod { metadata: Some(metadata), ..Default::default() }.into_object();
        let text = to_yaml(&object);
        let again = parse_yaml(&text).map_err(|errors| TestCaseError::fail(format!("{errors} in\n{text}")))?;
        prop_assert_eq!(&again[0].object, &object, "{}", text);
    }
}
