//! Sequences from a seed. The same few addresses and ports come again and again, so that flows collide, end and begin anew.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use causeway_abi::event::MARK_DRY_RUN;

use super::case::{Action, AnswerSpec, BackendSpec, Carries, Case, ErrorSpec, PacketSpec, ServiceSpec, Step, VipSpec};
use super::places::{
    AFFINITIES, ANYWHERE, BACKENDS, CLIENT_PORTS, CLUSTER_VIPS, HOOKS, HOSTS, NODE_VIPS, PODS_ELSEWHERE, TCP_FLAGS,
    WAITS,
};
use super::random::Random;
use super::world::{PODS, ip};
use crate::model::Hook;
use crate::model::frame::protocol;
use crate::model::tables::Scope;

/// Makes sequences.
pub struct Generator {
    random: Random,
}

/// A sequence in the making.
pub(super) struct Draft<'a> {
    /// More of the network's, and tables that keep their size: a smaller one forgets what its places were.
    direct: bool,
    /// Mostly flows of clients in the network that go on, with nothing odd about their packets: what XDP is for.
    pub(super) calm: bool,
    pub(super) random: &'a mut Random,
    steps: Vec<Step>,
    services: Vec<ServiceSpec>,
    affinities: BTreeMap<VipSpec, u32>,
    backends: Vec<BackendSpec>,
    /// Steps that sent a packet.
    sent: Vec<(u32, PacketSpec)>,
}

impl Generator {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
        }
    }

    /// The next sequence.
    pub fn case(&mut self) -> Case {
        let watched = self.random.percent(60);
        let direct = self.random.percent(30);
        let calm = !watched && self.random.percent(50);
        let mute = self.random.percent(15);
        let length = 10 + self.random.below(50);
        let mut draft = Draft {
            direct,
            calm,
            random: &mut self.random,
            steps: Vec::with_capacity(length + 16),
            services: Vec::new(),
            affinities: BTreeMap::new(),
            backends: Vec::new(),
            sent: Vec::new(),
        };
        draft.furnish();
        for _ in 0..length {
            draft.happen();
        }
        Case {
            note: String::new(),
            watched,
            direct,
            mute,
            steps: draft.steps,
        }
    }
}

