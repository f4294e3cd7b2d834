//! Events as those see them who watch: real packets and connects on a node in namespaces.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use causeway_abi::event::Trace;
use causeway_maps::{
    events::{EventReader, EventsError},
    view::EventView,
};
use causeway_tests::netns::{Lab, ask, tcp_service};

const PORT: u16 = 8080;
/// Far longer than anything takes, also on a slow machine.
const BOUND: Duration = Duration::from_mins(1);

fn vip(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, last], 80))
}

/// Does something again and again until an event comes that is looked for.
fn until(reader: &mut EventReader, mut act: impl FnMut(), wanted: impl Fn(&EventView) -> bool) -> EventView {
    let begun = Instant::now();
    let mut seen = Vec::new();
    while begun.elapsed() < BOUND {
        // Deadlines pass while a slow machine does something else.
        reader.keep_watching(false);
        act();
        while let Some(event) = reader.next_event() {
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
    }
    panic!("no such event; there were {seen:#?}");
}

#[test]
fn events_are_taken_by_one_at_a_time() {
    let lab = Lab::single();
    let dir = &lab.nodes[0].pin_dir;
    let first = EventReader::open(dir).expect("a reader");
    let second = EventReader::open(dir).err().expect("no second reader");
    assert!(matches!(second, EventsError::Taken), "{second}");
    drop(first);
    EventReader::open(dir).expect("a reader after the first one");
}

#[test]
fn connects_flows_and_refusals_are_told() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    let mut empty = tcp_service(vip(11), PORT, &[]);
    empty.name = "default/empty:80".into();
    lab.serve(&[tcp_service(vip(10), PORT, &[&server]), empty]);
    let mut reader = EventReader::open(&lab.nodes[0].pin_dir).expect("a reader");

    let connect = until(
        &mut reader,
        || drop(ask(&client.connect(vip(10)).expect("a connection"))),
        |event| event.hook == "connect",
    );
    assert_eq!(
        (&*connect.verdict, &*connect.service, &*connect.source),
        ("balanced", "default/test:80", "")
    );
    assert_eq!(connect.destination, "10.96.0.10:80");
    assert_eq!(connect.translated_destination.as_deref(), Some("10.244.1.3:8080"));

    let packet = until(
        &mut reader,
        || drop(ask(&client.connect_unhooked(vip(10)).expect("a connection"))),
        |event| event.hook == "from-pod" && event.service == "default/test:80",
    );
    assert_eq!((&*packet.verdict, &*packet.tcp_flags), ("to-pod", "SYN"));
    assert!(packet.source.starts_with("10.244.1.2:"), "{packet:?}");
    assert!(
        packet.length > 0 && packet.ifindex > 0 && !packet.is_reply,
        "{packet:?}"
    );
    assert_eq!(packet.translated_destination.as_deref(), Some("10.244.1.3:8080"));

    let refused = until(
        &mut reader,
        || drop(client.connect_unhooked(vip(11)).expect_err("nobody is there")),
        |event| event.hook == "from-pod" && !event.reason.is_empty(),
    );
    assert_eq!(
        (&*refused.verdict, &*refused.reason, &*refused.service),
        ("refuse", "NO_READY_BACKEND", "default/empty:80")
    );
    assert_eq!(reader.lost().expect("the count of lost events"), 0);
}

#[test]
fn nothing_is_written_when_nobody_watches() {
    let mut lab = Lab::single();
    let (client, server) = (lab.nodes[0].add_pod(2), lab.nodes[0].add_pod(3));
    let _listening = server.serve_tcp(PORT, "a");
    lab.serve(&[tcp_service(vip(10), PORT, &[&server])]);
    let dir = lab.nodes[0].pin_dir.clone();
    let act = || {
        drop(ask(&client.connect(vip(10)).expect("a connection")));
        drop(ask(&client.connect_unhooked(vip(10)).expect("a connection")));
    };
    let mut reader = EventReader::open(&dir).expect("a reader");
    until(&mut reader, act, |_| true);
    // As when the deadlines have passed.
    let nobody = Trace::default();
    lab.nodes[0].maps().trace.write(0, &nobody);
    while reader.next_event().is_some() {}
    act();
    assert_eq!(reader.next_event(), None);
    // Leaving takes the deadlines back at once.
    reader.keep_watching(true);
    drop(reader);
    let trace = lab.nodes[0].maps().trace.read(0);
    assert_eq!(trace, Some(nobody));
}
