//! The inspection service of a running agent, over its socket, and its metrics.

use std::path::Path;

use causeway_abi::Address;
use causeway_maps::{
    AddressExt as _, PinnedMaps, pins,
    view::{ExplainView, Filter, Reading, Request, What},
};
use causeway_proto::v1::{
    CheckRequest, ExplainRequest, NamesRequest, ReadRequest, inspection_service_client::InspectionServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::support::{NODE, Node, shell, wait_for};

const FOREVER: &str = "exec sleep 100000";

fn client(node: &Node) -> InspectionServiceClient<Channel> {
    let socket = node.state_dir().join("agent.sock");
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a target");
    InspectionServiceClient::new(endpoint.connect_lazy())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_what_its_node_holds_and_finds_what_somebody_took_away() {
    let node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    let address = pod.status.as_ref().expect("a status").pod_ip.clone();
    let mut agent = client(&node);

    let names = agent.names(NamesRequest {}).await.expect("names").into_inner();
    assert_eq!(names.pods[&address], "default/web");

    let request = Request {
        what: What::Pods,
        filter: Filter::default(),
        sample: None,
    };
    let request = ReadRequest {
        request: serde_json::to_string(&request).expect("JSON"),
    };
    let answer = agent.read(request).await.expect("a reading").into_inner();
    let reading: Reading = serde_json::from_slice(&answer.reading).expect("a reading");
    let Reading::Pods(pods) = reading else {
        panic!("{reading:?}")
    };
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert_eq!(pods[0].address, address);

    let refused = agent
        .read(ReadRequest { request: "{".into() })
        .await
        .expect_err("no request");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);

    let packet = ExplainRequest {
        source: address.clone(),
        source_port: 40_000,
        destination: address.clone(),
        destination_port: 8080,
        protocol: "TCP".into(),
    };
    let told = agent.explain(packet).await.expect("an explanation").into_inner();
    let told: ExplainView = serde_json::from_slice(&told.explanation).expect("an explanation");
    assert_eq!(told.verdict, "to-pod");

    // The control plane hears of a pod before the agent hears of itself having told it.
    let fine = || async {
        let checked = client(&node).check(CheckRequest {}).await.ok()?.into_inner();
        (checked.differences.is_empty() && checked.pods == 1).then_some(())
    };
    wait_for("a node as it should be", fine).await;
    let pins = pins::node_dir(Path::new(pins::BPFFS), &node.cluster, NODE);
    let key = Address::from_ip(address.parse().expect("an address"));
    let removed = PinnedMaps::open(&pins).expect("the maps").pods.remove(&key);
    assert!(removed.expect("the map takes it"), "the pod had an entry");
    let checked = agent.check(CheckRequest {}).await.expect("a comparison").into_inner();
    let found: Vec<_> = checked.differences.iter().map(|one| (&*one.kind, &*one.name)).collect();
    assert_eq!(found, [("Pod", "default/web")], "{checked:?}");
}
