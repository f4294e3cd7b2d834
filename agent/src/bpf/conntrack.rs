//! Collects flows that are over.
//!
//! The programs treat an expired flow as absent but leave it in `CONNTRACK`, where nothing pushes it out; here it is
//! removed, both halves together. `CONNTRACK_NEW` needs no collection: it makes room for itself.

use std::{collections::HashMap, path::Path, time::Duration};

use causeway_abi::conntrack::{DIRECTION_FORWARD, DIRECTION_REPLY, Flow, FlowKey, timeout_seconds};
use causeway_maps::{MapsError, PinnedMaps, Table};
use nix::time::{ClockId, clock_gettime};

/// Removes flows that are over. It has map handles of its own, so that a long pass holds nobody up.
pub struct FlowCollector {
    flows: Table<FlowKey, Flow>,
}

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Elements removed; a flow has two.
    pub removed: usize,
    /// Elements left.
    pub left: usize,
}

impl FlowCollector {
    /// Opens the table pinned below a node's directory.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let flows = PinnedMaps::open(pin_dir)?.conntrack;
        Ok(Self { flows })
    }

    /// Removes what has been silent for too long at `now`, a time since the kernel's start ([`monotonic_now`]).
    pub fn collect(&mut self, now: Duration) -> Result<Collected, MapsError> {
        let entries = self.flows.entries()?;
        let over = silent(&entries, now);
        let mut collected = Collected {
            removed: 0,
            left: entries.len(),
        };
        for key in over {
            if self.flows.remove(&key)? {
                collected.removed += 1;
            }
        }
        collected.left -= collected.removed;
        Ok(collected)
    }
}

/// The kernel's monotonic time, which the programs stamp flows with.
pub fn monotonic_now() -> Result<Duration, nix::Error> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from)
}

/// Keys of the flows that are over, both halves of each: a flow lives as long as either side speaks, and closes when
/// either side has closed it.
fn silent(entries: &[(FlowKey, Flow)], now: Duration) -> Vec<FlowKey> {
    let by_key: HashMap<&FlowKey, &Flow> = entries.iter().map(|(key, flow)| (key, flow)).collect();
    let is_over = |(key, flow): &&(FlowKey, Flow)| {
        let other = by_key.get(&other_half(key, flow));
        let last_seen = other.map_or(flow.last_seen_ns, |other| other.last_seen_ns.max(flow.last_seen_ns));
        let timeout = other.map_or(timeout(key, flow), |other| timeout(key, other).min(timeout(key, flow)));
        now.saturating_sub(Duration::from_nanos(last_seen)) > timeout
    };
    entries.iter().filter(is_over).map(|(key, _)| *key).collect()
}

fn timeout(key: &FlowKey, flow: &Flow) -> Duration {
    Duration::from_secs(timeout_seconds(key.protocol, flow.tcp_state))
}

/// The key of a flow's half in the other direction; every value describes both ends.
fn other_half(key: &FlowKey, flow: &Flow) -> FlowKey {
    if key.direction == DIRECTION_FORWARD {
        FlowKey {
            source: flow.backend_address,
            destination: flow.translated_client,
            source_port_be: flow.backend_port_be,
            destination_port_be: flow.translated_client_port_be,
            direction: DIRECTION_REPLY,
            ..*key
        }
    } else {
        FlowKey {
            source: flow.client,
            destination: flow.vip,
            source_port_be: flow.client_port_be,
            destination_port_be: flow.vip_port_be,
            direction: DIRECTION_FORWARD,
            ..*key
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_abi::{
        Address,
        conntrack::{TCP_CLOSING, TCP_ESTABLISHED, TCP_SYN_SENT},
    };

    use super::*;

    const TCP: u8 = 6;

    /// Both halves of an established TCP flow; each last seen at the given second.
    fn pair(client_port: u16, forward_seen: u64, reply_seen: u64) -> [(FlowKey, Flow); 2] {
        let flow = Flow {
            last_seen_ns: forward_seen * 1_000_000_000,
            backend: 1,
            generation: 1,
            vip: Address::from_v4([10, 96, 0, 1]),
            vip_port_be: 80u16.to_be(),
            tcp_state: TCP_ESTABLISHED,
            reserved: 0,
            service_id: 1,
            client: Address::from_v4([10, 244, 0, 2]),
            translated_client: Address::from_v4([10, 244, 0, 2]),
            backend_address: Address::from_v4([10, 244, 0, 3]),
            client_port_be: client_port.to_be(),
            translated_client_port_be: (client_port + 20_000).to_be(),
            backend_port_be: 8080u16.to_be(),
            reserved2: 0,
        };
        let forward = FlowKey {
            source: flow.client,
            destination: flow.vip,
            source_port_be: flow.client_port_be,
            destination_port_be: flow.vip_port_be,
            protocol: TCP,
            direction: DIRECTION_FORWARD,
            reserved: 0,
        };
        let reply = Flow {
            last_seen_ns: reply_seen * 1_000_000_000,
            ..flow
        };
        [(forward, flow), (other_half(&forward, &flow), reply)]
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_half_leads_to_the_other() {
        let [(forward, flow), (reply, _)] = pair(40_000, 1, 1);
        assert_eq!(other_half(&reply, &flow), forward);
    }

    #[test]
    fn a_flow_lives_as_long_as_either_side_speaks() {
        let flow = pair(40_000, 100, 9_000);
        assert_eq!(silent(&flow, at(9_000 + 8_000)), []);
        assert_eq!(
            silent(&flow, at(9_000 + 8_001)),
            [flow[0].0, flow[1].0],
            "and goes whole"
        );
    }

    #[test]
    fn a_flow_that_one_side_closed_goes_early_and_whole() {
        let mut flow = pair(40_000, 100, 100);
        flow[1].1.tcp_state = TCP_CLOSING;
        assert_eq!(silent(&flow, at(160)), []);
        assert_eq!(silent(&flow, at(161)), [flow[0].0, flow[1].0]);
    }

    #[test]
    fn a_half_without_the_other_is_judged_by_itself() {
        let [(key, mut flow), _] = pair(40_000, 100, 100);
        flow.tcp_state = TCP_SYN_SENT;
        assert_eq!(silent(&[(key, flow)], at(160)), []);
        assert_eq!(silent(&[(key, flow)], at(161)), [key]);
    }

    #[test]
    fn other_flows_are_left_alone() {
        let (old, new) = (pair(40_000, 1, 1), pair(40_001, 9_000, 9_000));
        assert_eq!(
            silent(&[old[0], new[0], old[1], new[1]], at(9_001)),
            [old[0].0, old[1].0]
        );
    }

    #[test]
    fn a_clock_behind_the_stamps_ends_nothing() {
        assert_eq!(silent(&pair(40_000, 100, 100), at(1)), []);
    }
}
