//! Writing objects through the API: what is stored, what is refused, and in which words.

use std::collections::BTreeSet;

use causeway_control::api::{DeleteOptions, Registry, RegistryOptions};
use causeway_proto::{
    Kind, Resource,
    v1::{
        self, ApplyRequest, DeleteRequest, ListRequest, PatchRequest, Preconditions, ScaleRequest,
        apply_response::Outcome, patch_request,
    },
};
use futures::future::join_all;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

mod api;

use api::{Client, Server, Verbs, all_pods, names, node, pod, service, unwrap};

fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details
        .bad_request()
        .unwrap_or_else(|| panic!("no violations in {status:?}"));
    bad.field_violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect()
}

#[tokio::test]
async fn a_created_object_is_filled_in_and_read_back() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(pod("web")).await.unwrap();
    let meta = created.meta();
    assert_eq!((meta.namespace.as_str(), meta.generation), ("default", 1));
    assert_eq!(meta.uid.len(), 36);
    assert!(meta.resource_version.parse::<i64>().unwrap() > 0);
    assert!(meta.creation_timestamp.is_some());
    assert_eq!(created.spec.as_ref().unwrap().restart_policy, "Always");
    assert_eq!(created.status.as_ref().unwrap().phase, "Pending");
    assert_eq!(client.read::<v1::Pod>("web").await.unwrap(), created);

    let again = client.make(pod("web")).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert_eq!(again.message(), "Pod \"default/web\" already exists");
    let absent = client.read::<v1::Pod>("api").await.unwrap_err();
    assert_eq!(
        (absent.code(), absent.message()),
        (Code::NotFound, "Pod \"default/api\" not found")
    );
    let info = absent.get_error_details().resource_info().cloned().unwrap();
    assert_eq!(
        (info.resource_type.as_str(), info.resource_name.as_str()),
        ("Pod", "default/api")
    );
}

#[tokio::test]
async fn every_violation_is_answered() {
    let server = Server::start().await;
    let mut bad = pod("Web");
    bad.meta_mut().labels.insert("a b".into(), "c".into());
    bad.spec.as_mut().unwrap().containers[0].image.clear();
    bad.spec.as_mut().unwrap().restart_policy = "Sometimes".into();
    let status = server.client().make(bad).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "Pod \"default/Web\" is invalid")
    );
    let found = violations(&status);
    assert_eq!(found.len(), 4, "{found:#?}");
    for (text, field) in found.iter().zip([
        "metadata.name",
        "metadata.labels",
        "spec.containers[0].image",
        "spec.restartPolicy",
    ]) {
        assert!(text.starts_with(field), "{text}");
    }
}

