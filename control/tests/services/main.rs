//! What services have and no other has: addresses and node ports, on both stores.

#[path = "../store/etcd_server.rs"]
mod etcd_server;
mod suite;

use std::{sync::Arc, time::Duration};

use causeway_control::store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store};
use etcd_server::EtcdServer;
use tempfile::TempDir;

/// An empty store, with what it lives in.
struct Fixture<H> {
    store: Arc<dyn Store>,
    _home: H,
}

fn embedded() -> Fixture<TempDir> {
    let home = tempfile::Builder::new()
        .prefix("causeway-services-")
        .tempdir()
        .expect("a temporary directory");
    let store = EmbeddedStore::open(&EmbeddedOptions::new(home.path().join("store"))).expect("an empty store");
    Fixture {
        store: Arc::new(store),
        _home: home,
    }
}

async fn etcd() -> Fixture<EtcdServer> {
    let server = tokio::task::spawn_blocking(EtcdServer::start).await.expect("etcd");
    let mut options = EtcdOptions::new(vec![server.endpoint()], "services");
    // Many of them start at once.
    options.request_timeout = Duration::from_secs(10);
    let store = EtcdStore::connect(&options).await.expect("connect");
    let answers = tokio::time::timeout(Duration::from_mins(1), async {
        while store.health().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    answers.await.expect("etcd's first answer");
    Fixture {
        store: Arc::new(store),
        _home: server,
    }
}

/// Runs every test of the suite on every store.
macro_rules! on_both_stores {
    ($($test:ident),* $(,)?) => {
        mod embedded_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let fixture = crate::embedded();
                crate::suite::$test(fixture.store.clone()).await;
            })*
        }
        mod etcd_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let fixture = crate::etcd().await;
                crate::suite::$test(fixture.store.clone()).await;
            })*
        }
    };
}

on_both_stores! {
    no_two_services_get_one_node_port,
    a_node_port_that_is_taken_is_refused_with_its_owner,
    a_node_port_is_for_as_long_as_the_service_needs_it,
    both_protocols_of_a_port_get_one_number,
    load_balancers_with_local_policy_get_a_health_check_port,
    dual_stack_services_have_a_vip_of_each_family,
    load_balancer_addresses_are_given_once,
    a_dry_run_takes_nothing,
    the_example_is_accepted,
}
