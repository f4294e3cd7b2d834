//! What the fields of a service ask for, from the manifest to who answers: names of ports, policies, addresses.

use std::{collections::BTreeSet, net::Ipv4Addr, process::Command, time::Duration};

use causeway_tests::cluster::{SOON, TestCluster};
use serde_json::Value;
use xtask::{
    cluster::{Cluster, Store},
    http::{self, Answer},
};

/// Requests by which it is seen who answers: of two backends drawn at random, one is missed by all once in 10^12 times.
const REQUESTS: u64 = 40;

/// A demo server on a node, whose port `web` has a number of its own.
fn server(name: &str, node: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: fields}}}}\nspec:\n  \
         nodeSelector: {{kubernetes.io/hostname: {node}}}\n  terminationGracePeriodSeconds: 1\n  containers:\n    \
         - name: demo\n      image: causeway-demo:dev\n      \
         args: [serve, --drain-ms, \"0\", --listen, \"0.0.0.0:{port}\"]\n      \
         ports: [{{name: web, containerPort: {port}}}]\n      \
         env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n      \
         readinessProbe: {{httpGet: {{path: /readyz, port: web}}, periodSeconds: 1, failureThreshold: 1}}\n"
    )
}

/// A service before the servers, with further fields.
fn service(name: &str, fields: &str) -> String {
    let ports = "[{name: http, port: 80, targetPort: web}, {name: alt, port: 8080, targetPort: web}]";
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: \
         {{selector: {{app: fields}}, ports: {ports}, {fields}}}\n"
    )
}

fn url(cluster: &Cluster, service: &str) -> String {
    format!("http://{}/", cluster.virtual_ip(service).expect("a virtual IP"))
}

