//! Lists and watches through the API: nothing missed, nothing twice, whatever happens meanwhile.

use std::{collections::BTreeMap, time::Duration};

use causeway_proto::{
    Kind, Resource,
    v1::{self, ListRequest, WatchRequest, watch_event::Type},
};
use tonic::Code;

mod api;

use api::{
    PATIENCE, Server, Verbs, all_pods, describe, labelled, names, next, node, pod, pods_from, version_now, within,
};

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let server = Server::start().await;
    let mut client = server.client();
    client.make(pod("a")).await.unwrap();
    client.make(pod("b")).await.unwrap();
    let mut watch = client.follow(pods_from("")).await.unwrap();
    assert_eq!(next(&mut watch).await, "ADDED a");
    assert_eq!(next(&mut watch).await, "ADDED b");
    let bookmark = within("bookmark", watch.message()).await.unwrap().unwrap();
    assert_eq!(describe(&bookmark), "BOOKMARK");
    assert!(bookmark.object.is_none());

    client.make(pod("c")).await.unwrap();
    client.remove(Kind::Pod, "a", None).await.unwrap();
    assert_eq!(next(&mut watch).await, "ADDED c");
    assert_eq!(next(&mut watch).await, "DELETED a");

    let mut resumed = client.follow(pods_from(&bookmark.resource_version)).await.unwrap();
    assert_eq!(next(&mut resumed).await, "ADDED c");
    assert_eq!(next(&mut resumed).await, "DELETED a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_off_at_any_event_misses_and_repeats_none() {
    let server = Server::start().await;
    let mut client = server.client();
    let start = version_now(&mut client).await;
    let writer = tokio::spawn({
        let mut client = server.client();
        async move {
            for number in 0..60 {
                client.make(pod(&format!("p{}", number % 7))).await.unwrap();
                client
                    .remove(Kind::Pod, &format!("p{}", number % 7), None)
                    .await
                    .unwrap();
            }
        }
    });
    let (mut seen, mut version) = (Vec::new(), start.clone());
    while seen.len() < 120 {
        // A new connection for every three events.
        let mut watch = client.follow(pods_from(&version)).await.unwrap();
        for _ in 0..3 {
            let event = within("event", watch.message()).await.unwrap().unwrap();
            if event.r#type() != Type::Bookmark {
                seen.push(describe(&event));
            }
            version = event.resource_version;
        }
    }
    writer.await.unwrap();
    let expected: Vec<_> = (0..60)
        .flat_map(|n| [format!("ADDED p{}", n % 7), format!("DELETED p{}", n % 7)])
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_version_that_is_no_longer_kept_is_out_of_range() {
    let server = Server::start_with(|options| options.window = 5).await;
    let mut client = server.client();
    let old = version_now(&mut client).await;
    client.follow(pods_from(&old)).await.unwrap();
    for number in 0..10 {
        client.make(pod(&format!("p{number}"))).await.unwrap();
    }
    let status = client.follow(pods_from(&old)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("list again"), "{}", status.message());
    let list = client.page(all_pods()).await.unwrap();
    client.follow(pods_from(&list.resource_version)).await.unwrap();

    let future = client.follow(pods_from("999999")).await.unwrap_err();
    assert_eq!(future.code(), Code::OutOfRange);
    assert!(future.message().contains("in the future"), "{}", future.message());
    assert_eq!(
        client.follow(pods_from("yesterday")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_cut_off_and_others_are_not() {
    let server = Server::start_with(|options| options.window = 40).await;
    let mut client = server.client();
    let start = version_now(&mut client).await;
    let mut slow = client.follow(pods_from(&start)).await.unwrap();
    let mut quick = server.client().follow(pods_from(&start)).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut events = 0;
        while events < 200 {
            within("event", quick.message()).await.unwrap().unwrap();
            events += 1;
        }
    });
    let mut writer = server.client();
    let mut big = writer.make(pod("web")).await.unwrap();
    for number in 0..199 {
        big.meta_mut()
            .annotations
            .insert("filler".into(), format!("{number}").repeat(60_000));
        big = writer.put(big).await.unwrap();
    }
    reader.await.unwrap();
    let mut received = 0;
    let status = loop {
        match within("the end", slow.message()).await {
            Ok(Some(_)) => received += 1,
            Ok(None) => panic!("ended without a reason after {received} events"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(received < 199, "the events were not kept for it: {received}");
}

#[tokio::test]
async fn bookmarks_come_while_nothing_happens() {
    let server = Server::start_with(|options| options.bookmark_interval = Duration::from_millis(50)).await;
    let mut client = server.client();
    let start = version_now(&mut client).await;
    let mut watch = client
        .follow(WatchRequest {
            label_selector: "app=none".into(),
            ..pods_from(&start)
        })
        .await
        .unwrap();
    client.make(pod("unseen")).await.unwrap();
    let made = client
        .page(all_pods())
        .await
        .unwrap()
        .resource_version
        .parse::<i64>()
        .unwrap();
    within("a bookmark of the unseen change", async {
        loop {
            let event = watch.message().await.unwrap().unwrap();
            assert_eq!(describe(&event), "BOOKMARK");
            if event.resource_version.parse::<i64>().unwrap() >= made {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn objects_come_and_go_with_their_selector() {
    let server = Server::start().await;
    let mut client = server.client();
    client.make(node("n1")).await.unwrap();
    let start = version_now(&mut client).await;
    let by_label = WatchRequest {
        label_selector: "env=prod".into(),
        ..pods_from(&start)
    };
    let by_node = WatchRequest {
        field_selector: "spec.nodeName=n1".into(),
        ..pods_from(&start)
    };
    let elsewhere = WatchRequest {
        namespace: "kube-system".into(),
        ..pods_from(&start)
    };
    let mut by_label = client.follow(by_label).await.unwrap();
    let mut by_node = client.follow(by_node).await.unwrap();
    let mut elsewhere = client.follow(elsewhere).await.unwrap();

    client.make(labelled("web", "env", "prod")).await.unwrap();
    assert_eq!(next(&mut by_label).await, "ADDED web");
    let mut bound = client.assign("web", "", "n1").await.unwrap();
    assert_eq!(next(&mut by_label).await, "MODIFIED web");
    assert_eq!(next(&mut by_node).await, "ADDED web");

    bound.meta_mut().labels.clear();
    let quarantined = client.put(bound).await.unwrap();
    let gone = within("event", by_label.message()).await.unwrap().unwrap();
    assert_eq!(describe(&gone), "DELETED web");
    let last = v1::Pod::from_object(gone.object.unwrap()).unwrap();
    assert_eq!(last.meta().labels["env"], "prod", "as it was when it still matched");
    assert_eq!(last.meta().resource_version, quarantined.meta().resource_version);
    assert_eq!(next(&mut by_node).await, "MODIFIED web");

    let mut system = pod("system");
    system.meta_mut().namespace = "kube-system".into();
    client.make(system).await.unwrap();
    assert_eq!(next(&mut elsewhere).await, "ADDED system");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_revision_while_objects_change() {
    let server = Server::start().await;
    let mut client = server.client();
    for number in 0..50 {
        client
            .make(labelled(&format!("p{number:02}"), "round", "0"))
            .await
            .unwrap();
    }
    let first = client.page(ListRequest { limit: 7, ..all_pods() }).await.unwrap();
    let (mut all, mut token) = (first.items.clone(), first.r#continue.clone());
    for round in 1.. {
        for number in (round..50).step_by(3) {
            let mut changed = pod(&format!("p{number:02}"));
            changed.meta_mut().labels.insert("round".into(), round.to_string());
            match client.put(changed).await {
                Ok(_) => {}
                Err(status) => assert_eq!(status.code(), Code::NotFound),
            }
        }
        client.make(pod(&format!("new{round}"))).await.unwrap();
        client
            .remove(Kind::Pod, &format!("p{:02}", 50 - round), None)
            .await
            .unwrap();
        let page = client
            .page(ListRequest {
                limit: 7,
                r#continue: token,
                ..all_pods()
            })
            .await
            .unwrap();
        assert_eq!(page.resource_version, first.resource_version);
        assert!(page.items.len() <= 7);
        all.extend(page.items);
        token = page.r#continue;
        if token.is_empty() {
            break;
        }
    }
    let rounds: BTreeMap<String, String> = all
        .iter()
        .map(|object| {
            (
                object.meta().unwrap().name.clone(),
                object.meta().unwrap().labels["round"].clone(),
            )
        })
        .collect();
    let expected = (0..50)
        .map(|number| (format!("p{number:02}"), "0".to_owned()))
        .collect();
    assert_eq!(rounds, expected);
    assert_eq!(all.len(), 50);
    let bad = client
        .page(ListRequest {
            r#continue: "bogus".into(),
            ..all_pods()
        })
        .await
        .unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_page_of_a_forgotten_revision_is_out_of_range() {
    let server = Server::start_with(|options| options.window = 4).await;
    let mut client = server.client();
    for name in ["a", "b", "c"] {
        client.make(pod(name)).await.unwrap();
    }
    let first = client.page(ListRequest { limit: 1, ..all_pods() }).await.unwrap();
    for number in 0..6 {
        client.make(pod(&format!("p{number}"))).await.unwrap();
    }
    let status = client
        .page(ListRequest {
            limit: 1,
            r#continue: first.r#continue,
            ..all_pods()
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_list_shows_every_write_that_was_answered() {
    let server = Server::start().await;
    let (mut writer, mut reader) = (server.client(), server.client());
    for number in 0..100 {
        let name = format!("p{number:03}");
        writer.make(pod(&name)).await.unwrap();
        let list = reader.page(all_pods()).await.unwrap();
        assert_eq!(names(&list).last(), Some(&name));
        assert_eq!(list.items.len(), number + 1);
    }
}

#[tokio::test]
async fn watches_end_with_a_reason_when_the_server_stops() {
    let server = Server::start().await;
    let mut watch = server.client().follow(pods_from("")).await.unwrap();
    assert_eq!(next(&mut watch).await, "BOOKMARK");
    server.registry.stop();
    let status = within("the end", watch.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("stopping"), "{}", status.message());
}

#[tokio::test]
async fn dropped_watches_are_not_counted_any_more() {
    let server = Server::start().await;
    let watch = server.client().follow(pods_from("")).await.unwrap();
    assert_eq!(server.registry.cache(Kind::Pod).watchers(), 1);
    drop(watch);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.registry.cache(Kind::Pod).watchers() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the watch is still counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn reconcilers_are_woken_and_see_the_change() {
    let server = Server::start().await;
    let cache = server.registry.cache(Kind::Pod);
    cache.synced().await;
    let mut changed = cache.changed();
    changed.mark_unchanged();
    assert!(cache.snapshot().is_empty());
    server.client().make(pod("web")).await.unwrap();
    within("a wake-up", changed.changed()).await.unwrap();
    assert_eq!(cache.snapshot().len(), 1);
    assert!(cache.get("default", "web").is_some());
}
