//! Changing objects as JSON through the API: apply, patch, scale.

use causeway_proto::{
    Resource,
    v1::{self, ApplyRequest, PatchRequest, ScaleRequest, apply_response::Outcome, patch_request},
};
use serde_json::json;
use tonic::{Code, Status};

mod api;

use api::{Client, Server, Verbs, pod, unwrap, violations};

fn manifest(replicas: i32, labels: &serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "web", "labels": labels},
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "example/web:1", "ports": [{"containerPort": 80}]}]}
            }
        }
    })
}

async fn apply(
    client: &mut Client,
    manifest: &serde_json::Value,
) -> Result<(v1::ReplicationController, Outcome), Status> {
    let request = ApplyRequest {
        manifest: manifest.to_string(),
        dry_run: false,
    };
    let answer = client.apply(request).await?.into_inner();
    let outcome = answer.outcome();
    Ok((unwrap(answer.object.expect("an applied object")), outcome))
}

#[tokio::test]
async fn apply_creates_merges_and_leaves_alone() {
    let server = Server::start().await;
    let mut client = server.client();
    let first = manifest(3, &json!({"app": "web", "tier": "a"}));
    let (created, outcome) = apply(&mut client, &first).await.unwrap();
    assert_eq!(outcome, Outcome::Created);
    let (same, outcome) = apply(&mut client, &first).await.unwrap();
    assert_eq!((same, outcome), (created, Outcome::Unchanged));

    let mut theirs = client.read::<v1::ReplicationController>("web").await.unwrap();
    theirs.meta_mut().labels.insert("owner".into(), "them".into());
    client.put(theirs).await.unwrap();
    let (merged, outcome) = apply(&mut client, &manifest(4, &json!({"app": "web"}))).await.unwrap();
    assert_eq!(outcome, Outcome::Configured);
    let labels: Vec<_> = merged.meta().labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(labels, ["app=web", "owner=them"], "ours goes, theirs stays");
    assert_eq!(merged.spec.as_ref().unwrap().replicas, Some(4));
    assert_eq!(
        merged
            .spec
            .as_ref()
            .unwrap()
            .template
            .as_ref()
            .unwrap()
            .spec
            .as_ref()
            .unwrap()
            .restart_policy,
        "Always"
    );
}

#[tokio::test]
async fn unknown_fields_are_refused_with_their_path() {
    let server = Server::start().await;
    let mut client = server.client();
    let mut typo = manifest(1, &json!({}));
    typo["spec"]["template"]["spec"]["containers"][0]["imagee"] = json!("x");
    typo["spec"]["replica"] = json!(2);
    let status = apply(&mut client, &typo).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let found = violations(&status);
    for path in ["spec.replica:", "spec.template.spec.containers[0].imagee:"] {
        assert!(found.iter().any(|text| text.starts_with(path)), "{path} in {found:#?}");
    }

    client.make(pod("web")).await.unwrap();
    let patch = PatchRequest {
        kind: "Pod".into(),
        name: "web".into(),
        r#type: patch_request::Type::Merge.into(),
        patch: json!({"spec": {"hostNetwrk": true}}).to_string(),
        ..Default::default()
    };
    let status = client.patch(patch).await.unwrap_err();
    assert!(violations(&status)[0].starts_with("spec.hostNetwrk:"), "{status:?}");
}

#[tokio::test]
async fn patches_change_what_they_name() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(api::labelled("web", "env", "prod")).await.unwrap();
    let patch = |kind: patch_request::Type, patch: serde_json::Value| PatchRequest {
        kind: "po".into(),
        name: "web".into(),
        r#type: kind.into(),
        patch: patch.to_string(),
        ..Default::default()
    };

    let merge = json!({"metadata": {"labels": {"env": null, "quarantine": "yes"}}});
    let merged: v1::Pod = unwrap(
        client
            .patch(patch(patch_request::Type::Merge, merge))
            .await
            .unwrap()
            .into_inner(),
    );
    assert_eq!(merged.meta().labels.keys().collect::<Vec<_>>(), ["quarantine"]);
    assert_eq!(merged.meta().uid, created.meta().uid);

    let steps = json!([
        {"op": "test", "path": "/metadata/labels/quarantine", "value": "yes"},
        {"op": "replace", "path": "/spec/containers/0/image", "value": "example/web:2"}
    ]);
    let patched: v1::Pod = unwrap(
        client
            .patch(patch(patch_request::Type::Json, steps))
            .await
            .unwrap()
            .into_inner(),
    );
    assert_eq!(patched.spec.as_ref().unwrap().containers[0].image, "example/web:2");

    let test = json!([{"op": "test", "path": "/metadata/labels/quarantine", "value": "no"}]);
    assert_eq!(
        client
            .patch(patch(patch_request::Type::Json, test))
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
    let missing = json!([{"op": "remove", "path": "/metadata/labels/absent"}]);
    assert_eq!(
        client
            .patch(patch(patch_request::Type::Json, missing))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    let old = json!({"metadata": {"resourceVersion": created.meta().resource_version, "labels": {"a": "b"}}});
    assert_eq!(
        client
            .patch(patch(patch_request::Type::Merge, old))
            .await
            .unwrap_err()
            .code(),
        Code::Aborted
    );
    let renamed = json!({"metadata": {"name": "other"}});
    let status = client
        .patch(patch(patch_request::Type::Merge, renamed))
        .await
        .unwrap_err();
    assert_eq!(
        violations(&status),
        ["metadata.name: Invalid value: \"other\": field is immutable"]
    );
    let kind = json!({"kind": "Node"});
    assert_eq!(
        client
            .patch(patch(patch_request::Type::Merge, kind))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn only_controllers_scale() {
    let server = Server::start().await;
    let mut client = server.client();
    apply(&mut client, &manifest(1, &json!({}))).await.unwrap();
    let scale = |kind: &str, replicas, current_replicas| ScaleRequest {
        kind: kind.into(),
        name: "web".into(),
        replicas,
        current_replicas,
        ..Default::default()
    };
    let scaled: v1::ReplicationController = unwrap(client.scale(scale("rc", 5, Some(1))).await.unwrap().into_inner());
    assert_eq!(
        (scaled.spec.as_ref().unwrap().replicas, scaled.meta().generation),
        (Some(5), 2)
    );
    let status = client.scale(scale("rc", 6, Some(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("expected replicas to be 1, was 5"),
        "{}",
        status.message()
    );
    let negative = client.scale(scale("rc", -1, None)).await.unwrap_err();
    assert_eq!(violations(&negative).len(), 1);
    assert_eq!(
        client.scale(scale("pods", 1, None)).await.unwrap_err().code(),
        Code::Unimplemented
    );
}
