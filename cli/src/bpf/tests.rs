use std::path::PathBuf;

use causeway_maps::view::{DropView, Reading};

use super::*;
use crate::nodes::Place;

fn node(cluster: &str, name: &str) -> Node {
    Node {
        cluster: cluster.into(),
        name: name.into(),
        place: Place::Pins(PathBuf::new()),
    }
}

fn drops(packets: u64) -> Rows {
    let reading = Reading::Drops(vec![DropView {
        reason: "NO_READY_BACKEND".into(),
        packets,
        bytes: 0,
    }]);
    rows::rows(false, &reading, &Names::default())
}

#[test]
fn nodes_and_clusters_are_named_where_there_are_several() {
    let one = [(node("dev", "node-1"), drops(1))];
    assert_eq!(
        table(&one, false).render(true),
        "REASON             PACKETS   BYTES\nNO_READY_BACKEND   1         0\n"
    );
    let two = [(node("dev", "node-1"), drops(1)), (node("dev", "node-2"), drops(2))];
    assert!(table(&two, false).render(true).starts_with("NODE     REASON"));
    let clusters = [(node("a", "node-1"), drops(1)), (node("b", "node-1"), drops(2))];
    assert!(
        table(&clusters, false)
            .render(true)
            .starts_with("CLUSTER   NODE     REASON")
    );
}

#[test]
fn json_says_where_each_entry_is_from() {
    let read = [(node("dev", "node-1"), drops(3))];
    let document = document(&read);
    let item = &document["items"][0];
    assert_eq!(
        (&item["cluster"], &item["node"], &item["packets"]),
        (&json!("dev"), &json!("node-1"), &json!(3))
    );
}

#[test]
fn rates_are_those_of_the_same_node() {
    let before = [(node("dev", "node-1"), drops(10)), (node("dev", "node-2"), drops(0))];
    let now = [(node("dev", "node-2"), drops(5)), (node("dev", "node-1"), drops(30))];
    let rated = with_rates(&now, &before, Duration::from_secs(2));
    insta::assert_snapshot!(table(&rated, false).render(true), @r"
    NODE     REASON             PACKETS   BYTES   PACKETS/S
    node-2   NO_READY_BACKEND   5         0       2.5
    node-1   NO_READY_BACKEND   30        0       10
    ");
    assert_eq!(document(&rated)["items"][1]["packetsPerSecond"], json!(10.0));
}

#[test]
fn times_have_units_and_bounds() {
    assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
    assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    for bad in ["1ms", "2h", "x", "", "99999999m"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn pods_and_services_are_found_by_name() {
    let mut names = Names::default();
    names.pods.insert("10.244.1.2".into(), "shop/web".into());
    let args = FilterArgs {
        service: Some("web:http".into()),
        pod: Some("web".into()),
        ..FilterArgs::default()
    };
    let filter = args.resolve("shop", &names).unwrap();
    assert_eq!(filter.service.as_deref(), Some("shop/web:http"));
    assert_eq!(filter.pod.as_deref(), Some("10.244.1.2"));
    let error = args.resolve("default", &names).unwrap_err().to_string();
    assert!(error.contains("default/web"), "{error}");
}

#[test]
fn places_are_addresses_with_or_without_a_port() {
    for (text, expected) in [
        ("10.96.0.10", "10.96.0.10"),
        ("10.96.0.10:80", "10.96.0.10:80"),
        ("10.96.0.10:80/TCP", "10.96.0.10:80"),
        ("FD00::1", "fd00::1"),
        ("[fd00::1]", "fd00::1"),
        ("[fd00:0::1]:80/UDP", "[fd00::1]:80"),
    ] {
        assert_eq!(endpoint(text).as_deref(), Ok(expected), "{text}");
    }
    for text in ["10.96.0.300", "web", "10.96.0.10:port", "10.96.0.10:70000", ""] {
        assert!(endpoint(text).is_err(), "{text}");
    }
}
