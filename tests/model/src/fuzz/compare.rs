//! Where the programs did otherwise than the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use causeway_abi::affinity::AffinityKey;
use causeway_abi::conntrack::{DIRECTION_FORWARD, DIRECTION_REPLY, Flow as FlowValue, FlowKey};
use causeway_abi::counter::ServiceCounters;
use causeway_abi::fragment::FragmentKey;
use causeway_abi::service::NO_BACKEND;

use super::craft;
use super::kernel::{Kernel, SERVICES};
use super::run::counters;
use super::world::{mapped, socket, unmapped};
use crate::model::flows::{Flow, State, Tuple};
use crate::model::tables::Tables;
use crate::model::{Expected, Fate, Seen, Told};

/// Stamps may differ by this: the programs write them once a second at most, and a sequence takes a while.
const TOLERANCE: Duration = Duration::from_millis(1_500);

/// What was counted before a sequence.
#[derive(Clone, Debug)]
pub struct Baseline {
    drops: BTreeMap<u32, (u64, u64)>,
    counters: BTreeMap<u32, ServiceCounters>,
}

impl Baseline {
    /// What is counted now.
    pub fn of(kernel: &Kernel) -> Result<Self> {
        Ok(Self {
            drops: kernel.drops()?,
            counters: kernel.counters(1..=SERVICES)?,
        })
    }
}

/// What is different about a packet.
pub fn packet(expected: &Expected, seen: &Seen, watched: bool) -> Vec<String> {
    let mut details = expected.complaints.clone();
    if expected.fate != seen.fate {
        let reason = expected.reason.map_or("", causeway_abi::DropReason::name);
        details.push(format!(
            "fate: the model says {:?} ({:?} {reason}), the program did {:?}{}",
            expected.fate,
            expected.verdict,
            seen.fate,
            seen.told.map_or(String::new(), |told| format!(" ({told:?})"))
        ));
        return details;
    }
    if watched {
        let told = expected.is_told.then_some(Told {
            verdict: expected.verdict as u8,
            reason: expected.reason.map_or(0, |reason| reason as u32),
            service: expected.service,
            backend: expected.backend,
        });
        if told != seen.told {
            details.push(format!(
                "told: the model says {told:?}, watchers were told {:?}",
                seen.told
            ));
        }
    }
    // Of a dropped packet nothing is left.
    if seen.fate != Fate::Drop {
        if expected.mark != seen.mark {
            details.push(format!(
                "mark: the model says {:#x}, the program set {:#x}",
                expected.mark, seen.mark
            ));
        }
        frames(expected, seen, &mut details);
    }
    details
}

