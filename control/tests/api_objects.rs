//! Writing objects through the API: what is stored, what is refused, and in which words.

use std::collections::BTreeSet;

use causeway_proto::{
    Kind, Resource,
    v1::{self, DeleteRequest, ListRequest, Preconditions},
};
use futures::future::join_all;
use tonic::Code;
use tonic_types::StatusExt;

mod api;

use api::{Server, Verbs, all_pods, names, node, pod, service, unwrap, violations};

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