impl Draft<'_> {
    fn push(&mut self, action: Action) -> u32 {
        let id = self.steps.len() as u32;
        self.steps.push(Step { id, action });
        id
    }

    /// Some backends and services.
    fn furnish(&mut self) {
        let six = self.random.percent(35);
        for index in 0..2 + self.random.below(6) as u32 {
            let address = loop {
                let address: SocketAddr = if self.calm && self.random.percent(60) {
                    socket(self.random.pick(&PODS_ELSEWHERE))
                } else {
                    socket(self.random.pick(&BACKENDS))
                };
                if address.is_ipv6() == six || self.random.percent(10) {
                    break address;
                }
            };
            // Two indexes of one address would make it impossible to tell who was chosen.
            if self.backends.iter().all(|backend| backend.address != address) {
                let spec = BackendSpec {
                    index,
                    address,
                    ready: self.random.percent(85),
                    terminating: self.random.percent(10),
                    generation: 1,
                };
                self.backend(spec);
            }
        }
        for id in 1..=1 + self.random.below(4) as u32 {
            self.new_service(id);
        }
    }

    fn backend(&mut self, spec: BackendSpec) {
        self.backends.retain(|backend| backend.index != spec.index);
        self.backends.push(spec.clone());
        self.push(Action::Backend(spec));
    }

    fn new_service(&mut self, id: u32) {
        let (scope, address) = if self.random.percent(if self.direct || self.calm { 15 } else { 70 }) {
            (Scope::Cluster, self.random.pick(&CLUSTER_VIPS))
        } else {
            (Scope::Node, self.random.pick(&NODE_VIPS))
        };
        let vip = VipSpec {
            scope,
            protocol: self.random.pick(&[protocol::TCP, protocol::UDP]),
            address: socket(address),
        };
        if self
            .services
            .iter()
            .any(|service| service.vip == vip && service.id != id)
        {
            return;
        }
        let mut backends = self.some_backends(vip.address.is_ipv6());
        if self.random.percent(5) {
            backends.clear();
        }
        // An address never gets it again, whatever service has the address: nothing is written down of direct flows from before.
        let affinity = self.random.pick(&AFFINITIES);
        let affinity = *self.affinities.entry(vip).or_insert(affinity);
        let sources = (scope == Scope::Node && self.random.percent(25)).then(|| {
            let mut sources = vec![(ip("192.0.2.7"), 32), (ip("198.51.100.0"), 24), (ip("2001:db8::"), 32)];
            sources.remove(self.random.below(3));
            sources
        });
        let service = ServiceSpec {
            id,
            vip,
            backends,
            slots: if self.direct {
                32
            } else {
                self.random.pick(&[16, 32, 64])
            },
            affinity,
            sources,
        };
        self.services.retain(|other| other.id != id);
        self.services.push(service.clone());
        self.push(Action::Service(service));
    }

    fn happen(&mut self) {
        let what = if self.calm && self.random.percent(70) {
            self.random.below(60)
        } else {
            self.random.below(100)
        };
        match what {
            0..30 => self.ask(),
            30..52 => self.answer(),
            52..60 => self.again(),
            60..67 => self.error(),
            67..73 => self.leave(),
            73..76 if self.direct => self.change_service(),
            73..79 => self.stray(),
            79..86 => self.flip(),
            86..89 => self.replace(),
            89..92 => self.change_service(),
            92..97 => {
                let seconds = self.random.pick(&WAITS);
                self.push(Action::Wait(seconds));
            }
            97 | 98 => {
                if self.random.percent(60) {
                    let seconds = self.random.pick(&[70, 301, 8_001]);
                    self.push(Action::Wait(seconds));
                }
                self.push(Action::Settle);
            }
            _ => {
                self.push(Action::Collect);
            }
        }
    }

    fn send(&mut self, packet: PacketSpec) {
        let id = self.push(Action::Packet(packet.clone()));
        self.sent.push((id, packet));
    }

    /// A client asks for a service.
    fn ask(&mut self) {
        if self.services.is_empty() {
            return self.stray();
        }
        let vip = self.services[self.random.below(self.services.len())].vip;
        let (at, clients): (_, &[&str]) = match vip.scope {
            Scope::Cluster => (Hook::FromPod, &PODS),
            Scope::Node => (Hook::FromUplink, &HOSTS),
        };
        let client = self.one_of(clients, vip.address.is_ipv6());
        let carries = if vip.protocol == protocol::TCP {
            Carries::Tcp(self.tcp_flags())
        } else {
            Carries::Udp
        };
        let from = SocketAddr::new(client, self.random.pick(&CLIENT_PORTS));
        let mut packet = self.packet(at, from, vip.address, carries);
        if at == Hook::FromUplink && self.random.percent(15) {
            // Another node got it and chose one of this node's backends.
            packet.at = Hook::FromTunnel;
            packet.chosen = Some(socket(self.random.pick(&BACKENDS)));
        }
        if packet.odd.is_empty() && self.random.percent(4) {
            packet.mark = MARK_DRY_RUN;
        }
        self.send(packet);
    }

    /// Whoever got a packet answers.
    fn answer(&mut self) {
        let Some((to, packet)) = self.earlier() else {
            return self.ask();
        };
        let flags = match packet.carries {
            Carries::Tcp(_) if self.calm => self.random.pick(&["SA", "SA", "A", "A", "A", "PA", "PA", "FA"]),
            Carries::Tcp(_) => self.random.pick(&["SA", "A", "PA", "FA", "R", "RA"]),
            _ => "",
        };
        let spec = AnswerSpec {
            to,
            flags: flags.to_owned(),
            on_wire: self.random.percent(50),
            payload: self.payload(),
            odd: self.oddities(packet.from.is_ipv6()),
        };
        self.push(Action::Answer(spec));
    }

    /// The same flow goes on.
    fn again(&mut self) {
        let Some((_, mut packet)) = self.earlier() else {
            return self.ask();
        };
        if matches!(packet.carries, Carries::Tcp(_)) {
            packet.carries = Carries::Tcp(self.tcp_flags());
        }
        packet.mark = 0;
        packet.payload = self.payload();
        packet.odd = self.oddities(packet.from.is_ipv6());
        self.send(packet);
    }

    /// Whoever got a packet, or a router, has something against it.
    fn error(&mut self) {
        let Some((about, packet)) = self.earlier() else {
            return self.ask();
        };
        let six = packet.from.is_ipv6();
        let router = self.random.percent(40).then(|| {
            let routers: &[&str] = &["10.244.1.5", "10.244.2.1", "192.0.2.1", "fd00:1::6", "2001:db8::1"];
            self.one_of(routers, six)
        });
        let kinds: &[(u8, u8)] = if six {
            &[(1, 4), (2, 0), (3, 0), (4, 1)]
        } else {
            &[(3, 3), (3, 4), (11, 0), (12, 0), (5, 1)]
        };
        let spec = ErrorSpec {
            about,
            router,
            kind: self.random.pick(kinds),
            quotes: self.random.pick(&[28, 28, 48, 64, 200, 576, 20]),
            odd: if self.random.percent(10) {
                self.oddities(six)
            } else {
                Vec::new()
            },
        };
        self.push(Action::Error(spec));
    }

    /// A pod talks to the world.
    fn leave(&mut self) {
        let six = self.random.percent(15);
        let from = SocketAddr::new(self.one_of(&PODS, six), self.random.pick(&CLIENT_PORTS));
        let host = self.one_of(&HOSTS, six);
        let carries = match self.random.below(10) {
            0..4 => Carries::Tcp(self.random.pick(&TCP_FLAGS).to_owned()),
            4..7 => Carries::Udp,
            7..9 => Carries::Echo,
            _ => Carries::Other(47),
        };
        let to = SocketAddr::new(host, if carries == Carries::Echo { 0 } else { 443 });
        let at = if self.random.percent(80) {
            Hook::ToUplink
        } else {
            Hook::FromPod
        };
        let packet = self.packet(at, from, to, carries);
        self.send(packet);
    }

    /// Anything from anywhere to anywhere.
    fn stray(&mut self) {
        let six = self.random.percent(30);
        let from = SocketAddr::new(self.one_of(&ANYWHERE, six), self.random.pick(&CLIENT_PORTS));
        let port = self.random.pick(&[80, 8080, 30_080, 8472, 10_000, 64_712]);
        let to = SocketAddr::new(self.one_of(&ANYWHERE, six), port);
        let carries = match self.random.below(10) {
            0..3 => Carries::Tcp(self.random.pick(&TCP_FLAGS).to_owned()),
            3..6 => Carries::Udp,
            6 => Carries::Echo,
            7 => Carries::EchoReply,
            8 => Carries::Other(self.random.pick(&[0, 47, 50, 59, 132, 1, 58])),
            _ => Carries::Other(132),
        };
        let at = self.random.pick(&HOOKS);
        let mut packet = self.packet(at, from, to, carries);
        if at == Hook::ToTunnel && self.random.percent(30) {
            packet.mark = 0x6377_0001;
        }
        self.send(packet);
    }

    /// A probe changes its mind, or a backend begins to leave.
    fn flip(&mut self) {
        if self.backends.is_empty() {
            return;
        }
        let mut spec = self.backends[self.random.below(self.backends.len())].clone();
        if self.random.percent(70) {
            spec.ready = !spec.ready;
        } else {
            spec.terminating = !spec.terminating;
        }
        self.backend(spec);
    }

    /// A backend goes, or its index is given to another.
    fn replace(&mut self) {
        if self.backends.is_empty() {
            return;
        }
        let at = self.random.below(self.backends.len());
        let mut spec = self.backends[at].clone();
        if self.random.percent(40) {
            self.backends.remove(at);
            self.push(Action::NoBackend(spec.index));
            return;
        }
        let address = socket(self.random.pick(&BACKENDS));
        let is_other = self.backends.iter().all(|backend| backend.address != address);
        if is_other && address.is_ipv6() == spec.address.is_ipv6() {
            spec.address = address;
            spec.generation += 1;
            self.backend(spec);
        }
    }

    fn change_service(&mut self) {
        if self.services.is_empty() || self.random.percent(30) {
            let id = self.random.below(6) as u32 + 1;
            if self.services.iter().all(|service| service.id != id) {
                self.new_service(id);
            }
            return;
        }
        let at = self.random.below(self.services.len());
        if self.random.percent(30) {
            let mut gone = self.services.remove(at);
            self.push(Action::NoService(gone.vip));
            if self.random.percent(40) {
                // It was only made anew.
                gone.backends = self.some_backends(gone.vip.address.is_ipv6());
                self.services.push(gone.clone());
                self.push(Action::Service(gone));
            }
            return;
        }
        let mut service = self.services[at].clone();
        if self.random.percent(25) {
            service.affinity = 0;
            self.affinities.insert(service.vip, 0);
        }
        if self.random.percent(12) {
            service.backends.clear();
        } else if !service.backends.is_empty() && self.random.percent(50) {
            let gone = self.random.below(service.backends.len());
            service.backends.remove(gone);
        } else {
            service.backends = self.some_backends(service.vip.address.is_ipv6());
        }
        if !self.direct {
            service.slots = self.random.pick(&[16, 32, 64]);
        }
        self.services[at] = service.clone();
        self.push(Action::Service(service));
    }

    /// Most of the backends of a family.
    fn some_backends(&mut self, six: bool) -> Vec<u32> {
        let fitting = self.backends.iter().filter(|backend| backend.address.is_ipv6() == six);
        let mut backends: Vec<u32> = fitting.map(|backend| backend.index).collect();
        while backends.len() > 1 && self.random.percent(30) {
            let gone = self.random.below(backends.len());
            backends.remove(gone);
        }
        backends
    }

    fn earlier(&mut self) -> Option<(u32, PacketSpec)> {
        // Mostly the last few.
        let count = self.sent.len();
        let back = if self.random.percent(70) { count.min(4) } else { count };
        (count > 0).then(|| self.sent[count - 1 - self.random.below(back)].clone())
    }

    fn one_of(&mut self, from: &[&str], six: bool) -> IpAddr {
        loop {
            let address = ip(self.random.pick(from));
            if address.is_ipv6() == six {
                return address;
            }
        }
    }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no socket address"))
}
