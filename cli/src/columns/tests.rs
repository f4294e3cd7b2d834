//! Tables of every kind, and the words for the states a pod can be in.

use std::collections::BTreeMap;

use causeway_proto::{manifest, v1::Pod};

use super::*;
use crate::columns;

/// 2026-01-31T12:00:00Z; objects are created at 11:00 unless they say otherwise.
const NOW: Timestamp = Timestamp {
    seconds: 1_769_860_800,
    nanos: 0,
};

fn text(yaml: &str, view: &View) -> String {
    let documents = manifest::parse_yaml(yaml).unwrap_or_else(|errors| panic!("{errors}"));
    let objects: Vec<Object> = documents.into_iter().map(|document| document.object).collect();
    let kind = objects[0].kind().unwrap();
    columns::render(
        kind,
        &objects,
        &View {
            now: NOW,
            ..view.clone()
        },
    )
    .render(true)
}

fn narrow(yaml: &str) -> String {
    text(yaml, &View::default())
}

fn wide(yaml: &str) -> String {
    text(
        yaml,
        &View {
            wide: true,
            ..View::default()
        },
    )
}

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-x7k2p, namespace: default, creationTimestamp: "2026-01-31T11:00:00Z", labels: {app: web, env: prod}}
spec: {nodeName: node-1, containers: [{name: web, image: "web:1"}, {name: log, image: "log:1"}]}
status:
  phase: Running
  podIP: 10.244.1.2
  containerStatuses:
  - {name: web, ready: true, restartCount: 2, state: {running: {}}, lastState: {terminated: {exitCode: 1, finishedAt: "2026-01-31T11:55:00Z"}}}
  - {name: log, ready: true, restartCount: 1, state: {running: {}}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, creationTimestamp: "2026-01-31T11:59:18Z"}
spec: {containers: [{name: db, image: "db:1"}]}
"#;

#[test]
fn pods() {
    insta::assert_snapshot!(narrow(PODS), @"");
    insta::assert_snapshot!(wide(PODS), @"");
    insta::assert_snapshot!(text(PODS, &View { namespace: true, labels: true, ..View::default() }), @"");
    insta::assert_snapshot!(text(PODS, &View { kind_prefix: true, ..View::default() }), @"");
}

#[test]
fn nodes() {
    let yaml = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {podCIDR: 10.244.1.0/24, unschedulable: true}
status:
  conditions: [{type: Ready, status: "True"}]
  addresses: [{type: Hostname, address: node-1}, {type: InternalIP, address: 172.30.0.11}]
  nodeInfo: {kubeletVersion: 0.1.0, kernelVersion: 6.18.0}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, creationTimestamp: "2026-01-31T11:00:00Z"}
status: {conditions: [{type: Ready, status: Unknown}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-3}
"#;
    insta::assert_snapshot!(narrow(yaml), @"");
    insta::assert_snapshot!(wide(yaml), @"");
}

