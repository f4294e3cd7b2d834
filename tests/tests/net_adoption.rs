//! What outlives an agent, and what the next one makes of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use causeway_agent::bpf::{Datapath, DatapathConfig, DatapathError, remove_pins};
use causeway_maps::{MapsError, pins, view};
use causeway_tests::{
    netns::{Lab, ask, tcp_service},
    wait::for_true,
};

const PORT: u16 = 8080;

fn vip() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

/// A line there and back.
fn still_talks(mut stream: &TcpStream) {
    stream.write_all(b"ping").expect("sending");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("receiving");
    assert_eq!(&answer, b"ping");
}

#[test]
fn connections_old_and_new_go_on_without_an_agent_and_under_the_next() {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let (near, far) = (lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3));
    let _listening = [near.serve_tcp(PORT, "near"), far.serve_tcp(PORT, "far")];
    let services = [tcp_service(vip(), PORT, &[&near, &far])];
    lab.serve(&services);
    let open = || {
        let streams = [
            client.connect(vip()),
            client.connect_unhooked(vip()),
            client.connect(far.at(PORT)),
        ];
        streams.map(|stream| {
            let stream = stream.expect("a connection");
            ask(&stream).expect("an answer");
            stream
        })
    };
    let before = open();
    lab.nodes.iter_mut().for_each(causeway_tests::netns::Node::close);
    let between = open();
    for node in &mut lab.nodes {
        node.open().expect("the data path over its pins");
    }
    let after = open();
    for stream in before.iter().chain(&between).chain(&after) {
        still_talks(stream);
    }
    // The new agent knows what is there, and finds nothing to do.
    for node in &lab.nodes {
        let listed = node.maps().services.entries().unwrap();
        node.serve(&services);
        assert_eq!(node.maps().services.entries().unwrap(), listed);
    }
    // Readiness works over adopted backends before any list.
    lab.nodes[0].close();
    lab.nodes[0].open().expect("the data path over its pins");
    assert_eq!(lab.nodes[0].datapath().readiness().set_ready(near.address, false), 1);
    for _ in 0..20 {
        assert_eq!(ask(&client.connect(vip()).unwrap()).unwrap(), "far");
    }
}

