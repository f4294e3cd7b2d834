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
    insta::assert_snapshot!(narrow(PODS), @r"
    NAME        READY   STATUS    RESTARTS     AGE
    web-x7k2p   2/2     Running   3 (5m ago)   60m
    db          0/1     Pending   0            42s
    ");
    insta::assert_snapshot!(wide(PODS), @r"
    NAME        READY   STATUS    RESTARTS     AGE   IP           NODE
    web-x7k2p   2/2     Running   3 (5m ago)   60m   10.244.1.2   node-1
    db          0/1     Pending   0            42s   <none>       <none>
    ");
    insta::assert_snapshot!(text(PODS, &View { namespace: true, labels: true, ..View::default() }), @r"
    NAMESPACE   NAME        READY   STATUS    RESTARTS     AGE   LABELS
    default     web-x7k2p   2/2     Running   3 (5m ago)   60m   app=web,env=prod
    shop        db          0/1     Pending   0            42s   <none>
    ");
    insta::assert_snapshot!(text(PODS, &View { kind_prefix: true, ..View::default() }), @r"
    NAME            READY   STATUS    RESTARTS     AGE
    pod/web-x7k2p   2/2     Running   3 (5m ago)   60m
    pod/db          0/1     Pending   0            42s
    ");
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
    insta::assert_snapshot!(narrow(yaml), @r"
    NAME     STATUS                     AGE         VERSION
    node-1   Ready,SchedulingDisabled   60m         0.1.0
    node-2   NotReady                   60m         <none>
    node-3   Unknown                    <unknown>   <none>
    ");
    insta::assert_snapshot!(wide(yaml), @r"
    NAME     STATUS                     AGE         VERSION   INTERNAL-IP   POD-CIDR        KERNEL
    node-1   Ready,SchedulingDisabled   60m         0.1.0     172.30.0.11   10.244.1.0/24   6.18.0
    node-2   NotReady                   60m         <none>    <none>        <none>          <none>
    node-3   Unknown                    <unknown>   <none>    <none>        <none>          <none>
    ");
}

#[test]
fn services() {
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
---
apiVersion: v1
kind: Service
metadata: {name: open, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {clusterIP: 10.96.0.11, type: NodePort, externalIPs: [198.51.100.7], ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: shop, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {clusterIP: 10.96.0.12, type: LoadBalancer, ports: [{port: 443, nodePort: 30443}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}
---
apiVersion: v1
kind: Service
metadata: {name: waiting, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {clusterIP: 10.96.0.13, type: LoadBalancer, ports: [{port: 443}]}
"#;
    insta::assert_snapshot!(narrow(services), @r"
    NAME      TYPE           CLUSTER-IP   EXTERNAL-IP    PORT(S)         AGE
    web       ClusterIP      10.96.0.10   <none>         80/TCP,53/UDP   60m
    outside   ClusterIP      None         <none>         5432/TCP        60m
    open      NodePort       10.96.0.11   198.51.100.7   80:30080/TCP    60m
    shop      LoadBalancer   10.96.0.12   192.0.2.1      443:30443/TCP   60m
    waiting   LoadBalancer   10.96.0.13   <pending>      443/TCP         60m
    ");
    insta::assert_snapshot!(wide(services).lines().nth(1).unwrap(), @"web       ClusterIP      10.96.0.10   <none>         80/TCP,53/UDP   60m   app=web,env=prod");
}

#[test]
fn endpoints() {
    let endpoints = r#"
apiVersion: v1
kind: Endpoints
metadata: {name: web, creationTimestamp: "2026-01-31T11:00:00Z"}
subsets:
- addresses: [{ip: 10.244.1.2}, {ip: 10.244.1.3}, {ip: 10.244.2.2}, {ip: "fd00::1"}]
  notReadyAddresses: [{ip: 10.244.3.3}]
  terminatingAddresses: [{ip: 10.244.3.4}]
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: dns, creationTimestamp: "2026-01-31T11:00:00Z"}
subsets:
- addresses: [{ip: 10.244.1.2}, {ip: 10.244.1.3}]
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: none, creationTimestamp: "2026-01-31T11:00:00Z"}
"#;
    insta::assert_snapshot!(narrow(endpoints), @r"
    NAME   ENDPOINTS                                                     AGE
    web    10.244.1.2:8080,10.244.1.3:8080,10.244.2.2:8080 + 1 more...   60m
    dns    10.244.1.2:53,10.244.1.3:53                                   60m
    none   <none>                                                        60m
    ");
    insta::assert_snapshot!(wide(endpoints), @r"
    NAME   ENDPOINTS                                                        AGE   NOT-READY         TERMINATING
    web    10.244.1.2:8080,10.244.1.3:8080,10.244.2.2:8080,[fd00::1]:8080   60m   10.244.3.3:8080   10.244.3.4:8080
    dns    10.244.1.2:53,10.244.1.3:53                                      60m   <none>            <none>
    none   <none>                                                           60m   <none>            <none>
    ");
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
    insta::assert_snapshot!(narrow(yaml), @r"
    NAME   DESIRED   CURRENT   READY   AGE
    web    3         3         2       60m
    ");
    insta::assert_snapshot!(wide(yaml), @r"
    NAME   DESIRED   CURRENT   READY   AGE   CONTAINERS   IMAGES   SELECTOR
    web    3         3         2       60m   web          web:1    app=web
    ");
}

#[test]
fn namespaces_leases_and_events() {
    let namespace = r#"{apiVersion: v1, kind: Namespace, metadata: {name: shop, creationTimestamp: "2026-01-31T11:00:00Z"}, status: {phase: Active}}"#;
    insta::assert_snapshot!(narrow(namespace), @r"
    NAME   STATUS   AGE
    shop   Active   60m
    ");
    let lease = r#"
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: node-1, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {holderIdentity: node-1, leaseDurationSeconds: 40, renewTime: "2026-01-31T11:59:55Z"}
"#;
    insta::assert_snapshot!(wide(lease), @r"
    NAME     HOLDER   AGE   DURATION   RENEWED   TRANSITIONS
    node-1   node-1   60m   40s        5s ago    0
    ");
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
    insta::assert_snapshot!(narrow(event), @r"
    LAST SEEN   TYPE      REASON    OBJECT          MESSAGE
    2m          Warning   BackOff   pod/web-x7k2p   back-off 10s restarting web
    ");
    insta::assert_snapshot!(wide(event), @r"
    LAST SEEN   TYPE      REASON    OBJECT          MESSAGE                       SOURCE          FIRST SEEN   COUNT   NAME
    2m          Warning   BackOff   pod/web-x7k2p   back-off 10s restarting web   agent, node-1   10m          4       web.1
    ");
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