fn frames(expected: &Expected, seen: &Seen, details: &mut Vec<String>) {
    let mut frame = expected.frame.clone();
    for sum in &expected.sums {
        if let (Some(field), Some(made)) = (frame.get_mut(sum.at..sum.at + 2), seen.frame.get(sum.at..sum.at + 2)) {
            field.copy_from_slice(made);
        }
    }
    if frame != seen.frame {
        let at = frame
            .iter()
            .zip(&seen.frame)
            .take_while(|(one, other)| one == other)
            .count();
        details.push(format!(
            "bytes: from byte {at} on\n  model:   {}\n           {}\n  program: {}\n           {}",
            craft::words(&frame),
            hex(&frame),
            craft::words(&seen.frame),
            hex(&seen.frame)
        ));
        return;
    }
    for sum in &expected.sums {
        if !sum.is_kept(&seen.frame) {
            details.push(format!("checksum: the one at byte {} of {}", sum.at, hex(&seen.frame)));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(160).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    if bytes.len() > 160 { shown + "…" } else { shown }
}

/// What is different about what is remembered and counted.
pub fn tables(tables: &Tables, kernel: &Kernel, baseline: &Baseline, begun: Duration) -> Result<Vec<String>> {
    let mut details = Vec::new();
    let clock = Clock {
        begun,
        passed: tables.now,
    };
    flows(tables, kernel, clock, &mut details)?;
    fragments(tables, kernel, clock, &mut details)?;
    affinity(tables, kernel, clock, &mut details)?;
    let now = Baseline::of(kernel)?;
    for (reason, (packets, bytes)) in &now.drops {
        let before = baseline.drops.get(reason).copied().unwrap_or_default();
        let program = (packets - before.0, bytes - before.1);
        let model = tables.drops.get(reason).copied().unwrap_or_default();
        if program != model {
            details.push(format!(
                "drops: for reason {reason} the model says {model:?} packets and bytes, the program counted {program:?}"
            ));
        }
    }
    for (id, after) in &now.counters {
        let before = baseline.counters[id];
        let program = ServiceCounters {
            connections: after.connections - before.connections,
            packets: after.packets - before.packets,
            bytes: after.bytes - before.bytes,
            drops: after.drops - before.drops,
        };
        let model = counters(&tables.counts.get(id).copied().unwrap_or_default());
        if program != model {
            details.push(format!(
                "counters: for service {id} the model says {model:?}, the program counted {program:?}"
            ));
        }
    }
    Ok(details)
}

/// From stamps to the time since a sequence began.
#[derive(Clone, Copy)]
struct Clock {
    begun: Duration,
    passed: Duration,
}

impl Clock {
    /// Whether a stamp is of a time, all but for the tolerance.
    fn agrees(self, stamp_ns: u64, time: Duration) -> bool {
        let stamp = Duration::from_nanos(stamp_ns) + self.passed;
        let time = self.begun + time;
        stamp.abs_diff(time) < TOLERANCE
    }

    fn read(self, stamp_ns: u64) -> String {
        let stamp = Duration::from_nanos(stamp_ns) + self.passed;
        format!("{:.1} s", stamp.as_secs_f64() - self.begun.as_secs_f64())
    }
}

/// One direction of a flow, without its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Half {
    settled: bool,
    state: u8,
    service: u32,
    backend: (u32, u32),
    client: SocketAddr,
    vip: SocketAddr,
    shown: SocketAddr,
    answerer: SocketAddr,
}

fn flows(tables: &Tables, kernel: &Kernel, clock: Clock, details: &mut Vec<String>) -> Result<()> {
    let mut programs: BTreeMap<(Tuple, u8, bool), (Half, u64)> = BTreeMap::new();
    for (settled, table) in [(true, &kernel.flows), (false, &kernel.new_flows)] {
        let (keys, values) = table.all()?;
        for (key, value) in keys.iter().zip(&values) {
            programs.insert(
                (tuple(key), key.direction, settled),
                (half(value, settled), value.last_seen_ns),
            );
        }
    }
    for flow in tables.flows.iter() {
        let sides = [
            (flow.forward(), DIRECTION_FORWARD, 0),
            (flow.reply(), DIRECTION_REPLY, 1),
        ];
        for (tuple, direction, side) in sides {
            let expected = half_of(flow, side);
            let heard = flow.halves[side].heard;
            match programs.remove(&(tuple, direction, flow.settled)) {
                Some((found, stamp)) if found == expected && clock.agrees(stamp, heard) => {}
                Some((found, stamp)) => details.push(format!(
                    "flow: {}\n  model:   {expected:?} heard at {heard:?}\n  program: {found:?} heard at {}",
                    show(&tuple, direction),
                    clock.read(stamp)
                )),
                None => details.push(format!(
                    "flow: {} is missing in the table: {expected:?}",
                    show(&tuple, direction)
                )),
            }
        }
    }
    for ((tuple, direction, _), (found, stamp)) in programs {
        details.push(format!(
            "flow: {} is in the table and should not be: {found:?} heard at {}",
            show(&tuple, direction),
            clock.read(stamp)
        ));
    }
    Ok(())
}

fn show(tuple: &Tuple, direction: u8) -> String {
    let direction = if direction == DIRECTION_FORWARD {
        "client"
    } else {
        "backend"
    };
    format!(
        "{} > {} ({}) of the {direction}",
        tuple.source, tuple.destination, tuple.protocol
    )
}

fn tuple(key: &FlowKey) -> Tuple {
    Tuple {
        protocol: key.protocol,
        source: socket(key.source, key.source_port_be),
        destination: socket(key.destination, key.destination_port_be),
    }
}

fn half(value: &FlowValue, settled: bool) -> Half {
    Half {
        settled,
        state: value.tcp_state,
        service: value.service_id,
        backend: (value.backend, value.generation),
        client: socket(value.client, value.client_port_be),
        vip: socket(value.vip, value.vip_port_be),
        shown: socket(value.translated_client, value.translated_client_port_be),
        answerer: socket(value.backend_address, value.backend_port_be),
    }
}

fn half_of(flow: &Flow, side: usize) -> Half {
    Half {
        settled: flow.settled,
        state: match flow.halves[side].state {
            State::Opening => 0,
            State::Established => 1,
            State::Closing => 2,
            State::Reset => 3,
        },
        service: flow.service,
        backend: flow.backend.unwrap_or((NO_BACKEND, 0)),
        client: flow.client,
        vip: flow.vip,
        shown: flow.shown,
        answerer: flow.answerer,
    }
}

/// The keys of both halves.
pub fn keys(flow: &Flow) -> [FlowKey; 2] {
    [(flow.forward(), DIRECTION_FORWARD), (flow.reply(), DIRECTION_REPLY)].map(|(tuple, direction)| FlowKey {
        source: mapped(tuple.source.ip()),
        destination: mapped(tuple.destination.ip()),
        source_port_be: tuple.source.port().to_be(),
        destination_port_be: tuple.destination.port().to_be(),
        protocol: tuple.protocol,
        direction,
        reserved: 0,
    })
}

type Datagram = (IpAddr, IpAddr, u32, u8);

fn fragments(tables: &Tables, kernel: &Kernel, clock: Clock, details: &mut Vec<String>) -> Result<()> {
    let (keys, values) = kernel.fragments.all()?;
    let mut programs: BTreeMap<Datagram, _> = keys.iter().map(datagram).zip(&values).collect();
    for (key, model) in &tables.fragments {
        let datagram = (key.source, key.destination, key.identification, key.protocol);
        let agrees = programs.remove(&datagram).is_some_and(|value| {
            unmapped(value.source) == model.source
                && unmapped(value.destination) == model.destination
                && (value.service_id, value.backend) == (model.service, model.backend)
                && clock.agrees(value.seen_ns, model.seen)
        });
        if !agrees {
            details.push(format!("fragments: the model says {datagram:?} become {model:?}"));
        }
    }
    for (datagram, value) in programs {
        details.push(format!(
            "fragments: {datagram:?} is in the table and should not be: {value:?}"
        ));
    }
    let (places, held) = kernel.held.all()?;
    let datagrams = held.iter().map(|held| (datagram(&held.datagram), held.length as usize));
    let programs: BTreeMap<u32, (Datagram, usize)> = places.iter().copied().zip(datagrams).collect();
    let held = tables.held.iter();
    let model: BTreeMap<u32, (Datagram, usize)> = held
        .map(|(place, held)| {
            let key = &held.datagram;
            let datagram = (key.source, key.destination, key.identification, key.protocol);
            (*place, (datagram, held.length))
        })
        .collect();
    if programs != model {
        details.push(format!("held: the model keeps {model:?}, the program {programs:?}"));
    }
    Ok(())
}

fn datagram(key: &FragmentKey) -> Datagram {
    (
        unmapped(key.source),
        unmapped(key.destination),
        key.identification_be,
        key.protocol,
    )
}

fn affinity(tables: &Tables, kernel: &Kernel, clock: Clock, details: &mut Vec<String>) -> Result<()> {
    let (keys, values) = kernel.affinity.all()?;
    let mut programs: BTreeMap<(IpAddr, u32), _> = keys
        .iter()
        .filter(|key| key.kind == AffinityKey::ADDRESS)
        .map(|key| (unmapped(key.client), key.service_id))
        .zip(&values)
        .collect();
    for (key, model) in &tables.affinity {
        let found = programs.remove(key);
        let agrees = found.is_some_and(|value| {
            (value.backend, value.generation) == (model.backend, model.generation)
                && clock.agrees(value.last_seen_ns, model.seen)
        });
        if !agrees {
            details.push(format!(
                "affinity: of {key:?} the model says {model:?}, the program has {found:?}"
            ));
        }
    }
    let extra: BTreeSet<_> = programs.into_keys().collect();
    if !extra.is_empty() {
        details.push(format!("affinity: {extra:?} are in the table and should not be"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use causeway_abi::event::Verdict;

    use super::*;
    use crate::fuzz::case::{Carries, PacketSpec};
    use crate::fuzz::world;
    use crate::model::tables::{Backend, Scope, Service, Vip};
    use crate::model::{Hook, Model};

    fn model() -> Model {
        let mut tables = world::tables();
        let backend = Backend {
            address: "10.244.1.6:8080".parse().unwrap(),
            ready: true,
            terminating: false,
            generation: 1,
        };
        tables.backends.insert(3, backend);
        let vip = Vip {
            scope: Scope::Cluster,
            protocol: 6,
            address: "10.96.0.10:80".parse().unwrap(),
        };
        let service = Service {
            id: 1,
            table: vec![3; 16],
            previous: Vec::new(),
            changes: 0,
            affinity: None,
            sources: None,
        };
        tables.services.insert(vip, service);
        Model::new(tables)
    }

    fn segment(from: &str, to: &str) -> Vec<u8> {
        craft::packet(&PacketSpec {
            at: Hook::FromPod,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            carries: Carries::Tcp("S".to_owned()),
            payload: 5,
            odd: Vec::new(),
            chosen: None,
            mark: 0,
        })
    }

    /// What the programs make of a segment to the service.
    fn right() -> Seen {
        let mut frame = segment("10.244.1.5:8256", "10.244.1.6:8080");
        frame[..12].copy_from_slice(&[2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, 1]);
        frame[22] -= 1;
        let sum = crate::model::sum::field(&[&frame[14..24], &frame[26..34]]);
        frame[24..26].copy_from_slice(&sum);
        Seen {
            fate: Fate::Redirect,
            frame,
            mark: 0,
            told: Some(Told {
                verdict: Verdict::ToPod as u8,
                reason: 0,
                service: 1,
                backend: 3,
            }),
        }
    }

    fn differences(seen: &Seen) -> Vec<String> {
        let expected = model().expect(Hook::FromPod, &segment("10.244.1.5:40000", "10.96.0.10:80"), 0, seen);
        packet(&expected, seen, true)
    }

    #[test]
    fn what_is_right_is_no_difference() {
        assert_eq!(differences(&right()), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_byte_is_a_difference() {
        for at in 0..right().frame.len() {
            let mut seen = right();
            seen.frame[at] ^= 0x10;
            assert!(!differences(&seen).is_empty(), "byte {at}");
        }
    }

    #[test]
    fn everything_else_that_is_wrong_is_a_difference() {
        let changes: [fn(&mut Seen); 6] = [
            |seen| seen.fate = Fate::Pass,
            |seen| seen.mark = 1,
            |seen| seen.told = None,
            |seen| seen.frame.truncate(40),
            |seen| seen.frame.push(0),
            |seen| seen.told.as_mut().unwrap().service = 2,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut seen = right();
            change(&mut seen);
            assert!(!differences(&seen).is_empty(), "change {number}");
        }
    }
}
