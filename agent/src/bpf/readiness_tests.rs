use causeway_abi::backend::IN_USE;

use super::*;

const LOCAL_READY: u32 = IN_USE | LOCAL | READY;

fn id(port: u16, ready_always: bool) -> BackendId {
    BackendId {
        ready_always,
        ..BackendId::new(pod(), port, Protocol::TCP)
    }
}

fn pod() -> IpAddr {
    "10.244.1.2".parse().unwrap()
}

fn handle() -> (ReadinessHandle, MappedArray<Backend>) {
    let backends = MappedArray::anonymous(8).unwrap();
    (ReadinessHandle::new(backends.clone()), backends)
}

fn publish(handle: &ReadinessHandle, held: Held, id: &BackendId, flags: u32) -> bool {
    handle.publish(held, id, Condition { flags, node: None })
}

fn held(index: u32) -> Held {
    Held { index, generation: 1 }
}

#[test]
fn a_verdict_flips_every_backend_of_the_pod() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    publish(&handle, held(3), &id(81, false), LOCAL_READY);
    assert_eq!(handle.set_ready(pod(), false), 2);
    assert_eq!(
        (backends.flags(0), backends.flags(3)),
        (Some(IN_USE | LOCAL), Some(IN_USE | LOCAL))
    );
    assert_eq!(handle.set_ready(pod(), false), 0, "nothing left to flip");
    assert_eq!(handle.set_ready(pod(), true), 2);
    assert_eq!(backends.flags(3), Some(LOCAL_READY));
}

#[test]
fn an_older_list_does_not_undo_a_verdict() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    handle.set_ready(pod(), false);
    assert!(
        !publish(&handle, held(0), &id(80, false), LOCAL_READY),
        "the list still says ready"
    );
    assert_eq!(backends.flags(0), Some(IN_USE | LOCAL));
    handle.forget(pod());
    assert!(publish(&handle, held(0), &id(80, false), LOCAL_READY));
    assert_eq!(backends.flags(0), Some(LOCAL_READY));
}

#[test]
fn a_verdict_waits_for_its_backend() {
    let (handle, backends) = handle();
    assert_eq!(handle.set_ready(pod(), true), 0);
    publish(&handle, held(2), &id(80, false), IN_USE | LOCAL);
    assert_eq!(backends.flags(2), Some(LOCAL_READY));
}

#[test]
fn a_terminating_pod_stays_ready_for_when_nobody_else_is() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    assert_eq!(handle.set_terminating(pod()), 1);
    assert_eq!(backends.flags(0), Some(LOCAL_READY | TERMINATING));
    assert_eq!(handle.set_ready(pod(), false), 1);
    assert_eq!(backends.flags(0), Some(IN_USE | LOCAL | TERMINATING));
}

#[test]
fn a_backend_on_its_way_out_takes_no_verdicts() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), IN_USE | TERMINATING);
    assert_eq!(handle.set_ready(pod(), true), 0);
    assert_eq!(backends.flags(0), Some(IN_USE | TERMINATING));
}

fn hosted(pod: &str, ports: &[u16]) -> HostedPorts {
    HostedPorts {
        pod: pod.to_owned(),
        ports: ports.iter().map(|port| (*port, Protocol::TCP)).collect(),
    }
}

#[test]
fn a_pod_in_the_nodes_network_speaks_for_its_own_ports_alone() {
    let readiness = |ready| Readiness {
        ready,
        terminating: false,
    };
    let (handle, backends) = handle();
    let first = hosted("u-1", &[80, 81]);
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    publish(&handle, held(1), &id(90, false), LOCAL_READY);
    assert_eq!(handle.set_hosted(&first, pod(), readiness(false)), 1);
    assert_eq!(
        (backends.flags(0), backends.flags(1)),
        (Some(IN_USE | LOCAL), Some(LOCAL_READY))
    );
    // A list that is older does not undo it, and a backend that comes later heeds it.
    assert!(!publish(&handle, held(0), &id(80, false), LOCAL_READY));
    publish(&handle, held(2), &id(81, false), LOCAL_READY);
    assert_eq!(backends.flags(2), Some(IN_USE | LOCAL));
    // The port goes to another pod before the first is forgotten.
    let heir = hosted("u-3", &[80]);
    assert_eq!(handle.set_hosted(&heir, pod(), readiness(true)), 1);
    handle.forget_hosted(&first, pod());
    assert!(
        !publish(&handle, held(0), &id(80, false), IN_USE | LOCAL),
        "the heir's word counts"
    );
    assert_eq!(backends.flags(0), Some(LOCAL_READY));
    assert!(
        publish(&handle, held(2), &id(81, false), LOCAL_READY),
        "the list's word counts again"
    );
}