#[test]
fn programs_are_replaced_and_not_added() {
    let mut lab = Lab::single();
    let _pod = lab.nodes[0].add_pod(2);
    let links = |lab: &Lab| {
        let mut names: Vec<_> = fs::read_dir(pins::links_dir(&lab.nodes[0].pin_dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = links(&lab);
    assert_eq!(before.len(), 9 + 2 + 2 + 2, "{before:?}");
    for _ in 0..2 {
        lab.nodes[0].close();
        lab.nodes[0].open().expect("the data path over its pins");
    }
    assert_eq!(links(&lab), before);
}

#[test]
fn links_of_interfaces_that_are_gone_are_cleared_away() {
    let mut lab = Lab::single();
    let pod = lab.nodes[0].add_pod(2);
    let pin = pins::links_dir(&lab.nodes[0].pin_dir).join(format!("cw_from_pod-{}", pod.link.ifindex));
    assert!(pin.exists());
    lab.nodes[0].close();
    let network = |name: String| async move { causeway_agent::net::Network::new()?.detach_pod(&name).await };
    lab.nodes[0]
        .netns
        .block_on(|| network(pod.net.host_link.clone()))
        .expect("no link");
    lab.nodes[0].open().expect("the data path over its pins");
    assert!(!pin.exists());
    lab.nodes[0]
        .netns
        .run(|| lab.nodes[0].datapath().detach_pod(pod.link.ifindex))
        .expect("nothing to detach");
}

/// Opens a node's data path otherwise than it was made.
fn reopen(lab: &mut Lab, change: impl FnOnce(&mut DatapathConfig)) -> DatapathError {
    let node = &mut lab.nodes[0];
    node.close();
    let mut config = node.config();
    change(&mut config);
    node.netns.run(|| Datapath::open(&config)).err().expect("a refusal")
}

#[test]
fn maps_of_another_size_are_refused_by_name_with_both_sizes() {
    let mut lab = Lab::single();
    let size = lab.nodes[0].config().sizes.slots;
    let error = reopen(&mut lab, |config| config.sizes.slots *= 2);
    let told = format!(
        "the pinned map SLOTS has {size} elements, {} are configured (--map-...): configure {size} again, or remove the pins in {} \
         (this ends the connections of this node)",
        2 * size,
        lab.nodes[0].pin_dir.display()
    );
    assert_eq!(error.to_string(), told);
}

#[test]
fn maps_of_another_version_are_refused() {
    let mut lab = Lab::single();
    let mut maps = lab.nodes[0].maps();
    let mut node = maps.node.get().unwrap();
    node.abi_version = 4711;
    maps.node.set(&node).unwrap();
    let error = reopen(&mut lab, |_| {});
    assert!(
        matches!(
            error,
            DatapathError::AbiVersion {
                found: 4711,
                expected: causeway_abi::ABI_VERSION,
                ..
            }
        ),
        "{error}"
    );
    // Another version may have other maps.
    std::fs::remove_file(lab.nodes[0].pin_dir.join("maps/SOCKET_REPLIES")).expect("a pin to remove");
    let refused = causeway_maps::PinnedMaps::open(&lab.nodes[0].pin_dir)
        .err()
        .expect("a refusal");
    assert!(
        matches!(refused, MapsError::AbiVersion { found: 4711, .. }),
        "{refused}"
    );
}

#[test]
fn a_directory_that_is_no_v2_cgroup_is_named() {
    let mut lab = Lab::single();
    let error = reopen(&mut lab, |config| config.cgroup_v2_dir = "/proc/self".into());
    assert!(
        error.to_string().starts_with("/proc/self is not in a cgroup v2 tree"),
        "{error}"
    );
}

#[test]
fn nothing_is_left_of_a_nodes_pins() {
    let mut lab = Lab::single();
    let node = &mut lab.nodes[0];
    let pod = node.add_pod(2);
    let _listening = pod.serve_tcp(PORT, "a");
    node.serve(&[tcp_service(vip(), PORT, &[&pod])]);
    node.close();
    let errors = remove_pins(Path::new(pins::BPFFS), &node.pin_dir);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!node.pin_dir.exists());
    // The kernel lets go of a link some time after its last pin.
    for_true("nobody to balance any more", Duration::from_secs(20), || {
        pod.connect(vip()).is_err()
    });
    let errors = remove_pins(Path::new(pins::BPFFS), &node.pin_dir);
    assert!(errors.is_empty(), "removing what is not there: {errors:?}");
}

#[test]
fn pinned_maps_read_in_words() {
    let mut lab = Lab::pair();
    let (near, far) = (lab.nodes[0].add_pod(2), lab.nodes[1].add_pod(2));
    lab.serve(&[tcp_service(vip(), PORT, &[&near, &far])]);
    lab.nodes[0].close();
    let maps = lab.nodes[0].maps();
    let services = view::services(&maps).unwrap();
    let [service] = services.as_slice() else {
        panic!("{services:?}")
    };
    assert_eq!(
        (service.name.as_str(), service.vip.as_str()),
        ("default/test:80", "10.96.0.10:80/TCP")
    );
    let states: Vec<_> = service
        .backends
        .iter()
        .map(|b| (b.backend.address.as_str(), b.backend.state_text()))
        .collect();
    assert_eq!(
        states,
        [
            ("10.244.1.2:8080/TCP", "READY|LOCAL".into()),
            ("10.244.2.2:8080/TCP", "READY".into())
        ]
    );
    assert!(
        service
            .backends
            .iter()
            .all(|backend| backend.slots.abs_diff(service.slots / 2) <= 1)
    );
    let pods: Vec<_> = view::pods(&maps).unwrap().into_iter().map(|pod| pod.address).collect();
    assert_eq!(pods, ["10.244.1.2"]);
    let routes: Vec<_> = view::routes(&maps)
        .unwrap()
        .into_iter()
        .map(|route| (route.prefix, route.node))
        .collect();
    assert_eq!(routes, [("10.244.2.0/24".into(), "172.30.0.2".into())]);
    let found = pins::discover(Path::new(pins::BPFFS)).unwrap();
    assert!(
        found
            .iter()
            .any(|node| node.dir == lab.nodes[0].pin_dir && node.node == "node1"),
        "{found:?}"
    );
}
