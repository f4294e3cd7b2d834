//! The inspection service of a running agent, over its socket, and its metrics.

use std::{path::Path, time::Duration};

use causeway_abi::Address;
use causeway_maps::{
    AddressExt as _, PinnedMaps,
    events::{EventReader, EventsError},
    pins,
    view::{EventFilter, EventView, ExplainView, Filter, Reading, Request, What},
};
use causeway_proto::v1::{
    CheckRequest, ExplainRequest, MonitorRequest, MonitorResponse, NamesRequest, ReadRequest,
    inspection_service_client::InspectionServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::support::{NODE, Node, shell, wait_for};

const FOREVER: &str = "exec sleep 100000";
/// Far longer than anything takes, also on a slow machine.
const BOUND: Duration = Duration::from_mins(1);

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

/// Opens connections to a pod, which nobody there accepts, until the stream has an event of the pod's answer.
async fn answered(node: &Node, events: &mut tonic::Streaming<MonitorResponse>, pod: &str) -> EventView {
    let address: std::net::SocketAddr = format!("{pod}:9").parse().expect("an address");
    let begun = std::time::Instant::now();
    while begun.elapsed() < BOUND {
        node.netns.knock(address);
        let Ok(message) = tokio::time::timeout(Duration::from_secs(2), events.message()).await else {
            continue;
        };
        let message = message.expect("the stream goes on").expect("the stream goes on");
        let views = message
            .events
            .iter()
            .map(|event| serde_json::from_str::<EventView>(event));
        let mut views = views.map(|view| view.expect("an event"));
        if let Some(view) = views.find(|view| view.hook == "from-pod" && view.source == format!("{pod}:9")) {
            return view;
        }
    }
    panic!("no event of {pod}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_watch_the_same_events_which_nobody_else_can_take_meanwhile() {
    let node = Node::start().await;
    node.create("web", shell(FOREVER)).await;
    let pod = node.wait_ready("web").await;
    let address = pod.status.as_ref().expect("a status").pod_ip.clone();
    let filter = EventFilter {
        addresses: vec![address.clone()],
        ..EventFilter::default()
    };
    let request = MonitorRequest {
        packets: true,
        filter: serde_json::to_string(&filter).expect("JSON"),
    };
    let watch = || async {
        client(&node)
            .monitor(request.clone())
            .await
            .expect("a stream")
            .into_inner()
    };
    let (mut first, mut second) = (watch().await, watch().await);
    for events in [&mut first, &mut second] {
        let event = answered(&node, events, &address).await;
        assert_eq!(event.protocol, "TCP");
    }
    let pins = pins::node_dir(Path::new(pins::BPFFS), &node.cluster, NODE);
    let taken = EventReader::open(&pins).err().expect("the agent has them");
    assert!(matches!(taken, EventsError::Taken), "{taken}");

    drop((first, second));
    let free = || async { EventReader::open(&pins).ok() };
    wait_for("the agent to let go of the events", free).await;
}
