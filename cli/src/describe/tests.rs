//! Descriptions of each kind.

use causeway_proto::manifest;

use super::*;

/// 2026-01-31T12:00:00Z.
const NOW: Timestamp = Timestamp {
    seconds: 1_769_860_800,
    nanos: 0,
};

fn objects(yaml: &str) -> Vec<Object> {
    let documents = manifest::parse_yaml(yaml).unwrap_or_else(|errors| panic!("{errors}"));
    documents.into_iter().map(|document| document.object).collect()
}

fn text(yaml: &str, related: Related) -> String {
    let object = objects(yaml).remove(0);
    text::render(&describe(&object, &Related { now: NOW, ..related }, true))
}

fn typed<T: causeway_proto::Resource>(yaml: &str) -> Vec<T> {
    objects(yaml).into_iter().filter_map(T::from_object).collect()
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web-x7k2p
  namespace: default
  creationTimestamp: "2026-01-31T11:00:00Z"
  labels: {app: web, env: prod}
  annotations: {note: looked at, causeway.dev/last-applied-configuration: "{}"}
  ownerReferences: [{kind: ReplicationController, name: web, controller: true}]
spec:
  nodeName: node-1
  restartPolicy: Always
  terminationGracePeriodSeconds: 30
  tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 300}]
  containers:
  - name: web
    image: web:1
    args: [serve, --port, "8080"]
    env: [{name: A, value: b}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{containerPort: 8080, name: http}]
    resources: {limits: {memory: 64Mi}, requests: {cpu: 100m}}
    readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
    livenessProbe: {exec: {command: [check]}}
status:
  phase: Running
  podIP: 10.244.1.2
  hostIP: 172.30.0.11
  qosClass: Burstable
  startTime: "2026-01-31T11:00:01Z"
  conditions:
  - {type: Ready, status: "False", lastTransitionTime: "2026-01-31T11:59:00Z", reason: ContainersNotReady, message: "not ready: web"}
  containerStatuses:
  - name: web
    containerID: causeway://4711
    image: web:1
    imageID: sha256:abc
    restartCount: 3
    state: {waiting: {reason: CrashLoopBackOff, message: back-off 40s}}
    lastState: {terminated: {exitCode: 1, reason: Error, startedAt: "2026-01-31T11:58:00Z", finishedAt: "2026-01-31T11:59:00Z"}}
"#;

const EVENTS: &str = r#"
apiVersion: v1
kind: Event
type: Warning
reason: BackOff
message: back-off 40s restarting web
source: {component: agent}
firstTimestamp: "2026-01-31T11:50:00Z"
lastTimestamp: "2026-01-31T11:59:00Z"
count: 4
---
apiVersion: v1
kind: Event
type: Normal
reason: Scheduled
message: to node-1
source: {component: scheduler}
lastTimestamp: "2026-01-31T11:00:00Z"
"#;

#[test]
fn pods_are_described_with_all_containers_and_events() {
    let related = Related {
        events: typed(EVENTS),
        ..Related::default()
    };
    insta::assert_snapshot!(text(POD, related), @r"
    Name:            web-x7k2p
    Namespace:       default
    Labels:          app=web
                     env=prod
    Annotations:     note: looked at
    Created:         2026-01-31T11:00:00Z (60m ago)
    Controlled By:   ReplicationController/web
    Node:            node-1/172.30.0.11
    Status:          CrashLoopBackOff
    IP:              10.244.1.2
    Started:         2026-01-31T11:00:01Z (59m ago)
    Containers:
      web:
        Container ID:   causeway://4711
        Image:          web:1
        Image ID:       sha256:abc
        Ports:          8080/TCP (http)
        Args:           serve
                        --port
                        8080
        State:          Waiting
                          Reason: CrashLoopBackOff
                          Message: back-off 40s
        Last State:     Terminated
                          Reason: Error
                          Exit Code: 1
                          Started: 2026-01-31T11:58:00Z (2m ago)
                          Finished: 2026-01-31T11:59:00Z (60s ago)
        Ready:          False
        Restart Count:  3
        Limits:         memory: 64Mi
        Requests:       cpu: 100m
        Liveness:       exec [check] delay=0s timeout=1s period=10s #success=1 #failure=3
        Readiness:      http-get http://:http/ready delay=0s timeout=1s period=1s #success=1 #failure=3
        Environment:    A: b
                        IP: (status.podIP)
    Conditions:
      TYPE    STATUS   SINCE   REASON               MESSAGE
      Ready   False    60s     ContainersNotReady   not ready: web
    QoS Class:       Burstable
    Restart Policy:  Always
    Grace Period:    30s
    Node-Selectors:  <none>
    Tolerations:     a:NoExecute op=Exists for 300s
    Events:
      TYPE      REASON      AGE                 FROM        MESSAGE
      Normal    Scheduled   60m                 scheduler   to node-1
      Warning   BackOff     60s (x4 over 10m)   agent       back-off 40s restarting web
    ");
}

#[test]
fn services_are_described_with_their_endpoints() {
    let service = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]}
";
    let endpoints = r"
apiVersion: v1
kind: Endpoints
metadata: {name: web, namespace: default}
subsets:
- addresses: [{ip: 10.244.1.2, nodeName: node-1, targetRef: {kind: Pod, name: web-a}}, {ip: 10.244.2.2}]
  notReadyAddresses: [{ip: 10.244.3.2, targetRef: {kind: Pod, name: web-c}}]
  ports: [{name: http, port: 8080}]
