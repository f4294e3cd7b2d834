use causeway_proto::v1::{NodeAddress, NodeSpec, NodeStatus, ObjectMeta};

use super::*;

fn node(name: &str, ranges: &[&str], addresses: &[&str]) -> Node {
    let address = |kind: &str, address: &str| NodeAddress {
        r#type: kind.into(),
        address: address.into(),
    };
    let internal = addresses.iter().map(|text| address("InternalIP", text));
    Node {
        metadata: Some(ObjectMeta {
            name: name.into(),
            ..ObjectMeta::default()
        }),
        spec: Some(NodeSpec {
            pod_cidr: ranges.first().copied().unwrap_or_default().into(),
            pod_cidrs: ranges.iter().map(|range| (*range).to_owned()).collect(),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: [address("Hostname", name)].into_iter().chain(internal).collect(),
            ..NodeStatus::default()
        }),
    }
}

fn settings(routing: Routing) -> RouteSettings {
    RouteSettings {
        routing,
        uplink: "eth0".into(),
        cluster: "10.244.0.0/16,fd00:244::/48".parse().unwrap(),
        own: "10.244.1.0/24,fd00:244:0:1::/64".parse().unwrap(),
        vni: 7,
        native: Vec::new(),
    }
}

fn map(nodes: &[Node], settings: &RouteSettings) -> Vec<String> {
    let plan = plan_routes(nodes, "n1", settings);
    plan.map
        .iter()
        .map(|r| format!("{}/{} {} {:?}", r.address, r.prefix_len, r.node, r.mode))
        .collect()
}

#[test]
fn other_nodes_ranges_of_both_families_lead_to_their_addresses() {
    let nodes = [
        node("n1", &["10.244.1.0/24"], &["172.30.0.1"]),
        node(
            "n2",
            &["fd00:244:0:2::/64", "10.244.2.0/24"],
            &["fd00:172::2", "172.30.0.2"],
        ),
    ];
    let settings = settings(Routing::Vxlan);
    assert_eq!(
        map(&nodes, &settings),
        [
            "fd00:244:0:2::/64 172.30.0.2 Vxlan { vni: 7 }",
            "10.244.2.0/24 172.30.0.2 Vxlan { vni: 7 }"
        ]
    );
    assert!(plan_routes(&nodes, "n1", &settings).direct.is_empty());
}

#[test]
fn unfinished_and_impossible_nodes_have_no_route() {
    let nodes = [
        node("n2", &[], &["172.30.0.2"]),
        node("n3", &["10.244.3.0/24"], &["elsewhere"]),
        node("n4", &["10.250.0.0/24"], &["172.30.0.4"]),
        node("n5", &["10.0.0.0/8"], &["172.30.0.5"]),
        node("n6", &["10.244.6.0/24"], &["172.30.0.6"]),
        node("n7", &["10.244.6.128/25"], &["172.30.0.7"]),
        node("n8", &["fd00::/64"], &["172.30.0.8"]),
        node("n9", &["nonsense"], &["172.30.0.9"]),
    ];
    assert_eq!(
        map(&nodes, &settings(Routing::Vxlan)),
        ["10.244.6.0/24 172.30.0.6 Vxlan { vni: 7 }"]
    );
}

#[test]
fn native_routes_go_by_the_nodes_address_of_the_same_family() {
    let nodes = [
        node(
            "n2",
            &["10.244.2.0/24", "fd00:244:0:2::/64"],
            &["172.30.0.2", "fd00:172::2"],
        ),
        node("n3", &["10.244.3.0/24", "fd00:244:0:3::/64"], &["172.30.0.3"]),
    ];
    let mut settings = settings(Routing::Native);
    settings.native = vec!["192.168.0.0/16".parse().unwrap()];
    let plan = plan_routes(&nodes, "n1", &settings);
    let direct = |range: &str, gateway: &str, source: &str| DirectRoute {
        range: range.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        source: source.parse().unwrap(),
    };
    assert_eq!(
        plan.direct,
        [
            direct("10.244.2.0/24", "172.30.0.2", "10.244.1.1"),
            direct("fd00:244:0:2::/64", "fd00:172::2", "fd00:244:0:1::1"),
            direct("10.244.3.0/24", "172.30.0.3", "10.244.1.1"),
        ]
    );
    assert_eq!(
        map(&nodes, &settings),
        [
            "10.244.2.0/24 172.30.0.2 Native",
            "fd00:244:0:2::/64 fd00:172::2 Native",
            "10.244.3.0/24 172.30.0.3 Native",
            "10.244.0.0/16 0.0.0.0 Native",
            "fd00:244::/48 :: Native",
            "192.168.0.0/16 0.0.0.0 Native",
        ]
    );
}

#[test]
fn prefixes_that_know_the_way_to_pods_are_native_beside_a_tunnel_too() {
    let nodes = [node("n2", &["10.244.2.0/24"], &["172.30.0.2"])];
    let mut settings = settings(Routing::Vxlan);
    settings.native = vec!["192.168.0.0/16".parse().unwrap()];
    assert_eq!(
        map(&nodes, &settings),
        [
            "10.244.2.0/24 172.30.0.2 Vxlan { vni: 7 }",
            "192.168.0.0/16 0.0.0.0 Native"
        ]
    );
}

#[test]
fn a_nodes_ranges_are_the_first_of_each_family() {
    let text = |ranges: &[&str]| pod_ranges(&node("a", ranges, &[])).map(|ranges| ranges.to_string());
    assert_eq!(text(&[]), None);
    assert_eq!(text(&["10.244.1.0/24"]).as_deref(), Some("10.244.1.0/24"));
    assert_eq!(
        text(&["fd00:244::/64", "10.244.1.0/24", "10.244.9.0/24"]).as_deref(),
        Some("fd00:244::/64,10.244.1.0/24")
    );
}

#[test]
fn problems_are_told_in_words() {
    let far = DirectRoute {
        range: "10.244.2.0/24".parse().unwrap(),
        gateway: "192.0.2.1".parse().unwrap(),
        source: "10.244.1.1".parse().unwrap(),
    };
    let report = DirectReport {
        not_on_link: vec![far],
        ..DirectReport::default()
    };
    let problems: Vec<_> = direct_problems(&report, "eth0").into_iter().collect();
    assert_eq!(
        problems,
        [
            "node 192.0.2.1 is not directly behind eth0: packets for its pods (10.244.2.0/24) are left to the network's routers, \
          which have to know them"
        ]
    );
}
