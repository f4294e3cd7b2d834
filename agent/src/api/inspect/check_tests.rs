use std::net::IpAddr;

use causeway_maps::{
    Protocol,
    view::{BackendState::Ready, BackendView},
};

use super::*;
use crate::bpf::{BackendId, DesiredBackend, RouteMode, VipId};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(address: &str, ready: bool) -> DesiredBackend {
    DesiredBackend {
        ready,
        ..DesiredBackend::ready(BackendId::new(ip(address), 8080, Protocol::TCP))
    }
}

fn wanted() -> Wanted {
    let vip = VipId {
        address: ip("10.96.0.10"),
        port: 80,
        protocol: Protocol::TCP,
    };
    let backends = vec![backend("10.244.1.2", true), backend("10.244.2.2", false)];
    Wanted {
        services: DesiredServices {
            services: vec![DesiredService::cluster_ip(vip, "default/web:http", backends)],
        },
        routes: vec![DesiredRoute {
            address: ip("10.244.2.0"),
            prefix_len: 24,
            node: ip("172.30.0.12"),
            mode: RouteMode::Vxlan { vni: 1 },
        }],
        running: BTreeMap::from([("10.244.1.2".to_owned(), "default/web-1".to_owned())]),
        bound: BTreeSet::from(["10.244.1.2".to_owned()]),
    }
}

/// A kernel that holds exactly what is wanted.
fn held() -> Held {
    let backend = |index, address: &str, state: &[BackendState]| ServiceBackendView {
        backend: BackendView {
            index,
            address: format!("{address}:8080/TCP"),
            state: state.to_vec(),
            generation: 1,
        },
        slots: 100,
    };
    let place = |hook: &str, cgroup: Option<&str>, ifindex| AttachmentView {
        hook: hook.into(),
        cgroup: cgroup.map(Into::into),
        ifindex,
    };
    let program = |name: &str, attached: AttachmentView| ProgramView {
        name: name[..name.len().min(15)].into(),
        id: 1,
        attached: vec![attached],
        runs: None,
        average_ns: None,
        verified_instructions: None,
        jitted_bytes: 0,
        memory_bytes: 0,
    };
    let mut programs: Vec<_> = ON_CGROUP
        .iter()
        .map(|name| program(name, place("connect4", Some("causeway/dev/node-1"), None)))
        .collect();
    programs.push(program("cw_from_pod", place("tcx-ingress", None, Some(5))));
    programs.push(program("cw_from_tunnel", place("tcx-ingress", None, Some(3))));
    programs.push(program("cw_to_tunnel", place("tcx-egress", None, Some(3))));
    programs.push(program("cw_from_uplink", place("tcx-ingress", None, Some(2))));
    programs.push(program("cw_to_uplink", place("tcx-egress", None, Some(2))));
    Held {
        services: vec![ServiceView {
            name: "default/web:http".into(),
            vip: "10.96.0.10:80/TCP".into(),
            scope: "Cluster".into(),
            id: 1,
            affinity_seconds: 0,
            slots: 200,
            backends: vec![backend(0, "10.244.1.2", &[Ready]), backend(1, "10.244.2.2", &[])],
            connections: 0,
            packets: 0,
            bytes: 0,
            drops: 0,
        }],
        routes: vec![RouteView {
            prefix: "10.244.2.0/24".into(),
            node: "172.30.0.12".into(),
            tunnel_id: 1,
            mode: "VXLAN".into(),
        }],
        pods: vec![PodView {
            address: "10.244.1.2".into(),
            ifindex: 5,
            pod_mac: String::new(),
            host_mac: String::new(),
        }],
        programs,
        node: NodeView {
            abi_version: 1,
            address: "172.30.0.11".into(),
            router_address: "10.244.1.1".into(),
            address6: String::new(),
            router_address6: String::new(),
            tunnel_ifindex: 3,
            uplink_ifindex: 2,
        },
    }
}