#[test]
fn a_pod_in_the_nodes_network_that_ends_is_the_last_resort() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    let ending = Readiness {
        ready: true,
        terminating: true,
    };
    assert_eq!(handle.set_hosted(&hosted("u-1", &[80]), pod(), ending), 1);
    assert_eq!(backends.flags(0), Some(LOCAL_READY | TERMINATING));
}

#[test]
fn who_publishes_not_ready_addresses_is_left_alone() {
    let (handle, backends) = handle();
    let flags = LOCAL_READY | READY_ALWAYS;
    publish(&handle, held(0), &id(80, true), flags);
    assert_eq!(handle.set_ready(pod(), false), 0);
    assert_eq!(backends.flags(0), Some(flags));
}

#[test]
fn another_owner_replaces_the_whole_element() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    handle.withdraw(0, &id(80, false));
    assert_eq!(backends.read(0).unwrap().flags, 0);
    assert_eq!(backends.read(0).unwrap().generation, 1);
    publish(
        &handle,
        Held {
            index: 0,
            generation: 2,
        },
        &id(90, false),
        LOCAL_READY,
    );
    let element = backends.read(0).unwrap();
    assert_eq!(
        (u16::from_be(element.port_be), element.generation, element.flags),
        (90, 2, LOCAL_READY)
    );
}

#[test]
fn a_backend_that_returns_is_unsettled_until_it_is_seen_to() {
    let (handle, backends) = handle();
    let publish = |flags| handle.publish(held(0), &id(80, false), Condition { flags, node: None });
    publish(IN_USE | READY);
    assert_eq!(backends.flags(0), Some(IN_USE | READY), "nobody had its flows before");
    for away in [IN_USE, IN_USE | READY | TERMINATING] {
        publish(away);
        assert_eq!(backends.flags(0), Some(away));
        publish(IN_USE | READY);
        assert_eq!(backends.flags(0), Some(IN_USE | READY | UNSETTLED));
        assert!(!publish(IN_USE | READY), "it stays so");
        assert_eq!(handle.take_unsettled(), [0]);
        assert!(handle.take_unsettled().is_empty());
        handle.settle(0);
        assert_eq!(backends.flags(0), Some(IN_USE | READY));
    }
    // Another one with the same index has no flows elsewhere.
    publish(IN_USE);
    let next = Held {
        index: 0,
        generation: 2,
    };
    let flags = IN_USE | READY;
    handle.publish(next, &id(81, false), Condition { flags, node: None });
    assert_eq!(backends.flags(0), Some(IN_USE | READY));
    // What an earlier agent had not seen to is seen to by this one.
    backends.set_flags(0, UNSETTLED, 0);
    handle.adopt([(0, pod())]);
    assert_eq!(handle.take_unsettled(), [0]);
}

#[test]
fn slots_of_this_nodes_backends_never_decide_alone() {
    let (handle, backends) = handle();
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    handle.set_ready(pod(), false);
    handle.set_ready(pod(), true);
    publish(&handle, held(0), &id(80, false), LOCAL_READY);
    assert_eq!(backends.flags(0), Some(LOCAL_READY));
    assert!(handle.take_unsettled().is_empty());
}

#[test]
fn a_backend_that_moves_to_another_node_keeps_its_generation() {
    let (handle, backends) = handle();
    let on = |node: &str| Condition {
        flags: IN_USE | READY,
        node: Some(node.parse().unwrap()),
    };
    assert!(handle.publish(held(0), &id(80, false), on("172.30.0.2")));
    assert!(handle.publish(held(0), &id(80, false), on("172.30.0.3")));
    assert!(!handle.publish(held(0), &id(80, false), on("172.30.0.3")));
    let element = backends.read(0).unwrap();
    assert_eq!(element.node_v4_be.to_ne_bytes(), [172, 30, 0, 3], "network byte order");
    assert_eq!((element.flags, element.generation), (IN_USE | READY, 1));
    assert!(handle.retire(held(0), &id(80, false), IN_USE | TERMINATING));
    let element = backends.read(0).unwrap();
    assert_eq!(
        element.node_v4_be.to_ne_bytes(),
        [172, 30, 0, 3],
        "its flows still need it"
    );
    assert!(
        !handle.retire(held(0), &id(81, false), 0),
        "another's element is left alone"
    );
}