";
    let related = || Related {
        endpoints: typed(endpoints).pop(),
        ..Related::default()
    };
    insta::assert_snapshot!(text(service, related()), @r"
    Name:              web
    Namespace:         default
    Labels:            <none>
    Annotations:       <none>
    Created:           <none>
    Selector:          app=web
    Type:              ClusterIP
    IP:                10.96.0.10
    Session Affinity:  None
    Port http:
      Port:         80/TCP
      Target Port:  http/TCP
      Endpoints:    10.244.1.2:8080 (pod web-a on node-1)
                    10.244.2.2:8080
      Not Ready:    10.244.3.2:8080 (pod web-c)
    Port dns:
      Port:         53/UDP
      Target Port:  53/UDP
      Endpoints:    <none>
      Not Ready:    <none>
    Events:            <none>
    ");
    insta::assert_snapshot!(text(endpoints, Related::default()), @r"
    Name:         web
    Namespace:    default
    Labels:       <none>
    Annotations:  <none>
    Created:      <none>
    Subset 0:
      Addresses:  10.244.1.2 (pod web-a on node-1)
                  10.244.2.2
      Not Ready:  10.244.3.2 (pod web-c)
      Ports:      http 8080/TCP
    Events:       <none>
    ");
}

#[test]
fn services_are_described_with_how_the_outside_reaches_them() {
    let service = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:96::a']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  type: LoadBalancer
  externalIPs: [198.51.100.7]
  loadBalancerSourceRanges: [203.0.113.0/24]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  healthCheckNodePort: 30999
  trafficDistribution: PreferSameZone
  ports: [{port: 80, nodePort: 30080}]
status:
  conditions: [{type: LoadBalancerAddress, status: 'False', message: 'none is left'}]
";
    insta::assert_snapshot!(text(service, Related::default()), @r"
    Name:                     web
    Namespace:                default
    Labels:                   <none>
    Annotations:              <none>
    Created:                  <none>
    Selector:                 <none>
    Type:                     LoadBalancer
    IP:                       10.96.0.10
    IPs:                      10.96.0.10
                              fd00:96::a
    IP Families:              IPv4, IPv6
    IP Family Policy:         PreferDualStack
    External IPs:             198.51.100.7
    LoadBalancer Ingress:     <pending>: none is left
    Source Ranges:            203.0.113.0/24
    External Traffic Policy:  Local
    HealthCheck NodePort:     30999
    Traffic Distribution:     PreferSameZone
    Session Affinity:         None
    Port <unset>:
      Port:         80/TCP
      Target Port:  80/TCP
      Node Port:    30080/TCP
      Endpoints:    <none>
      Not Ready:    <none>
    Events:                   <none>
    ");
}

#[test]
fn nodes_are_described_with_capacity_and_pods() {
    let node = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1, creationTimestamp: "2026-01-31T11:00:00Z"}
spec: {podCIDR: 10.244.1.0/24, taints: [{key: a, effect: NoSchedule}]}
status:
  capacity: {cpu: "2", memory: 4Gi, pods: "110"}
  allocatable: {cpu: "2", memory: 4Gi, pods: "110"}
  addresses: [{type: InternalIP, address: 172.30.0.11}]
  conditions: [{type: Ready, status: "True", reason: AgentReady}]
  nodeInfo: {kernelVersion: 6.18.0, kubeletVersion: 0.1.0, architecture: amd64}
"#;
    let related = Related {
        pods: typed(POD),
        ..Related::default()
    };
    insta::assert_snapshot!(text(node, related), @r"
    Name:           node-1
    Labels:         <none>
    Annotations:    <none>
    Created:        2026-01-31T11:00:00Z (60m ago)
    Status:         Ready
    Unschedulable:  false
    Taints:         a:NoSchedule
    Pod CIDR:       10.244.1.0/24
    Addresses:      InternalIP: 172.30.0.11
    Conditions:
      TYPE    STATUS   SINCE   REASON       MESSAGE
      Ready   True             AgentReady
    Capacity:
      cpu:     2
      memory:  4Gi
      pods:    110
    Allocatable:
      cpu:     2
      memory:  4Gi
      pods:    110
    System:
      Kernel:        6.18.0
      Architecture:  amd64
      Agent:         0.1.0
    Pods (1):
      NAMESPACE   NAME        STATUS             CPU    MEMORY
      default     web-x7k2p   CrashLoopBackOff   100m   0
    Requested:
      cpu:     100m (5%)
      memory:  0 (0%)
    Events:         <none>
    ");
}

#[test]
fn controllers_and_plain_kinds_are_described() {
    let controller = r#"
apiVersion: v1
kind: ReplicationController
metadata: {name: web, namespace: default, generation: 2}
spec: {replicas: 3, selector: {app: web}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}}}
status: {replicas: 3, readyReplicas: 2, availableReplicas: 1, observedGeneration: 1}
"#;
    insta::assert_snapshot!(text(controller, Related::default()), @r"
    Name:         web
    Namespace:    default
    Labels:       <none>
    Annotations:  <none>
    Created:      <none>
    Selector:     app=web
    Replicas:     3 current / 3 desired
    Pods Status:  2 ready / 1 available
    Observed:     not yet the latest specification
    Pod Template:
      Labels:  app=web
      Container web:
        Image:  web:1
        Ports:  80/TCP
    Events:       <none>
    ");
    let namespace = r#"{apiVersion: v1, kind: Namespace, metadata: {name: shop, deletionTimestamp: "2026-01-31T11:59:00Z"}, status: {phase: Terminating}}"#;
    insta::assert_snapshot!(text(namespace, Related::default()), @r"
    Name:         shop
    Labels:       <none>
    Annotations:  <none>
    Created:      <none>
    Terminating:  since 2026-01-31T11:59:00Z (60s ago), grace period 0s
    status:
      phase: Terminating
    Events:       <none>
    ");
}
