//! Maps that are too small for what the cluster wants, and maps of another size.

use std::{collections::BTreeSet, path::Path};

use causeway_agent::bpf;
use causeway_maps::{
    PinnedMaps, pins,
    view::{self, ServiceView},
};
use causeway_proto::{
    client::{DeleteOptions, ListOptions},
    v1::{Event, Service},
};
use serde_json::json;

use crate::support::{NODE, Node, shell, wait_for};

/// Room for three service ports, and for five: the first number stands for none.
const SMALL: [&str; 2] = ["--map-services", "4"];
const LARGER: [&str; 2] = ["--map-services", "6"];

fn pins_of(node: &Node) -> std::path::PathBuf {
    pins::node_dir(Path::new(pins::BPFFS), &node.cluster, NODE)
}

async fn create(node: &Node, name: &str) {
    let service = json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "ports": [{ "port": 80 }] },
    });
    let service: Service = serde_json::from_value(service).expect("a service");
    node.client.create(service).await.expect("a service that is taken");
}

/// Names of the services in the node's maps, each of which has its entry, its name and its counters.
fn programmed(node: &Node) -> Option<BTreeSet<String>> {
    let maps = PinnedMaps::open(&pins_of(node)).ok()?;
    let services = view::services(&maps).ok()?;
    Some(services.into_iter().map(|service: ServiceView| service.name).collect())
}

async fn wait_for_services(node: &Node, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|name| format!("default/{name}:80")).collect();
    let look = || async { (programmed(node)? == wanted).then_some(()) };
    wait_for(&format!("{wanted:?} in the maps"), look).await;
}

async fn wait_for_metric(node: &Node, value: &str) {
    let line = format!("causeway_agent_services_not_applied {value}");
    let look = || async { node.netns.metrics()?.lines().any(|one| one == line).then_some(()) };
    wait_for(&line, look).await;
}

/// What events tell of a service that was refused.
async fn refusals(node: &Node, name: &str) -> Vec<String> {
    let events = node.client.list::<Event>(&ListOptions::default()).await;
    let events = events.expect("events").items.into_iter();
    let about = |event: &Event| {
        let object = event.involved_object.as_ref();
        event.reason == "FailedToProgram" && object.is_some_and(|object| object.name == name)
    };
    events.filter(about).map(|event| event.message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_fit_is_refused_with_an_event_and_a_metric_and_the_others_stay() {
    let mut node = Node::new();
    node.start_control().await;
    node.start_agent_with(Some(SMALL));
    node.ready().await;
    for name in ["a", "b", "c"] {
        create(&node, name).await;
    }
    wait_for_services(&node, &["a", "b", "c"]).await;
    wait_for_metric(&node, "0").await;

    create(&node, "late").await;
    wait_for_metric(&node, "1").await;
    let told = || async { refusals(&node, "late").await.into_iter().next() };
    let told = wait_for("an event about the service", told).await;
    assert!(told.starts_with("node node-1: service default/late:80 "), "{told}");
    assert!(
        told.contains("not applied: ") && told.contains("--map-services"),
        "{told}"
    );
    wait_for_services(&node, &["a", "b", "c"]).await;

    // It comes when there is room again.
    let options = DeleteOptions::default();
    node.client
        .delete::<Service>("default", "b", &options)
        .await
        .expect("a service to delete");
    wait_for_services(&node, &["a", "c", "late"]).await;
    wait_for_metric(&node, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_another_size_are_refused_and_made_anew_where_their_pins_are_gone() {
    let mut node = Node::new();
    node.import();
    node.start_control().await;
    node.start_agent_with(Some(SMALL));
    node.ready().await;
    for name in ["a", "b", "c", "d"] {
        create(&node, name).await;
    }
    node.create("web", shell("exec sleep 100000")).await;
    let pod = node.wait_ready("web").await;
    let processes = node.processes(&pod, "main");
    wait_for_metric(&node, "1").await;
    node.stop_agent();

    let output = node.command_with(Some(LARGER)).output().expect("an agent");
    let told = String::from_utf8_lossy(&output.stderr);
    let wanted = format!(
        "the pinned map SERVICES has 4 elements, 6 are configured (--map-...): configure 4 again, or remove the pins in {} ",
        pins_of(&node).display()
    );
    assert!(!output.status.success() && told.contains(&wanted), "{told}");

    // As the message says.
    let errors = bpf::remove_pins(Path::new(pins::BPFFS), &pins_of(&node));
    assert!(errors.is_empty(), "{errors:?}");
    node.start_agent_with(Some(LARGER));
    wait_for_services(&node, &["a", "b", "c", "d"]).await;
    wait_for_metric(&node, "0").await;
    let address = pod.status.as_ref().expect("a status").pod_ip.clone();
    let is_there = || async {
        let maps = PinnedMaps::open(&pins_of(&node)).ok()?;
        let pods = view::pods(&maps).ok()?;
        pods.iter().any(|pod| pod.address == address).then_some(())
    };
    wait_for("the pod in the new maps", is_there).await;
    assert_eq!(node.processes(&pod, "main"), processes, "the pod runs on");
}