fn found(wanted: &Wanted, held: &Held) -> Vec<String> {
    response(wanted, held)
        .differences
        .into_iter()
        .map(|one| format!("{} {} {}", one.kind, one.name, one.problem))
        .collect()
}

#[test]
fn what_is_as_wanted_has_no_difference() {
    let response = response(&wanted(), &held());
    assert_eq!(response.differences, []);
    assert_eq!(
        (response.services, response.backends, response.pods, response.routes),
        (1, 2, 1, 1)
    );
}

#[test]
fn services_differ_in_words() {
    let mut held = held();
    held.services[0].backends[1].backend.state = vec![Ready];
    held.services[0].backends[0].backend.address = "10.244.1.9:8080/TCP".into();
    held.services.push(ServiceView {
        name: "default/old:80".into(),
        vip: "10.96.0.99:80/TCP".into(),
        ..held.services[0].clone()
    });
    assert_eq!(
        found(&wanted(), &held),
        [
            "Backend 10.244.1.2:8080/TCP is missing from the kernel's table of default/web:http: gets none of its \
             connections",
            "Backend 10.244.2.2:8080/TCP of default/web:http is not ready for the cluster, ready for the kernel",
            "Backend 10.244.1.9:8080/TCP is in the kernel's table of default/web:http with 100 slots, but not behind it",
            "Service default/old:80 is in the kernel at 10.96.0.99:80/TCP (Cluster), but nobody wants it",
        ]
    );
    held.services.clear();
    assert_eq!(
        found(&wanted(), &held),
        ["Service default/web:http has no entry in the kernel for 10.96.0.10:80/TCP"]
    );
}

#[test]
fn pods_routes_and_programs_differ_in_words() {
    let mut held = held();
    held.pods[0].address = "10.244.1.7".into();
    held.routes[0].node = "172.30.0.99".into();
    held.programs
        .retain(|program| program.name != "cw_connect4" && program.name != "cw_to_tunnel");
    assert_eq!(
        found(&wanted(), &held),
        [
            "Pod default/web-1 with address 10.244.1.2 is not in the kernel: it is unreachable",
            "Pod 10.244.1.7 is in the kernel, but no pod of this node has it",
            "Route 10.244.2.0/24 should lead to 172.30.0.12, the kernel sends to 172.30.0.99",
            "Program cw_connect4 is not attached to the node's cgroup: sockets are not balanced",
            "Program cw_to_tunnel is not attached to the tunnel device: pods of other nodes are unreachable",
        ]
    );
    let mut unhooked = self::held();
    unhooked.programs.iter_mut().for_each(|program| {
        for place in &mut program.attached {
            place.ifindex = place.ifindex.map(|index| if index == 5 { 77 } else { index });
        }
    });
    assert_eq!(
        found(&wanted(), &unhooked),
        ["Pod default/web-1 cw_from_pod is not attached to its interface 5: what it sends is not balanced"]
    );
}

#[test]
fn only_what_stays_different_counts() {
    let one = difference("Pod", "a", "is away");
    let other = difference("Pod", "b", "is away");
    let of = |differences: &[Difference]| CheckResponse {
        differences: differences.to_vec(),
        ..CheckResponse::default()
    };
    let mut now = of(&[one.clone(), other]);
    keep_both(&mut now, &of(std::slice::from_ref(&one)));
    assert_eq!(now.differences, [one]);
}

#[test]
fn a_backend_whose_service_does_not_ask_for_readiness_is_to_be_ready() {
    let (mut wanted, mut held) = (wanted(), held());
    for backend in &mut wanted.services.services[0].backends {
        backend.id.ready_always = true;
    }
    assert_eq!(response(&wanted, &held).differences.len(), 1, "the second is not ready");
    held.services[0].backends[1].backend.state.push(Ready);
    assert_eq!(response(&wanted, &held).differences, []);
}
