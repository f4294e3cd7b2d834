//! The story of a packet, in words. Pure.

use std::fmt::Write as _;

use causeway_maps::{
    advice_by_name,
    view::{ExplainView, NextHop, Origin, ServiceView},
};

use crate::{names::Names, table::Table};

/// Tells how a packet fared on a node.
pub fn tell(view: &ExplainView, node: &str, names: &Names) -> String {
    let mut text = String::new();
    let service = view.service.as_ref().map(|service| format!(" ({})", service.name));
    let _ = writeln!(
        text,
        "{} from {} to {}, as node {node} sees it",
        view.protocol,
        names.beside(&view.source),
        service.map_or_else(
            || names.beside(&view.destination),
            |name| view.destination.clone() + &name
        ),
    );
    if let Some(service) = &view.service
        && matches!(view.origin, Origin::Pod | Origin::Node)
    {
        text.push('\n');
        text.push_str(&at_the_socket(service, view.origin, names));
    }
    let heading = if view.service.is_some() && view.origin == Origin::Pod {
        "Packet by packet (for what the socket hooks did not see)"
    } else {
        "Packet by packet"
    };
    let _ = writeln!(text, "\n{heading}");
    for (number, step) in (1..).zip(steps(view, names)) {
        let _ = writeln!(text, "  {number}. {step}");
    }
    let _ = writeln!(text, "\n{}", result(view, names));
    if let Some(advice) = advice_by_name(&view.reason) {
        let _ = writeln!(text, "What to do: {}.", advice.remedy);
    }
    text
}

