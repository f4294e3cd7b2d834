//! VIPs: one service each, for life.

use std::collections::BTreeSet;

use causeway_control::api::{DeleteOptions, Registry, RegistryOptions};
use causeway_proto::{Kind, Resource, v1};
use futures::future::join_all;
use tonic::Code;

mod api;

use api::{Server, Verbs, service, unwrap, violations};

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
