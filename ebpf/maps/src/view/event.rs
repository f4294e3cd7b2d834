//! `EVENTS` in words.

use causeway_abi::event::{Event, Hook, Verdict};
use serde::{Deserialize, Serialize};

use super::{ServiceNames, endpoint_matches, service_matches};
use crate::{PinnedMaps, Protocol, address, reason_by_number};

/// What happened to a packet or connect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub time_unix_ns: u64,
    /// Where: "connect", "from-pod", …
    pub hook: String,
    /// What became of it: "to-pod", "drop", …
    pub verdict: String,
    /// Name of the drop reason; empty for none.
    pub reason: String,
    /// "TCP", "UDP", …
    pub protocol: String,
    /// "address:port" it came from; empty for connects, which have no source yet.
    pub source: String,
    /// "address:port" it was sent to.
    pub destination: String,
    /// Source as it went on, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_source: Option<String>,
    /// Destination as it went on, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated_destination: Option<String>,
    /// "namespace/name:port"; empty for none.
    pub service: String,
    /// Whether it is an answer of a backend, instead of something to a service.
    #[serde(default)]
    pub is_reply: bool,
    /// Bytes of the frame; 0 for connects.
    pub length: u32,
    /// Index of the interface in the node's namespace; 0 for connects.
    pub ifindex: u32,
    /// TCP flags such as "SYN|ACK".
    pub tcp_flags: String,
}

/// Which events to tell of; lists that are empty match all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EventFilter {
    /// Addresses, with or without port, at either end.
    pub addresses: Vec<String>,
    /// "namespace/name", with or without port.
    pub services: Vec<String>,
    /// Names of verdicts.
    pub verdicts: Vec<String>,
    /// Names of hooks.
    pub hooks: Vec<String>,
}

impl EventFilter {
    /// Whether an event is to be told.
    pub fn matches(&self, event: &EventView) -> bool {
        let ends = [
            Some(&event.source),
            Some(&event.destination),
            event.translated_source.as_ref(),
            event.translated_destination.as_ref(),
        ];
        let any = |list: &[String], matches: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|wanted| matches(wanted))
        };
        any(&self.addresses, &|wanted| {
            ends.iter().flatten().any(|end| endpoint_matches(end, wanted))
        }) && any(&self.services, &|wanted| service_matches(&event.service, wanted))
            && any(&self.verdicts, &|wanted| event.verdict == wanted)
            && any(&self.hooks, &|wanted| event.hook == wanted)
    }
}

impl EventView {
    /// An event in words. `unix_minus_monotonic_ns` turns the kernel's time into that of the calendar.
    pub fn new(event: &Event, maps: &PinnedMaps, names: &mut ServiceNames, unix_minus_monotonic_ns: u64) -> Self {
        let end = |address: causeway_abi::Address, port_be| {
            if address.words() == [0; 4] {
                String::new()
            } else {
                address::socket(address, port_be).to_string()
            }
        };
        let source = end(event.source, event.source_port_be);
        let destination = end(event.destination, event.destination_port_be);
        let translated_source = end(event.translated_source, event.translated_source_port_be);
        let translated_destination = end(event.translated_destination, event.translated_destination_port_be);
        Self {
            time_unix_ns: event.time_ns.saturating_add(unix_minus_monotonic_ns),
            hook: hook_name(event.hook).to_owned(),
            verdict: verdict_name(event.verdict.into()).to_owned(),
            reason: reason_by_number(event.reason)
                .map_or("", |reason| reason.name())
                .to_owned(),
            protocol: Protocol(event.protocol).to_string(),
            translated_source: (translated_source != source && !translated_source.is_empty())
                .then_some(translated_source),
            translated_destination: (translated_destination != destination && !translated_destination.is_empty())
                .then_some(translated_destination),
            source,
            destination,
            service: match event.service_id {
                0 => String::new(),
                id => names.of(maps, id),
            },
            is_reply: maps.backends.read(event.backend).is_some_and(|backend| {
                event.service_id != 0 && backend.address == event.source && backend.port_be == event.source_port_be
            }),
            length: event.length,
            ifindex: event.ifindex,
            tcp_flags: tcp_flags(event.tcp_flags),
        }
    }
}

fn hook_name(number: u8) -> &'static str {
    let known = Hook::ALL.into_iter().find(|hook| *hook as u8 == number);
    known.map_or("unknown", |hook| hook.name())
}

pub(crate) fn verdict_name(number: u32) -> &'static str {
    let known = Verdict::ALL.into_iter().find(|verdict| *verdict as u32 == number);
    known.map_or("unknown", |verdict| verdict.name())
}

/// RFC 9293, 3.1.
fn tcp_flags(bits: u8) -> String {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = NAMES.iter().enumerate().filter(|(bit, _)| bits & 1 << bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventView {
        EventView {
            time_unix_ns: 0,
            hook: "from-pod".into(),
            verdict: "to-node".into(),
            reason: String::new(),
            protocol: "TCP".into(),
            source: "10.244.1.5:40000".into(),
            destination: "10.96.0.1:80".into(),
            translated_source: None,
            translated_destination: Some("10.244.2.7:8080".into()),
            service: "default/web:http".into(),
            is_reply: false,
            length: 74,
            ifindex: 5,
            tcp_flags: tcp_flags(0x12),
        }
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(event().tcp_flags, "SYN|ACK");
    }

    #[test]
    fn filters_look_at_both_ends_and_the_service() {
        let one = |change: &dyn Fn(&mut EventFilter)| {
            let mut filter = EventFilter::default();
            change(&mut filter);
            filter.matches(&event())
        };
        assert!(one(&|_| {}));
        assert!(one(&|f| f.addresses = vec!["10.244.2.7".into()]));
        assert!(one(&|f| f.addresses = vec!["10.244.9.9".into(), "10.244.1.5".into()]));
        assert!(!one(&|f| f.addresses = vec!["10.244.1.50".into()]));
        assert!(one(&|f| f.services = vec!["default/web".into()]));
        assert!(!one(&|f| f.verdicts = vec!["drop".into()]));
        assert!(!one(&|f| {
            f.services = vec!["default/web".into()];
            f.hooks = vec!["connect".into()];
        }));
    }
}