#[tokio::test]
async fn an_update_based_on_an_old_version_is_refused() {
    let server = Server::start().await;
    let mut client = server.client();
    let first = client.make(pod("web")).await.unwrap();
    let mut ours = first.clone();
    ours.meta_mut().labels.insert("by".into(), "us".into());
    let mut theirs = first.clone();
    theirs.meta_mut().labels.insert("by".into(), "them".into());
    let second = client.put(ours).await.unwrap();

    let status = client.put(theirs.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    for version in [&first.meta().resource_version, &second.meta().resource_version] {
        assert!(status.message().contains(version), "{version} in {}", status.message());
    }

    theirs.meta_mut().resource_version.clear();
    let third = client.put(theirs).await.unwrap();
    assert_eq!(
        third.meta().labels["by"],
        "them",
        "without a version the last writer wins"
    );
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(pod("web")).await.unwrap();
    let before = client.page(all_pods()).await.unwrap().resource_version;
    assert_eq!(client.put(created.clone()).await.unwrap(), created);
    assert_eq!(client.put_status(created.clone()).await.unwrap(), created);
    assert_eq!(client.page(all_pods()).await.unwrap().resource_version, before);
}

#[tokio::test]
async fn specification_and_status_are_written_apart() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(pod("web")).await.unwrap();
    let mut both = created.clone();
    both.spec.as_mut().unwrap().containers[0].image = "example/web:2".into();
    both.status.as_mut().unwrap().phase = "Running".into();

    let status_only = client.put_status(both.clone()).await.unwrap();
    assert_eq!(status_only.status.as_ref().unwrap().phase, "Running");
    assert_eq!(status_only.spec, created.spec);
    assert_eq!(status_only.meta().generation, 1);

    both.meta_mut().resource_version.clear();
    both.status = None;
    let spec_only = client.put(both).await.unwrap();
    assert_eq!(spec_only.spec.as_ref().unwrap().containers[0].image, "example/web:2");
    assert_eq!(spec_only.status, status_only.status);
    assert_eq!(
        spec_only.meta().generation,
        2,
        "a changed specification counts a generation"
    );

    let mut event = v1::Event::default();
    event.meta_mut().name = "e".into();
    assert_eq!(client.put_status(event).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_read_modify_writes_lose_none() {
    let server = Server::start().await;
    server.client().make(pod("web")).await.unwrap();
    let writers = (0..8).map(|writer| {
        let mut client = server.client();
        tokio::spawn(async move {
            for step in 0..5 {
                loop {
                    let mut pod = client.read::<v1::Pod>("web").await.unwrap();
                    pod.meta_mut().labels.insert(format!("w{writer}-{step}"), "done".into());
                    match client.put(pod).await {
                        Ok(_) => break,
                        Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
                    }
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(
        server
            .client()
            .read::<v1::Pod>("web")
            .await
            .unwrap()
            .meta()
            .labels
            .len(),
        40
    );
}

#[tokio::test]
async fn names_are_generated() {
    let server = Server::start().await;
    let mut client = server.client();
    let mut generated = pod("");
    generated.meta_mut().generate_name = "web-".into();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let name = client.make(generated.clone()).await.unwrap().meta().name.clone();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(seen.insert(name));
    }
    let status = client.make(pod("")).await.unwrap_err();
    assert_eq!(
        violations(&status),
        ["metadata.name: Required value: name or generateName is required"]
    );
}

#[tokio::test]
async fn objects_need_a_living_namespace() {
    let server = Server::start().await;
    let mut client = server.client();
    let mut stray = pod("web");
    stray.meta_mut().namespace = "nowhere".into();
    let status = client.make(stray).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "Namespace \"nowhere\" not found")
    );

    let mut namespace = v1::Namespace::default();
    namespace.meta_mut().name = "short".into();
    client.make(namespace).await.unwrap();
    let dying: v1::Namespace = unwrap(client.remove(Kind::Namespace, "short", None).await.unwrap());
    assert_eq!(dying.status.as_ref().unwrap().phase, "Terminating");
    let mut late = pod("late");
    late.meta_mut().namespace = "short".into();
    let status = client.make(late).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status
            .message()
            .contains("namespace short because it is being terminated"),
        "{}",
        status.message()
    );

    let mut emptied = dying;
    emptied.spec = None;
    client.put(emptied).await.unwrap();
    assert_eq!(
        client.read::<v1::Namespace>("short").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client
            .remove(Kind::Namespace, "default", None)
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_bound_pod_ends_gracefully() {
    let server = Server::start().await;
    let mut client = server.client();
    client.make(node("n1")).await.unwrap();
    let created = client.make(pod("web")).await.unwrap();
    let absent = client.assign("web", "", "n2").await.unwrap_err();
    assert_eq!(absent.message(), "Node \"n2\" not found");
    let other = client.assign("web", "another-uid", "n1").await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    let bound = client.assign("web", &created.meta().uid, "n1").await.unwrap();
    assert_eq!(bound.spec.as_ref().unwrap().node_name, "n1");
    let twice = client.assign("web", "", "n1").await.unwrap_err();
    assert!(
        twice.message().contains("already assigned to node \"n1\""),
        "{}",
        twice.message()
    );

    let dying: v1::Pod = unwrap(client.remove(Kind::Pod, "web", None).await.unwrap());
    assert_eq!(dying.meta().deletion_grace_period_seconds, Some(30));
    assert_eq!(
        client.read::<v1::Pod>("web").await.unwrap(),
        dying,
        "it stays for its agent"
    );
    client.remove(Kind::Pod, "web", Some(0)).await.unwrap();
    assert_eq!(client.read::<v1::Pod>("web").await.unwrap_err().code(), Code::NotFound);

    client.make(pod("unbound")).await.unwrap();
    client.remove(Kind::Pod, "unbound", None).await.unwrap();
    assert_eq!(
        client.read::<v1::Pod>("unbound").await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let server = Server::start().await;
    let mut client = server.client();
    let mut held = pod("web");
    held.meta_mut().finalizers = vec!["example.com/hold".into()];
    client.make(held).await.unwrap();
    let mut dying: v1::Pod = unwrap(client.remove(Kind::Pod, "web", None).await.unwrap());
    assert!(dying.meta().is_terminating());
    dying.meta_mut().finalizers.push("example.com/late".into());
    let status = client.put(dying.clone()).await.unwrap_err();
    assert!(
        violations(&status)[0].contains("no new finalizers can be added"),
        "{status:?}"
    );
    dying.meta_mut().finalizers.clear();
    client.put(dying).await.unwrap();
    assert_eq!(client.read::<v1::Pod>("web").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn deletion_checks_its_preconditions() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(pod("web")).await.unwrap();
    let delete = |uid: &str, version: &str| DeleteRequest {
        kind: "pods".into(),
        name: "web".into(),
        preconditions: Some(Preconditions {
            uid: uid.into(),
            resource_version: version.into(),
        }),
        ..Default::default()
    };
    assert_eq!(
        client.delete(delete("other", "")).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(client.delete(delete("", "1")).await.unwrap_err().code(), Code::Aborted);
    let meta = created.meta();
    client.delete(delete(&meta.uid, &meta.resource_version)).await.unwrap();
    assert_eq!(client.delete(delete("", "")).await.unwrap_err().code(), Code::NotFound);
    let policy = DeleteRequest {
        propagation_policy: "Sideways".into(),
        ..delete("", "")
    };
    assert_eq!(client.delete(policy).await.unwrap_err().code(), Code::InvalidArgument);
}

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

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let server = Server::start_with(|options| options.service_cidr = "10.96.0.0/30".parse().unwrap()).await;
    let mut client = server.client();
    for _ in 0..5 {
        let request = v1::CreateRequest {
            object: Some(service("web", "").into_object()),
            dry_run: true,
        };
        let answer: v1::Service = unwrap(client.create(request).await.unwrap().into_inner());
        assert!(!answer.spec.unwrap().cluster_ip.is_empty());
    }
    assert_eq!(
        client.read::<v1::Service>("web").await.unwrap_err().code(),
        Code::NotFound
    );
    let created = client.make(pod("web")).await.unwrap();
    let mut changed = created.clone();
    changed.meta_mut().labels.insert("a".into(), "b".into());
    let request = v1::UpdateRequest {
        object: Some(changed.into_object()),
        dry_run: true,
    };
    client.update(request).await.unwrap();
    assert_eq!(client.read::<v1::Pod>("web").await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_services_get_one_vip() {
    let server = Server::start_with(|options| options.service_cidr = "10.96.0.0/24".parse().unwrap()).await;
    let creators = (0..254).map(|number| {
        let mut client = server.client();
        tokio::spawn(async move { client.make(service(&format!("s{number}"), "")).await })
    });
    let vips: BTreeSet<String> = join_all(creators)
        .await
        .into_iter()
        .map(|made| made.unwrap().unwrap().spec.unwrap().cluster_ip)
        .collect();
    assert_eq!(vips.len(), 254);

    let mut client = server.client();
    let status = client.make(service("one-more", "")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("10.96.0.0/24"), "{}", status.message());

    let freed = client.read::<v1::Service>("s7").await.unwrap().spec.unwrap().cluster_ip;
    client.remove(Kind::Service, "s7", None).await.unwrap();
    let reused = client
        .make(service("one-more", ""))
        .await
        .unwrap()
        .spec
        .unwrap()
        .cluster_ip;
    assert_eq!(reused, freed);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_on_one_store_share_a_range() {
    let options = RegistryOptions::new("10.96.0.0/28".parse().unwrap());
    let server = Server::start_with(|own| own.service_cidr = options.service_cidr).await;
    let second = Registry::start(server.store.clone(), options);
    second.bootstrap().await.unwrap();
    let creators = (0..14).map(|number| {
        let registry = if number % 2 == 0 {
            server.registry.clone()
        } else {
            second.clone()
        };
        tokio::spawn(async move {
            registry
                .create(service(&format!("s{number}"), "").into_object(), false)
                .await
        })
    });
    let made = join_all(creators)
        .await
        .into_iter()
        .map(|made| unwrap::<v1::Service>(made.unwrap().unwrap()));
    let vips: BTreeSet<String> = made.map(|service| service.spec.unwrap().cluster_ip).collect();
    assert_eq!(vips.len(), 14);
    second
        .delete(Kind::Service, "", "s3", &DeleteOptions::default())
        .await
        .unwrap();
    let made = server.registry.create(service("late", "").into_object(), false).await;
    made.expect("what the other control plane released is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_for_one_vip_one_gets_it() {
    let server = Server::start().await;
    let creators = (0..16).map(|number| {
        let mut client = server.client();
        tokio::spawn(async move { client.make(service(&format!("s{number}"), "10.96.0.10")).await })
    });
    let results: Vec<_> = join_all(creators).await.into_iter().map(Result::unwrap).collect();
    let winner = results
        .iter()
        .find_map(|result| result.as_ref().ok())
        .expect("one gets it");
    assert_eq!(winner.spec.as_ref().unwrap().cluster_ips, ["10.96.0.10"]);
    let losers: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(losers.len(), 15);
    let expected = format!(
        "spec.clusterIPs[0]: Invalid value: \"10.96.0.10\": failed to allocate IP 10.96.0.10: the provided IP is already \
         allocated to service default/{}",
        winner.meta().name
    );
    for loser in losers {
        assert_eq!(violations(loser), [expected.as_str()]);
    }
}

#[tokio::test]
async fn a_vip_is_for_life_and_within_the_range() {
    let server = Server::start().await;
    let mut client = server.client();
    let created = client.make(service("web", "")).await.unwrap();
    let vip = created.spec.as_ref().unwrap().cluster_ip.clone();
    let mut changed = created.clone();
    changed.spec.as_mut().unwrap().ports[0].port = 81;
    changed.spec.as_mut().unwrap().cluster_ip.clear();
    changed.spec.as_mut().unwrap().cluster_ips.clear();
    let kept = client.put(changed.clone()).await.unwrap();
    assert_eq!(kept.spec.as_ref().unwrap().cluster_ip, vip);
    changed.spec.as_mut().unwrap().cluster_ip = "10.96.0.99".into();
    changed.meta_mut().resource_version.clear();
    let status = client.put(changed).await.unwrap_err();
    assert!(violations(&status)[0].contains("field is immutable"), "{status:?}");

    for outside in ["10.97.0.1", "10.96.0.0", "10.96.255.255"] {
        let status = client.make(service("other", outside)).await.unwrap_err();
        assert!(
            violations(&status)[0].contains("not in the valid range, which is 10.96.0.0/16"),
            "{status:?}"
        );
    }
    let headless = client.make(service("headless", "None")).await.unwrap();
    assert_eq!(headless.spec.unwrap().cluster_ip, "None");
    client.remove(Kind::Service, "headless", None).await.unwrap();
}

#[tokio::test]
async fn selectors_choose_and_errors_point() {
    let server = Server::start().await;
    let mut client = server.client();
    client.make(api::labelled("a", "app", "web")).await.unwrap();
    client.make(api::labelled("b", "app", "db")).await.unwrap();
    let list = |labels: &str, fields: &str| ListRequest {
        label_selector: labels.into(),
        field_selector: fields.into(),
        ..all_pods()
    };
    assert_eq!(names(&client.page(list("app in (web, x)", "")).await.unwrap()), ["a"]);
    assert_eq!(names(&client.page(list("app!=web", "")).await.unwrap()), ["b"]);
    assert_eq!(names(&client.page(list("", "metadata.name=b")).await.unwrap()), ["b"]);
    let status = client.page(list("app in web", "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(violations(&status)[0].starts_with("label_selector: "), "{status:?}");
    let status = client.page(list("", "spec.color=red")).await.unwrap_err();
    assert!(violations(&status)[0].starts_with("field_selector: "), "{status:?}");
    let status = client
        .page(ListRequest {
            kind: "Deployment".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert!(violations(&status)[0].contains("known kinds: "), "{status:?}");
}