/// What `connect` and `sendmsg` do with a service.
fn at_the_socket(service: &ServiceView, origin: Origin, names: &Names) -> String {
    let whose = if origin == Origin::Pod {
        "in this pod"
    } else {
        "of the node"
    };
    let mut text = "At the socket\n".to_owned();
    if service.ready() == 0 {
        let _ = writeln!(
            text,
            "  connect() of a process {whose} fails at once (connection refused): none of {} backends is ready.",
            service.backends.len()
        );
        return text;
    }
    let how = if service.affinity_seconds > 0 {
        format!(
            "the same client gets the same one again for {} s",
            service.affinity_seconds
        )
    } else {
        "by chance, in these shares".to_owned()
    };
    let _ = writeln!(
        text,
        "  connect() of a process {whose} is given one of {} ready backends, {how}; its packets go there directly:",
        service.ready()
    );
    let mut table = Table::new(["BACKEND", "STATE", "SHARE"]);
    let takes: u32 = service
        .backends
        .iter()
        .filter(|backend| backend.backend.takes_connections())
        .map(|backend| backend.slots)
        .sum();
    for backend in &service.backends {
        let share = if backend.backend.takes_connections() {
            format!("{:.1}%", f64::from(backend.slots) * 100.0 / f64::from(takes.max(1)))
        } else {
            "0%".to_owned()
        };
        table.push(vec![
            names.beside(&backend.backend.address),
            backend.backend.state_text(),
            share,
        ]);
    }
    for line in table.render(false).lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

fn steps(view: &ExplainView, names: &Names) -> Vec<String> {
    let mut steps = vec![first_step(view)];
    if view.program.is_none() {
        return steps;
    }
    match &view.service {
        Some(service) => steps.push(format!(
            "{} is service {}: {} slots, {} of {} backends ready.",
            service.vip,
            service.name,
            service.slots,
            service.ready(),
            service.backends.len()
        )),
        None if view.choice.is_none() && view.reason != "SOURCE_ADDRESS_NOT_PODS" => {
            let whence = match view.origin {
                Origin::World => ", seen from the network (cluster IPs are for pods and nodes)",
                _ => "",
            };
            steps.push(format!(
                "No service is at {}{whence}: the address stays.",
                view.destination
            ));
        }
        None => {}
    }
    steps.extend(choice(view));
    if let Some(backend) = &view.backend {
        steps.push(format!(
            "Backend {}: {}, entry {} of BACKENDS.",
            names.beside(&backend.address),
            backend.state_text(),
            backend.index
        ));
    }
    match (&view.translated_source, &view.translated_destination) {
        (None, None) => {}
        (Some(source), None) => steps.push(format!("Its source becomes {source}.")),
        (None, Some(destination)) => steps.push(format!("Its destination becomes {destination}.")),
        (Some(source), Some(destination)) => {
            steps.push(format!("Its source becomes {source}, its destination {destination}."));
        }
    }
    steps.extend(next_hop(view, names));
    steps
}

fn first_step(view: &ExplainView) -> String {
    let Some(program) = &view.program else {
        return match view.origin {
            Origin::Node => {
                "A process of the node sends it: no program sees such a packet, the kernel routes it.".to_owned()
            }
            Origin::World => {
                "It comes in by the uplink, where no program of this node looks at packets: the kernel takes \
                              it. Services are not reached from outside here."
                    .to_owned()
            }
            Origin::Pod | Origin::OtherNode => "No program sees such a packet: the kernel takes it.".to_owned(),
        };
    };
    match view.origin {
        Origin::Pod => format!("The pod sends it; {program} looks at it on the host side of the pod's link."),
        Origin::OtherNode => {
            format!("It comes from a pod of another node; {program} looks at it as it leaves the tunnel.")
        }
        Origin::Node => format!("A process of the node sends it; {program} looks at it on the tunnel device."),
        Origin::World if view.xdp => format!(
            "It comes in by the uplink. cw_xdp is the first to look at it, and sends on by itself what needs no new entry in a \
             table: packets of translated flows to other nodes and, with direct server return, of flows that their slot alone \
             decides on. What it passes, {program} looks at, which decides alike:"
        ),
        Origin::World => format!("It comes in by the uplink; {program} looks at it."),
    }
}

fn choice(view: &ExplainView) -> Option<String> {
    let slots = view.service.as_ref().map_or(0, |service| service.slots);
    let hash = view.hash.unwrap_or(0);
    let slot = view.first_slot.unwrap_or(0);
    let skipped = match view.skipped_slots {
        0 => "its backend takes it".to_owned(),
        1 => "its backend takes no connections, so the search went on to another slot".to_owned(),
        count => format!("{count} slots were passed over whose backends take no connections"),
    };
    Some(match view.choice.as_deref()? {
        "conntrack" => "The connection table knows this flow: it stays with its backend.".to_owned(),
        "affinity" => "The client was here before (session affinity): it gets the same backend again.".to_owned(),
        "clientHash" => format!(
            "Session affinity, and the client is new: its hash {hash:#010x} leads to slot {slot} of {slots}; {skipped}."
        ),
        "maglev" => format!("The flow's hash {hash:#010x} leads to slot {slot} of {slots} (Maglev); {skipped}."),
        "reply" => "It is a backend's answer to a balanced flow, and is translated back.".to_owned(),
        other => format!("The backend was come by through {other}."),
    })
}

fn next_hop(view: &ExplainView, names: &Names) -> Option<String> {
    Some(match &view.next_hop {
        NextHop::Pod { address, ifindex } => format!(
            "Next hop: pod {} on this node, straight into its interface (host side {ifindex}).",
            names.beside(address)
        ),
        NextHop::Node {
            address,
            tunnel_id,
            direct: true,
        } => format!(
            "Next hop: node {} through the VXLAN tunnel {tunnel_id}, as it is; its cw_from_tunnel translates it for the pod, whose \
             answers go straight to the client (direct server return).",
            names.beside(address)
        ),
        NextHop::Node {
            address, tunnel_id: 0, ..
        } => {
            format!("Next hop: node {}, without a tunnel.", names.beside(address))
        }
        NextHop::Node { address, tunnel_id, .. } => format!(
            "Next hop: node {} through the VXLAN tunnel {tunnel_id}; its cw_from_tunnel hands it to the pod.",
            names.beside(address)
        ),
        NextHop::Stack => "Next hop: this node's own network stack.".to_owned(),
        NextHop::Network => "Next hop: back out of the uplink.".to_owned(),
        NextHop::None => return None,
    })
}

fn result(view: &ExplainView, names: &Names) -> String {
    if let Some(advice) = advice_by_name(&view.reason) {
        let what = if view.verdict == "refuse" {
            "Refused (the client is told at once)"
        } else {
            "Dropped"
        };
        return format!("{what}: {}, {}.", view.reason, advice.meaning);
    }
    let whom = view.translated_destination.as_ref().unwrap_or(&view.destination);
    match &view.next_hop {
        NextHop::Pod { .. } | NextHop::Node { .. } => format!("It reaches {}.", names.beside(whom)),
        NextHop::Stack => format!("The node's kernel decides what becomes of it ({}).", names.beside(whom)),
        NextHop::Network => format!("It is sent on to {}.", names.beside(whom)),
        NextHop::None => format!("It ends here ({}).", view.verdict),
    }
}

#[cfg(test)]
mod tests {
    use causeway_maps::view::{
        BackendState::{Local, Ready},
        BackendView, ServiceBackendView,
    };

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        for (address, name) in [
            ("10.244.1.5", "default/client"),
            ("10.244.1.7", "default/web-1"),
            ("10.244.2.3", "default/web-2"),
        ] {
            names.pods.insert(address.into(), name.into());
        }
        names.nodes.insert("172.30.0.12".into(), "node-2".into());
        names
    }

    fn view() -> ExplainView {
        let backend = |index, address: &str, state: &[_], slots| ServiceBackendView {
            backend: BackendView {
                index,
                address: address.into(),
                state: state.to_vec(),
                generation: 1,
            },
            slots,
        };
        let backends = vec![
            backend(0, "10.244.1.7:8080/TCP", &[Local], 126),
            backend(1, "10.244.2.3:8080/TCP", &[Ready], 125),
        ];
        ExplainView {
            protocol: "TCP".into(),
            source: "10.244.1.5:40000".into(),
            destination: "10.96.0.10:80".into(),
            origin: Origin::Pod,
            program: Some("cw_from_pod".into()),
            xdp: false,
            backend: Some(backends[1].backend.clone()),
            service: Some(ServiceView {
                name: "default/web:http".into(),
                vip: "10.96.0.10:80/TCP".into(),
                scope: "Cluster".into(),
                id: 3,
                affinity_seconds: 0,
                slots: 251,
                backends,
                connections: 0,
                packets: 0,
                bytes: 0,
                drops: 0,
            }),
            choice: Some("maglev".into()),
            hash: Some(0x1234_5678),
            first_slot: Some(17),
            skipped_slots: 2,
            verdict: "to-node".into(),
            reason: String::new(),
            translated_source: None,
            translated_destination: Some("10.244.2.3:8080".into()),
            next_hop: NextHop::Node {
                address: "172.30.0.12".into(),
                tunnel_id: 1,
                direct: false,
            },
        }
    }

    #[test]
    fn a_balanced_packet_is_followed_to_its_backend() {
        insta::assert_snapshot!(tell(&view(), "node-1", &names()), @r"
        TCP from 10.244.1.5:40000 (default/client) to 10.96.0.10:80 (default/web:http), as node node-1 sees it

        At the socket
          connect() of a process in this pod is given one of 1 ready backends, by chance, in these shares; its packets go there directly:
            10.244.1.7:8080/TCP (default/web-1)   NOT_READY|LOCAL   0%
            10.244.2.3:8080/TCP (default/web-2)   READY             100.0%

        Packet by packet (for what the socket hooks did not see)
          1. The pod sends it; cw_from_pod looks at it on the host side of the pod's link.
          2. 10.96.0.10:80/TCP is service default/web:http: 251 slots, 1 of 2 backends ready.
          3. The flow's hash 0x12345678 leads to slot 17 of 251 (Maglev); 2 slots were passed over whose backends take no connections.
          4. Backend 10.244.2.3:8080/TCP (default/web-2): READY, entry 1 of BACKENDS.
          5. Its destination becomes 10.244.2.3:8080.
          6. Next hop: node 172.30.0.12 (node-2) through the VXLAN tunnel 1; its cw_from_tunnel hands it to the pod.

        It reaches 10.244.2.3:8080 (default/web-2).
        ");
    }

    #[test]
    fn a_refused_packet_comes_with_advice() {
        let mut view = view();
        if let Some(service) = &mut view.service {
            service.backends[1].backend.state.clear();
        }
        view.backend = None;
        view.choice = None;
        view.verdict = "refuse".into();
        view.reason = "NO_READY_BACKEND".into();
        view.translated_destination = None;
        view.next_hop = NextHop::None;
        insta::assert_snapshot!(tell(&view, "node-1", &names()), @r"
        TCP from 10.244.1.5:40000 (default/client) to 10.96.0.10:80 (default/web:http), as node node-1 sees it

        At the socket
          connect() of a process in this pod fails at once (connection refused): none of 2 backends is ready.

        Packet by packet (for what the socket hooks did not see)
          1. The pod sends it; cw_from_pod looks at it on the host side of the pod's link.
          2. 10.96.0.10:80/TCP is service default/web:http: 251 slots, 0 of 2 backends ready.

        Refused (the client is told at once): NO_READY_BACKEND, the service has no backend that takes connections.
        What to do: see which pods stand behind it (causeway get endpoints) and why they are not ready (causeway describe pod); check the service's selector and target port.
        ");
    }

    #[test]
    fn packets_from_the_network_may_meet_xdp_first() {
        let mut view = ExplainView {
            origin: Origin::World,
            program: Some("cw_from_uplink".into()),
            ..view()
        };
        assert!(!tell(&view, "node-1", &names()).contains("cw_xdp"));
        view.xdp = true;
        assert!(tell(&view, "node-1", &names()).contains("cw_xdp is the first to look at it"));
        (view.service, view.choice) = (None, None);
        assert!(tell(&view, "node-1", &names()).contains("No service is at 10.96.0.10:80, seen from the network"));
    }

    #[test]
    fn a_packet_to_a_pod_has_no_service() {
        let view = ExplainView {
            destination: "10.244.1.7:8080".into(),
            service: None,
            choice: None,
            backend: None,
            translated_destination: None,
            verdict: "to-pod".into(),
            next_hop: NextHop::Pod {
                address: "10.244.1.7".into(),
                ifindex: 4,
            },
            ..view()
        };
        insta::assert_snapshot!(tell(&view, "node-1", &names()), @r"
        TCP from 10.244.1.5:40000 (default/client) to 10.244.1.7:8080 (default/web-1), as node node-1 sees it

        Packet by packet
          1. The pod sends it; cw_from_pod looks at it on the host side of the pod's link.
          2. No service is at 10.244.1.7:8080: the address stays.
          3. Next hop: pod 10.244.1.7 (default/web-1) on this node, straight into its interface (host side 4).

        It reaches 10.244.1.7:8080 (default/web-1).
        ");
    }
}
