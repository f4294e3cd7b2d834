//! Trying a packet out: the node's real program on its live maps, with nothing changed but `EXPLANATION`.
//!
//! The kernel runs the program on a made-up packet (`BPF_PROG_TEST_RUN`) whose mark says that it is only tried out. Dry runs
//! write to one element, so they come one at a time: by a lock on the directory of the link pins.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions};
use causeway_abi::{
    Address,
    event::{Choice, Explanation, MARK_DRY_RUN, Verdict},
    route::{MODE_VXLAN, RouteKey},
    service::{NO_BACKEND, SCOPE_CLUSTER, SCOPE_NODE, ServiceKey},
};

use crate::{
    AddressExt as _, MapsError, PinnedMaps, Protocol, pins, reason_by_number, sys,
    view::{self, BackendView, ExplainView, NextHop, Origin, verdict_name},
};

/// A packet that opens a connection, or a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Who sends.
    pub source: SocketAddr,
    /// Whereto.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A packet could not be tried out.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// Source and destination are of two families.
    #[error("{source_address} and {destination} are not of one address family")]
    Families {
        /// Who sends.
        source_address: IpAddr,
        /// Whereto.
        destination: IpAddr,
    },
    /// Only TCP and UDP have services.
    #[error("only TCP and UDP can be tried out, not {0}")]
    Protocol(Protocol),
    /// The program is not loaded.
    #[error("program {name} of this node is not loaded: did its agent ever run?")]
    NotLoaded {
        /// Its name.
        name: &'static str,
    },
    /// The interface is of another network namespace.
    #[error(
        "interface {ifindex} is not in this network namespace: programs run in their node's own, so ask its agent, or \
         run this command in there (ip netns exec)"
    )]
    Namespace {
        /// Its index.
        ifindex: u32,
    },
    /// The kernel refused the run.
    #[error("the kernel refused to run {name}")]
    Run {
        /// The program.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The lock could not be had.
    #[error("cannot lock {path}")]
    Lock {
        /// The directory of the link pins.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Maps could not be used.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// Which program sees the packet, and on which interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    origin: Origin,
    program: Option<&'static str>,
    ifindex: u32,
}

/// What the program left.
struct Ran {
    explanation: Explanation,
    frame: Vec<u8>,
}

/// Tries a packet out on a node. The calling thread must be in the node's network namespace.
pub fn explain(maps: &mut PinnedMaps, probe: &Probe) -> Result<ExplainView, DryRunError> {
    if probe.source.is_ipv4() != probe.destination.is_ipv4() {
        return Err(DryRunError::Families {
            source_address: probe.source.ip(),
            destination: probe.destination.ip(),
        });
    }
    if ![Protocol::TCP, Protocol::UDP].contains(&probe.protocol) {
        return Err(DryRunError::Protocol(probe.protocol));
    }
    let _lock = lock(maps)?;
    let entry = entry(maps, probe)?;
    let ran = match entry.program {
        Some(name) => run(maps, name, entry, probe)?,
        None => None,
    };
    Ok(view(maps, probe, entry, ran)?)
}

fn lock(maps: &PinnedMaps) -> Result<Option<File>, DryRunError> {
    let path = pins::links_dir(&maps.dir);
    sys::lock(&path, true).map_err(|source| DryRunError::Lock { path, source })
}

fn entry(maps: &PinnedMaps, probe: &Probe) -> Result<Entry, MapsError> {
    let node = maps.node.get()?;
    let source = Address::from_ip(probe.source.ip());
    if let Some(pod) = maps.pods.get(&source)? {
        return Ok(Entry {
            origin: Origin::Pod,
            program: Some("cw_from_pod"),
            ifindex: pod.ifindex,
        });
    }
    if node.is_own(&source) || probe.source.ip().is_loopback() {
        let is_remote = route(maps, probe.destination.ip())?.is_some();
        return Ok(Entry {
            origin: Origin::Node,
            program: (is_remote && node.tunnel_ifindex != 0).then_some("cw_to_tunnel"),
            ifindex: node.tunnel_ifindex,
        });
    }
    if route(maps, probe.source.ip())?.is_some() && node.tunnel_ifindex != 0 {
        return Ok(Entry {
            origin: Origin::OtherNode,
            program: Some("cw_from_tunnel"),
            ifindex: node.tunnel_ifindex,
        });
    }
    Ok(Entry {
        origin: Origin::World,
        program: (node.uplink_ifindex != 0).then_some(FROM_UPLINK),
        ifindex: node.uplink_ifindex,
    })
}

/// Attached only where a node takes packets for services from outside.
const FROM_UPLINK: &str = "cw_from_uplink";

fn route(maps: &PinnedMaps, ip: IpAddr) -> Result<Option<causeway_abi::route::Route>, MapsError> {
    maps.routes.get(&RouteKey {
        prefix_len: 128,
        address: Address::from_ip(ip),
    })
}

/// Runs the program; `None` when a program that need not be there is not.
fn run(maps: &mut PinnedMaps, name: &'static str, entry: Entry, probe: &Probe) -> Result<Option<Ran>, DryRunError> {
    /// Bytes of `struct __sk_buff` (`include/uapi/linux/bpf.h`), and the places of two of its members.
    const CONTEXT: usize = 192;
    const MARK: usize = 8;
    const IFINDEX: usize = 40;
    let Some(program) = newest(maps, name)? else {
        return match entry.origin {
            Origin::World => Ok(None),
            _ => Err(DryRunError::NotLoaded { name }),
        };
    };
    let refused = |source| DryRunError::Run {
        name,
        source: Box::new(source),
    };
    let program = SchedClassifier::from_program_info(program, name.into()).map_err(refused)?;
    let frame = frame(probe);
    let (mut context, mut context_out) = ([0; CONTEXT], [0; CONTEXT]);
    context[MARK..MARK + 4].copy_from_slice(&MARK_DRY_RUN.to_ne_bytes());
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&entry.ifindex.to_ne_bytes());
    let mut out = vec![0; 2048];
    maps.explanation.set(&Explanation {
        backend: NO_BACKEND,
        ..Explanation::default()
    })?;
    let result = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ctx_out: Some(&mut context_out),
        ..TestRunOptions::default()
    });
    let result = result.map_err(|source| match errno(&source) {
        Some(libc::ENODEV) => DryRunError::Namespace { ifindex: entry.ifindex },
        _ => refused(source),
    })?;
    out.truncate((result.data_size_out as usize).min(out.len()));
    Ok(Some(Ran {
        explanation: maps.explanation.get()?,
        frame: out,
    }))
}