#[test]
fn services_and_endpoints() {
    let services = r#"
apiVersion: v1
kind: Service
metadata: {name: web, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {clusterIP: 10.96.0.10, type: ClusterIP, ports: [{port: 80}, {port: 53, protocol: UDP}], selector: {app: web, env: prod}}
---
apiVersion: v1
kind: Service
metadata: {name: outside, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {clusterIP: None, ports: [{port: 5432}]}
"#;
    insta::assert_snapshot!(narrow(services), @"");
    insta::assert_snapshot!(wide(services), @"");
    let endpoints = r#"
apiVersion: v1
kind: Endpoints
metadata: {name: web, creationTimestamp: "2026-01-31T11:00:00Z"}
subsets:
- addresses: [{ip: 10.244.1.2}, {ip: 10.244.1.3}, {ip: 10.244.2.2}, {ip: "fd00::1"}]
  notReadyAddresses: [{ip: 10.244.3.3}]
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: none, creationTimestamp: "2026-01-31T11:00:00Z"}
"#;
    insta::assert_snapshot!(narrow(endpoints), @"");
    insta::assert_snapshot!(wide(endpoints), @"");
}

#[test]
fn replication_controllers() {
    let yaml = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: web, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {replicas: 3, selector: {app: web}, template: {spec: {containers: [{name: web, image: "web:1"}]}}}
status: {replicas: 3, readyReplicas: 2}
"#;
    insta::assert_snapshot!(narrow(yaml), @"");
    insta::assert_snapshot!(wide(yaml), @"");
}

#[test]
fn namespaces_leases_and_events() {
    let namespace = r#"{apiVersion: v1, kind: Namespace, metadata: {name: shop, creationTimestamp: "2026-01-31T11:00:00Z"}, status: {phase: Active}}"#;
    insta::assert_snapshot!(narrow(namespace), @"");
    let lease = r#"
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: node-1, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {holderIdentity: node-1, leaseDurationSeconds: 40, renewTime: "2026-01-31T11:59:55Z"}
"#;
    insta::assert_snapshot!(wide(lease), @"");
    let event = r#"
apiVersion: v1
kind: Event
metadata: {name: web.1}
involvedObject: {kind: Pod, name: web-x7k2p}
type: Warning
reason: BackOff
message: "back-off 10s restarting\nweb"
source: {component: agent, host: node-1}
firstTimestamp: "2026-01-31T11:50:00Z"
lastTimestamp: "2026-01-31T11:58:00Z"
count: 4
"#;
    insta::assert_snapshot!(narrow(event), @"");
    insta::assert_snapshot!(wide(event), @"");
}

#[test]
fn states_of_a_pod_have_the_words_of_kubectl() {
    let cases = [
        ("nothing known", "{}", "Pending"),
        ("phase", "{phase: Failed}", "Failed"),
        ("reason", "{phase: Failed, reason: Evicted}", "Evicted"),
        (
            "waiting",
            "{phase: Pending, containerStatuses: [{state: {waiting: {reason: ErrImageNeverPull}}}]}",
            "ErrImageNeverPull",
        ),
        (
            "first of two",
            "{phase: Running, containerStatuses: [{state: {waiting: {reason: CrashLoopBackOff}}}, {state: {waiting: {reason: X}}}]}",
            "CrashLoopBackOff",
        ),
        (
            "runs and crashes",
            "{phase: Running, containerStatuses: [{ready: true, state: {running: {}}}, {state: {waiting: {reason: CrashLoopBackOff}}}]}",
            "CrashLoopBackOff",
        ),
        (
            "exit code",
            "{phase: Failed, containerStatuses: [{state: {terminated: {exitCode: 3}}}]}",
            "ExitCode:3",
        ),
        (
            "signal",
            "{phase: Failed, containerStatuses: [{state: {terminated: {exitCode: 137, signal: 9}}}]}",
            "Signal:9",
        ),
        (
            "out of memory",
            "{phase: Running, containerStatuses: [{state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}",
            "OOMKilled",
        ),
        (
            "done beside a running one",
            "{phase: Running, conditions: [{type: Ready, status: \"True\"}], containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}",
            "Running",
        ),
        (
            "done beside one that is not ready",
            "{phase: Running, containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}",
            "NotReady",
        ),
        (
            "initialising",
            "{phase: Pending, initContainerStatuses: [{state: {terminated: {exitCode: 0}}}, {state: {running: {}}}]}",
            "Init:1/2",
        ),
        (
            "init crashes",
            "{phase: Pending, initContainerStatuses: [{state: {waiting: {reason: CrashLoopBackOff}}}]}",
            "Init:CrashLoopBackOff",
        ),
        (
            "initialised",
            "{phase: Running, conditions: [{type: Initialized, status: \"True\"}], initContainerStatuses: [{state: {running: {}}}]}",
            "Running",
        ),
    ];
    for (name, status, expected) in cases {
        assert_eq!(pod::status(&pod_with("", status)), expected, "{name}");
    }
    let deleted = "deletionTimestamp: \"2026-01-31T11:00:00Z\"";
    assert_eq!(pod::status(&pod_with(deleted, "{phase: Running}")), "Terminating");
    assert_eq!(
        pod::status(&pod_with(deleted, "{phase: Running, reason: NodeLost}")),
        "Unknown"
    );
    assert_eq!(pod::status(&pod_with(deleted, "{phase: Succeeded}")), "Succeeded");
}

fn pod_with(meta: &str, status: &str) -> Pod {
    let init = "initContainers: [{name: a}, {name: b}]";
    let yaml =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, {meta}}}\nspec: {{{init}}}\nstatus: {status}\n");
    let object = manifest::parse_yaml(&yaml)
        .unwrap_or_else(|errors| panic!("{errors}"))
        .remove(0)
        .object;
    match object.kind {
        Some(object::Kind::Pod(pod)) => pod,
        _ => panic!("not a pod"),
    }
}

#[test]
fn every_row_has_a_cell_for_each_column() {
    let view = View {
        wide: true,
        namespace: true,
        labels: true,
        kind_prefix: true,
        event: true,
        now: NOW,
    };
    let labels: BTreeMap<String, String> = BTreeMap::new();
    assert_eq!(pairs(&labels), "<none>");
    for &kind in Kind::ALL {
        let object = Object::empty(kind);
        // `Table::push` compares the number of cells with that of the columns.
        let table = columns::render(kind, [&object], &view);
        assert!(!table.is_empty(), "{kind}");
    }
}
