//! A cluster with addresses of both families, from the manifest to the answer.

use causeway_tests::cluster::{REPLICAS, SOON, TestCluster};
use serde_json::Value;
use xtask::cluster::{IpFamilies, Routing, Store};

/// The example, listening on addresses of both families, behind a service that has both.
fn manifest() -> String {
    let path = xtask::compile::workspace().join("examples/web.yaml");
    let text = std::fs::read_to_string(path).expect("the example");
    let both = text
        .replace("[\"serve\"]", "[\"serve\", \"--listen\", \"[::]:8080\"]")
        .replace(
            "spec:\n  selector:\n    app: web\n    env: demo\n  ports:",
            "spec:\n  ipFamilyPolicy: RequireDualStack\n  selector:\n    app: web\n    env: demo\n  ports:",
        );
    assert!(
        both.contains("[::]:8080") && both.contains("RequireDualStack"),
        "{both}"
    );
    both
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn start(routing: Routing) -> TestCluster {
    let mut cluster = TestCluster::start_with(2, Store::Embedded, |spec| {
        spec.families = IpFamilies::Dual;
        spec.routing = routing;
    });
    cluster.deploy_example().expect("clients");
    cluster.apply(&manifest()).expect("the manifest");
    // Pods of the first version make room for those that listen on both.
    cluster
        .causeway_ok(&["delete", "pods", "-l", "app=web"])
        .expect("deletion");
    cluster.eventually("pods that listen on both families", SOON, |cluster| {
        let pods = cluster
            .list(&["pods", "-l", "app=web"])
            .map_err(|error| format!("{error:#}"))?;
        let both = |pod: &&Value| pod["spec"]["containers"][0]["args"][2] == "[::]:8080";
        let count = pods.iter().filter(both).count();
        if count == REPLICAS && pods.len() == REPLICAS {
            Ok(())
        } else {
            Err(format!("{count} of {}", pods.len()))
        }
    });
    cluster
}

/// Both virtual addresses answer from every node and from a pod on every node, and every replica takes part.
fn assert_both_families_answer(cluster: &mut TestCluster) {
    let service = cluster.causeway_json(&["get", "service", "web"]).expect("the service");
    let vips = strings(&service["spec"]["clusterIPs"]);
    assert_eq!(vips.len(), 2, "{service}");
    let web = cluster.wait_for_pods("app=web", REPLICAS);
    let names: Vec<_> = web.iter().map(|pod| pod.name.as_str()).collect();
    for vip in vips {
        let host = if vip.contains(':') { format!("[{vip}]") } else { vip };
        cluster.wait_for_answers(&format!("http://{host}/"), &names);
    }
}

#[test]
fn pods_and_services_have_addresses_of_both_families() {
    let mut cluster = start(Routing::Vxlan);
    assert_both_families_answer(&mut cluster);
    let pods = cluster.list(&["pods", "-l", "app=web"]).expect("pods");
    for pod in &pods {
        let ips: Vec<_> = pod["status"]["podIPs"].as_array().into_iter().flatten().collect();
        let texts: Vec<_> = ips.iter().filter_map(|ip| ip["ip"].as_str()).collect();
        assert_eq!(texts.len(), 2, "{pod}");
        assert_eq!(pod["status"]["podIP"], texts[0]);
        assert!(
            texts[0].starts_with("10.200.") && texts[1].starts_with("fd00:244:"),
            "{texts:?}"
        );
    }
    cluster.wait_for_kernel_to_agree();

    // A killed agent's successor finds both addresses of every pod, and gives none away.
    cluster
        .stop("node-1", nix::sys::signal::Signal::SIGKILL)
        .expect("an end");
    cluster.restart("node-1").expect("a new agent");
    assert_both_families_answer(&mut cluster);
    cluster.wait_for_kernel_to_agree();
    let after = cluster.list(&["pods", "-l", "app=web"]).expect("pods");
    let addresses = |pods: &[Value]| -> Vec<Value> { pods.iter().map(|pod| pod["status"]["podIPs"].clone()).collect() };
    assert_eq!(addresses(&after), addresses(&pods));
}

#[test]
fn native_routes_lead_to_pods_of_both_families() {
    let mut cluster = start(Routing::Native);
    assert_both_families_answer(&mut cluster);
    cluster.wait_for_kernel_to_agree();
    let netns = cluster.spec().netns("node-1");
    for (family, range) in [("-4", "10.200."), ("-6", "fd00:244:")] {
        let arguments = [family, "-netns", &netns, "route", "show", "proto", "143"];
        let output = std::process::Command::new("ip").args(arguments).output().expect("ip");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(range), "{family}: {text}");
    }
}