/// The program of that name that reads this node's maps; the one loaded last, should an older one not be gone yet.
fn newest(maps: &PinnedMaps, name: &str) -> Result<Option<ProgramInfo>, MapsError> {
    let of_node = view::of_node(maps)?;
    let named = of_node.into_iter().filter(|info| info.name_as_str() == Some(name));
    Ok(named.max_by_key(ProgramInfo::id))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn view(maps: &PinnedMaps, probe: &Probe, entry: Entry, ran: Option<Ran>) -> Result<ExplainView, MapsError> {
    let key = ServiceKey {
        address: Address::from_ip(probe.destination.ip()),
        port_be: probe.destination.port().to_be(),
        protocol: probe.protocol.0,
        scope: if entry.origin == Origin::World {
            SCOPE_NODE
        } else {
            SCOPE_CLUSTER
        },
    };
    let base = maps.services.get(&key)?.map_or(0, |service| service.slot_base);
    let mut view = ExplainView {
        protocol: probe.protocol.to_string(),
        source: probe.source.to_string(),
        destination: probe.destination.to_string(),
        origin: entry.origin,
        program: ran.is_some().then_some(entry.program).flatten().map(str::to_owned),
        xdp: entry.origin == Origin::World && view::has_xdp(maps, entry.ifindex)?,
        service: view::service_at(maps, &key)?,
        choice: None,
        hash: None,
        first_slot: None,
        skipped_slots: 0,
        backend: None,
        verdict: Verdict::ToStack.name().to_owned(),
        reason: String::new(),
        translated_source: None,
        translated_destination: None,
        next_hop: NextHop::Stack,
    };
    let Some(Ran { explanation, frame }) = ran else {
        return Ok(view);
    };
    let choice = choice(explanation.choice);
    view.choice = choice.map(|(_, name)| name.to_owned());
    if let Some((Choice::Maglev | Choice::ClientHash, _)) = choice {
        view.hash = Some(explanation.hash);
        view.first_slot = Some(explanation.first_slot.saturating_sub(base));
        view.skipped_slots = explanation.skipped;
    }
    let backend = maps.backends.read(explanation.backend);
    view.backend = backend
        .filter(|_| explanation.backend != NO_BACKEND)
        .map(|backend| BackendView::new(explanation.backend, &backend));
    verdict_name(explanation.verdict).clone_into(&mut view.verdict);
    if let Some(reason) = reason_by_number(explanation.reason) {
        reason.name().clone_into(&mut view.reason);
    }
    let verdict = Verdict::ALL
        .into_iter()
        .find(|verdict| *verdict as u32 == explanation.verdict);
    let mut destination = probe.destination;
    if view.reason.is_empty()
        && let Some((source, now)) = ends(&frame)
    {
        view.translated_source = (source != probe.source).then(|| source.to_string());
        view.translated_destination = (now != destination).then(|| now.to_string());
        destination = now;
    }
    view.next_hop = match verdict {
        Some(Verdict::ToPod) => NextHop::Pod {
            address: destination.ip().to_string(),
            ifindex: maps
                .pods
                .get(&Address::from_ip(destination.ip()))?
                .map_or(0, |pod| pod.ifindex),
        },
        Some(Verdict::ToNode) => match (backend, route(maps, destination.ip())?) {
            (Some(backend), None) if backend.node_v4_be != 0 && destination == probe.destination => NextHop::Node {
                address: Ipv4Addr::from(backend.node_v4_be.to_ne_bytes()).to_string(),
                tunnel_id: maps.node.get()?.tunnel_id,
                direct: true,
            },
            (_, Some(route)) => NextHop::Node {
                address: route.node.to_ip().to_string(),
                tunnel_id: if route.mode == MODE_VXLAN { route.tunnel_id } else { 0 },
                direct: false,
            },
            (_, None) => NextHop::None,
        },
        Some(Verdict::ToStack) => NextHop::Stack,
        Some(Verdict::ToNetwork) => NextHop::Network,
        _ => NextHop::None,
    };
    Ok(view)
}

fn choice(number: u32) -> Option<(Choice, &'static str)> {
    [
        (Choice::Conntrack, "conntrack"),
        (Choice::Maglev, "maglev"),
        (Choice::ClientHash, "clientHash"),
        (Choice::Affinity, "affinity"),
        (Choice::Reply, "reply"),
    ]
    .into_iter()
    .find(|(choice, _)| *choice as u32 == number)
}

const ETHERNET: usize = 14;
const TCP_SYN: u8 = 1 << 1;

/// An Ethernet frame: a TCP segment that opens a connection, or a datagram of one byte.
fn frame(probe: &Probe) -> Vec<u8> {
    let transport = transport(probe);
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    let length = transport.len() as u16;
    match (probe.source.ip(), probe.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(0x0800_u16.to_be_bytes());
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            // Do not fragment (RFC 791, 3.1).
            header[6] = 0x40;
            header[8] = 64;
            header[9] = probe.protocol.0;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (source, destination) => {
            frame.extend(0x86dd_u16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([probe.protocol.0, 64]);
            frame.extend(Address::from_ip(source).bytes);
            frame.extend(Address::from_ip(destination).bytes);
        }
    }
    frame.extend(transport);
    frame
}

/// The TCP or UDP part with its checksum over the pseudo-header (RFC 9293, 3.1; RFC 768; RFC 8200, 8.1).
fn transport(probe: &Probe) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(probe.source.port().to_be_bytes());
    bytes.extend(probe.destination.port().to_be_bytes());
    let checksum_at = if probe.protocol == Protocol::TCP {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, TCP_SYN, 0xff, 0xff, 0, 0, 0, 0]);
        16
    } else {
        bytes.extend([0, 9, 0, 0, b'?']);
        6
    };
    let pseudo = match (probe.source.ip(), probe.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [source.octets(), destination.octets()].concat(),
        (source, destination) => [Address::from_ip(source).bytes, Address::from_ip(destination).bytes].concat(),
    };
    let length = (bytes.len() as u16).to_be_bytes();
    let sum = checksum(&[&pseudo, &[0, probe.protocol.0], &length, &bytes]);
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Source and destination of a frame as [`frame`] makes them.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = frame.get(ETHERNET..)?;
    let (source, destination, transport) = match packet.first()? >> 4 {
        4 => {
            let ip = |at: usize| -> Option<IpAddr> { Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?)) };
            (ip(12)?, ip(16)?, 20)
        }
        6 => {
            let ip = |at: usize| -> Option<IpAddr> { Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?)) };
            (ip(8)?, ip(24)?, 40)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk::<2>()?));
    Some((
        SocketAddr::new(source, port(transport)?),
        SocketAddr::new(destination, port(transport + 2)?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(source: &str, destination: &str, protocol: Protocol) -> Probe {
        Probe {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
        }
    }

    #[test]
    fn frames_hold_what_was_asked_for_with_right_checksums() {
        for (probe, header) in [
            (probe("10.244.1.5:40000", "10.96.0.1:80", Protocol::TCP), 20),
            (probe("10.244.1.5:40000", "10.96.0.1:53", Protocol::UDP), 20),
            (probe("[fd00::5]:40000", "[fd00::1]:80", Protocol::TCP), 40),
        ] {
            let frame = frame(&probe);
            assert_eq!(ends(&frame), Some((probe.source, probe.destination)));
            let packet = &frame[ETHERNET..];
            if header == 20 {
                assert_eq!(checksum(&[&packet[..20]]), 0, "header of {probe:?}");
            }
            let (addresses, transport) = (
                &packet[header - if header == 20 { 8 } else { 32 }..header],
                &packet[header..],
            );
            let length = (transport.len() as u16).to_be_bytes();
            let sum = checksum(&[addresses, &[0, probe.protocol.0], &length, transport]);
            assert_eq!(sum, 0, "{probe:?}");
        }
    }
}