/// Waits until exactly these pods answer the processes of a node, and its client pod.
#[track_caller]
fn wait_for_answers_on(cluster: &mut TestCluster, node: &str, url: &str, wanted: &[&str]) {
    let clients = cluster.wait_for_pods("app=client", 2);
    let client = clients.iter().find(|client| client.node == node).expect("a client");
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    cluster.eventually(&format!("{wanted:?} to answer {node} at {url}"), SOON, |cluster| {
        for tally in [
            cluster.fetch_from_node(node, url, REQUESTS),
            cluster.fetch_from_pod(client, url, REQUESTS),
        ] {
            let tally = tally.map_err(|error| format!("{error:#}"))?;
            let names: BTreeSet<_> = tally.by_pod.keys().map(String::as_str).collect();
            if names != wanted {
                return Err(format!("{tally:?}"));
            }
            let refused = |failure: &xtask::cluster::traffic::Failure| failure.error.contains("Connection refused");
            // Where nobody is to answer, clients hear so at once.
            if tally.errors > 0 && !(wanted.is_empty() && tally.failures.iter().all(refused)) {
                return Err(format!("{tally:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn pods_and_nodes_are_answered_by_whom_a_service_means() {
    let mut cluster = TestCluster::start(2, Store::Embedded);
    cluster.deploy_example().expect("clients");
    let manifest = [
        server("one", "node-1", 8001),
        server("two", "node-2", 8002),
        service("named", ""),
        service("local", "internalTrafficPolicy: Local"),
        service("near", "trafficDistribution: PreferSameNode"),
        service("sticky", "sessionAffinity: ClientIP"),
        service("anyhow", "publishNotReadyAddresses: true"),
        service("headless", "clusterIP: None"),
    ];
    cluster.apply(&manifest.concat()).expect("the manifest");
    cluster.wait_for_ready(&["one", "two"]);

    // Port names lead to another number in each pod, and several ports to the same.
    let named = url(&cluster, "named");
    cluster.wait_for_answers(&named, &["one", "two"]);
    let alternative = named.trim_end_matches('/').to_owned() + ":8080/";
    cluster.wait_for_answers(&alternative, &["one", "two"]);
    cluster.wait_for_answers(&url(&cluster, "anyhow"), &["one", "two"]);
    for (node, own) in [("node-1", "one"), ("node-2", "two")] {
        for service in ["local", "near"] {
            let url = url(&cluster, service);
            wait_for_answers_on(&mut cluster, node, &url, &[own]);
        }
    }

    // A client has one backend, whichever it is.
    let sticky = url(&cluster, "sticky");
    for client in cluster.wait_for_pods("app=client", 2) {
        let tally = cluster.fetch_from_pod(&client, &sticky, REQUESTS).expect("a tally");
        assert_eq!((tally.errors, tally.by_pod.len()), (0, 1), "{tally:?}");
    }

    // A service without a virtual address is for those who look at its endpoints; the kernel has nothing of it.
    assert_eq!(cluster.ready_endpoints("headless").expect("endpoints").len(), 2);
    let in_kernel = [
        "bpf",
        "services",
        "--cluster",
        &cluster.spec().name,
        "--service",
        "headless",
    ];
    let rows = cluster.causeway_json(&in_kernel).expect("services");
    assert_eq!(rows["items"].as_array().map(Vec::len), Some(0), "{rows}");

    // Endpoints that somebody wrote, for a service that selects nothing.
    let two = causeway_tests::cluster::pod(&cluster, "two").expect("a pod");
    let own = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: own}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {{name: own}}\n\
         subsets: [{{addresses: [{{ip: {}}}], ports: [{{name: http, port: 8002}}]}}]\n",
        two["status"]["podIP"].as_str().expect("an address")
    );
    cluster.apply(&own).expect("the manifest");
    cluster.wait_for_answers(&url(&cluster, "own"), &["two"]);

    // The first is no longer ready: who prefers it goes elsewhere, who may go nowhere else is refused.
    let one = causeway_tests::cluster::pod(&cluster, "one").expect("a pod");
    let ip = one["status"]["podIP"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    let answer = cluster.http("node-1", "POST", (std::net::IpAddr::V4(ip), 8001).into(), "/unready");
    assert_eq!(answer.expect("the pod answers").status, 200);
    let (near, local) = (url(&cluster, "near"), url(&cluster, "local"));
    wait_for_answers_on(&mut cluster, "node-1", &near, &["two"]);
    wait_for_answers_on(&mut cluster, "node-1", &local, &[]);
    wait_for_answers_on(&mut cluster, "node-2", &local, &["two"]);
    cluster.wait_for_answers(&named, &["two"]);
    cluster.wait_for_answers(&url(&cluster, "anyhow"), &["one", "two"]);
    cluster.wait_for_kernel_to_agree();
}

/// Somebody outside of the cluster, where its nodes are plugged in.
struct Outside(String);

impl Outside {
    /// Sends what is for an address to a node.
    fn route(&self, address: &str, by: Ipv4Addr) {
        let arguments = ["-n", &self.0, "route", "replace", address, "via", &by.to_string()];
        assert!(Command::new("ip").args(arguments).status().expect("ip runs").success());
    }

    fn get(&self, to: (Ipv4Addr, u16)) -> Result<Answer, String> {
        http::request(&self.0, "GET", to.into(), "/", Duration::from_secs(5)).map_err(|error| format!("{error:#}"))
    }

    /// Waits until a pod answers; its answer.
    #[track_caller]
    fn wait_for_answer(&self, cluster: &mut TestCluster, to: (Ipv4Addr, u16), pod: &str) -> Value {
        cluster.eventually(&format!("{pod} to answer at {to:?}"), SOON, |_| {
            let answer = self.get(to)?;
            let told: Value = serde_json::from_str(&answer.body).map_err(|_| answer.body)?;
            if told["pod"] == pod {
                Ok(told)
            } else {
                Err(told.to_string())
            }
        })
    }

    /// Waits until there is no connection, for a reason.
    #[track_caller]
    fn wait_for_failure(&self, cluster: &mut TestCluster, to: (Ipv4Addr, u16), reason: &str) {
        cluster.eventually(&format!("{reason} at {to:?}"), SOON, |_| match self.get(to) {
            Err(said) if said.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

fn packets_dropped(cluster: &Cluster, node: &str, reason: &str) -> u64 {
    let drops = ["bpf", "drops", "--cluster", &cluster.spec().name, "--node", node];
    let drops = cluster.causeway_json(&drops).expect("drops");
    let mut rows = drops["items"].as_array().into_iter().flatten();
    let row = rows
        .find(|row| row["reason"] == reason)
        .unwrap_or_else(|| panic!("{reason} in {drops}"));
    row["packets"].as_u64().expect("a number")
}

#[test]
fn the_network_reaches_the_addresses_and_ports_that_services_have_for_it() {
    let mut cluster = TestCluster::start_with(2, Store::Embedded, |spec| {
        spec.control_args = vec!["--load-balancer-range".to_owned(), "198.51.100.0/28".to_owned()];
    });
    cluster.deploy_example().expect("clients");
    let outside = Outside(cluster.spec().underlay_netns());
    let own_address = cluster.spec().control_address().ip();
    let balanced = |ranges: &str| {
        let fields = "type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: ";
        service("balanced", &format!("{fields}[{ranges}]"))
    };
    let manifest = [
        server("one", "node-1", 8001),
        service("ports", "type: NodePort"),
        service("external", "externalIPs: [192.0.2.77]"),
        balanced(&format!("{own_address}/32")),
    ];
    cluster.apply(&manifest.concat()).expect("the manifest");
    cluster.wait_for_ready(&["one"]);
    let (first, second) = (cluster.spec().node_ip(1), cluster.spec().node_ip(2));

    // Any node has the port, and any node may be the way to an external address.
    let ports = cluster
        .causeway_json(&["get", "service", "ports"])
        .expect("the service");
    let port = number(&ports["spec"]["ports"][0]["nodePort"]);
    let external = Ipv4Addr::new(192, 0, 2, 77);
    for node in [first, second] {
        outside.wait_for_answer(&mut cluster, (node, port), "one");
        outside.route(&external.to_string(), node);
        outside.wait_for_answer(&mut cluster, (external, 80), "one");
    }

    // Only the backend's node takes what is for the balanced address, as its health-check port tells, and hands on who asks.
    let service = cluster.eventually("an address from the range", SOON, |cluster| {
        let service = cluster.causeway_json(&["get", "service", "balanced"]);
        let service = service.map_err(|error| format!("{error:#}"))?;
        let has_one = service["status"]["loadBalancer"]["ingress"][0]["ip"].is_string();
        if has_one { Ok(service) } else { Err(service.to_string()) }
    });
    let address = service["status"]["loadBalancer"]["ingress"][0]["ip"]
        .as_str()
        .expect("an address");
    assert!(address.starts_with("198.51.100."), "{address}");
    let health = number(&service["spec"]["healthCheckNodePort"]);
    let balanced_at = (address.parse().expect("an address"), 80);
    outside.route(address, first);
    let answer = outside.wait_for_answer(&mut cluster, balanced_at, "one");
    let client = answer["client"].as_str().expect("who asked");
    assert!(client.starts_with(&format!("{own_address}:")), "{client}");
    for (node, status, count) in [(first, 200, 1), (second, 503, 0)] {
        cluster.eventually(&format!("{node} to tell of {count} endpoints"), SOON, |_| {
            let answer = outside.get((node, health))?;
            let counted = answer.body.contains(&format!("\"localEndpoints\":{count}"));
            if answer.status == status && counted {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
    }
    outside.route(address, second);
    outside.wait_for_failure(&mut cluster, balanced_at, "refused");

    // Somebody whom the service does not let in is not answered, and the reason is counted; pods are no part of the network.
    outside.route(address, first);
    cluster.apply(&balanced("203.0.113.0/24")).expect("the manifest");
    outside.wait_for_failure(&mut cluster, balanced_at, "timed out");
    assert!(packets_dropped(&cluster, "node-1", "SOURCE_NOT_ALLOWED") > 0);
    cluster.wait_for_answers(&format!("http://{address}/"), &["one"]);
    cluster.wait_for_kernel_to_agree();
}

fn number(value: &Value) -> u16 {
    value
        .as_u64()
        .and_then(|number| number.try_into().ok())
        .expect("a port")
}
