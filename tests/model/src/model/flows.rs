//! Flows that are translated: who talks to whom, and by what addresses each side knows the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::frame::{Packet, flag, protocol};

/// Packets of one direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple {
    /// IP protocol.
    pub protocol: u8,
    /// Source as the packets have it.
    pub source: SocketAddr,
    /// Destination as the packets have it.
    pub destination: SocketAddr,
}

/// Which side of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// Who opened it.
    Client,
    /// Who answers.
    Backend,
}

/// How far one side has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// Only the client was seen.
    Opening,
    /// Both were.
    Established,
    /// This side said goodbye.
    Closing,
    /// Either side ended it at once.
    Reset,
}

impl State {
    /// Whether the side expects to say nothing more.
    pub fn is_closing(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }
}

/// What is known of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Half {
    /// How far it has come.
    pub state: State,
    /// When it was heard last.
    pub heard: Duration,
}

/// A flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// The service's id; 0 for a pod's flow to the network.
    pub service: u32,
    /// The backend's index and generation; `None` for a pod's flow to the network.
    pub backend: Option<(u32, u32)>,
    /// The client.
    pub client: SocketAddr,
    /// What it asked for.
    pub vip: SocketAddr,
    /// The client as the backend sees it.
    pub shown: SocketAddr,
    /// Who answers.
    pub answerer: SocketAddr,
    /// Both sides, client first.
    pub halves: [Half; 2],
    /// Whether another node sent it here, because of a backend of this one.
    pub sent_here: bool,
    /// Whether the client went on after an answer: from then on nothing but time ends the flow.
    pub settled: bool,
}

impl Flow {
    /// What the client's packets look like when they arrive.
    pub fn forward(&self) -> Tuple {
        Tuple {
            protocol: self.protocol,
            source: self.client,
            destination: self.vip,
        }
    }

    /// What the backend's packets look like when they arrive.
    pub fn reply(&self) -> Tuple {
        Tuple {
            protocol: self.protocol,
            source: self.answerer,
            destination: self.shown,
        }
    }

    /// One side.
    pub fn half(&self, side: Side) -> &Half {
        &self.halves[side as usize]
    }

    /// Whether the flow still has a claim to be known: a side spoke lately, by the patience for whichever side has less.
    /// After that the collector may take it at any time.
    pub fn is_live(&self, now: Duration) -> bool {
        let heard = self.halves[0].heard.max(self.halves[1].heard);
        let [client, backend] = self.halves.map(|half| patience(self.protocol, half.state));
        now <= heard + client.min(backend)
    }

    /// Whether packets of one side still belong to it. What is not live any more but was not collected yet goes on for a
    /// side that was heard in its own time.
    pub fn is_known_to(&self, side: Side, now: Duration) -> bool {
        let half = self.half(side);
        self.is_live(now) || now <= half.heard + patience(self.protocol, half.state)
    }

    /// Whether the client may begin another from the same port: it has closed this one, or one side has ended it at once.
    pub fn may_begin_again(&self) -> bool {
        self.half(Side::Client).state.is_closing()
    }

    /// Whether nobody waits for late packets any more.
    pub fn is_reset(&self) -> bool {
        self.half(Side::Client).state == State::Reset
    }

    /// Whether both sides have closed it.
    pub fn is_closed(&self) -> bool {
        self.halves.iter().all(|half| half.state.is_closing())
    }

    /// Hears a packet of one side.
    pub fn hear(&mut self, side: Side, packet: &Packet, now: Duration) {
        let half = &mut self.halves[side as usize];
        half.heard = now;
        if packet.tcp_flags() & flag::RST != 0 {
            self.halves[0].state = State::Reset;
            self.halves[1].state = State::Reset;
        } else if packet.tcp_flags() & flag::FIN != 0 && half.state != State::Reset {
            half.state = State::Closing;
        } else if side == Side::Backend && half.state == State::Opening {
            half.state = State::Established;
        }
        // What was reset needs no shelter, and whoever resets what was never answered must not get one.
        let answered = !matches!(self.halves[1].state, State::Opening | State::Reset);
        if side == Side::Client && !self.settled && answered && !packet.opens() {
            self.settled = true;
            self.halves[1].heard = now;
            if self.halves[0].state == State::Opening {
                self.halves[0].state = State::Established;
            }
        }
    }
}

/// How long a side may be silent. RFC 5382, REQ-5, for TCP (established at least 2 h 4 min; inside a cluster an opening is given up
/// after a minute); RFC 4787, REQ-5, for UDP.
pub fn patience(protocol: u8, state: State) -> Duration {
    Duration::from_secs(match (protocol, state) {
        (protocol::TCP, State::Established) => 8_000,
        (_, State::Established) => 300,
        _ => 60,
    })
}

/// All flows. No two have a tuple in common: that is what keeps them apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flows {
    flows: BTreeMap<Tuple, Flow>,
    replies: BTreeMap<Tuple, Tuple>,
}

impl Flows {
    /// The flow of a client's packets.
    pub fn of_client(&self, tuple: &Tuple) -> Option<&Flow> {
        self.flows.get(tuple)
    }

    /// The flow of a backend's packets.
    pub fn of_backend(&self, tuple: &Tuple) -> Option<&Flow> {
        self.flows.get(self.replies.get(tuple)?)
    }

    /// Changes the flow of a client's packets.
    pub fn change(&mut self, forward: &Tuple) -> Option<&mut Flow> {
        self.flows.get_mut(forward)
    }

    /// Adds a flow; whatever had one of its tuples goes, whole.
    pub fn insert(&mut self, flow: Flow) {
        self.remove(&flow.forward());
        if let Some(forward) = self.replies.get(&flow.reply()).copied() {
            self.remove(&forward);
        }
        self.replies.insert(flow.reply(), flow.forward());
        self.flows.insert(flow.forward(), flow);
    }

    /// Forgets a flow.
    pub fn remove(&mut self, forward: &Tuple) {
        if let Some(flow) = self.flows.remove(forward) {
            self.replies.remove(&flow.reply());
        }
    }

    /// Forgets settled flows that are no longer live, as the collector does.
    pub fn collect(&mut self, now: Duration) {
        let over: Vec<Tuple> = self
            .iter()
            .filter(|flow| flow.settled && !flow.is_live(now))
            .map(Flow::forward)
            .collect();
        for forward in over {
            self.remove(&forward);
        }
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values()
    }
}
