//! Nanoseconds of the tc programs for one packet, on a node with one service and on one with many.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_maps::{AddressExt as _, PinnedMaps};

use super::{
    Course,
    bed::Bed,
    entry::{Bound, Entry, Goal},
};
use crate::{
    interrupt,
    program::Passed,
    service::{POD_TCP, Transport, VIP_TCP},
    stats::{deviation, median, paired_ratio},
    testrun::{FRAME_BYTES, Feeder, Frame, Kind, TCP_ACK, TCP_SYN},
};

/// What everything a pod sends goes through.
const PROGRAM: &str = "cw_from_pod";
/// Known flows that packets are of, in turn: few enough to be warm, too many for one to be special.
const FLOWS: u16 = 256;
/// A round is taken in so many parts, one after the other on each node: what slows the machine down for a while meets both then.
const PARTS: usize = 4;
/// First client port of flows that are known, and of new ones.
const KNOWN_PORT: u16 = 2_000;
const NEW_PORT: u16 = 10_000;
/// `TC_ACT_REDIRECT`: on to a pod.
const REDIRECT: u32 = 7;

/// A kind of packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Case {
    /// Of a flow that is written down.
    Known,
    /// The backend's answer of such a flow.
    Answer,
    /// Opens a flow.
    New,
    /// To a pod's own address.
    NotVip,
}

const CASES: [Case; 4] = [Case::Known, Case::Answer, Case::New, Case::NotVip];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Answer => "answer",
            Self::New => "new",
            Self::NotVip => "not_vip",
        }
    }

    /// What the counters of the service must say of so many packets.
    fn expected(self, packets: u64) -> Passed {
        let passed = |connections, packets| Passed {
            connections,
            packets,
            early: 0,
        };
        match self {
            Self::Known | Self::Answer => passed(0, packets),
            Self::New => passed(packets, packets),
            Self::NotVip => passed(0, 0),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "known flow",
            Self::Answer => "answer of a known flow",
            Self::New => "new flow",
            Self::NotVip => "not a virtual address",
        })
    }
}

/// A node, a feeder for its program, and what to feed it with.
struct Lane<'a> {
    bed: &'a mut Bed,
    /// Which of the nodes of its kind.
    twin: usize,
    feeder: Feeder,
    /// Frames of known flows; of answers, all of one backend.
    known: Vec<[u8; FRAME_BYTES]>,
    answers: Vec<[u8; FRAME_BYTES]>,
    /// Interface of the backend that answers.
    answer_ifindex: u32,
    /// Nanoseconds of each case by round.
    times: [Vec<(usize, f64)>; CASES.len()],
}

pub(super) fn measure(course: &mut Course<'_>, one: &mut Bed, many: &mut Bed) -> Result<()> {
    let (number, title) = (many.name(), many.title());
    let outcome = lanes(course, one, many);
    if let Some([one, many]) = course.keep("packets through cw_from_pod", outcome)? {
        for (index, case) in CASES.into_iter().enumerate() {
            let (alone, among) = (&one[index], &many[index]);
            let name = format!("tc_{}", case.name());
            course.add(entry(&name, &format!("cw_from_pod, {case}, one service"), alone)?);
            let values = |times: &[(usize, f64)]| -> Vec<f64> { times.iter().map(|(_, value)| *value).collect() };
            let ratio = paired_ratio(among, alone).context("no ratio")?;
            let baseline = median(&values(alone)).context("no values")?;
            course.add(
                entry(
                    &format!("{name}_{number}"),
                    &format!("cw_from_pod, {case}, {title}; baseline: one"),
                    among,
                )?
                .against(baseline, ratio)
                .goal(Goal::Ratio(Bound::AtMost, 1.05)),
            );
        }
    }
    Ok(())
}

fn entry(name: &str, title: &str, times: &[(usize, f64)]) -> Result<Entry> {
    let values: Vec<f64> = times.iter().map(|(_, value)| *value).collect();
    let value = median(&values).context("no values")?;
    Ok(Entry::new(name, title, value, "ns").spread(deviation(&values)))
}

type Times = [Vec<(usize, f64)>; CASES.len()];

/// Both nodes and a twin of each, for the reason given in [`super::xdp`].
fn lanes(course: &mut Course<'_>, one: &mut Bed, many: &mut Bed) -> Result<[Times; 2]> {
    course.progress.show("a twin of each node");
    let (mut many_twin, mut one_twin) = (many.twin()?, one.twin()?);
    let mut lanes = [
        Lane::new(one, 0)?,
        Lane::new(many, 0)?,
        Lane::new(&mut many_twin, 1)?,
        Lane::new(&mut one_twin, 1)?,
    ];
    let rounds = course.plan.packet_rounds * PARTS;
    let packets = course.plan.packets / PARTS as u32;
    for round in 0..rounds {
        for case in CASES {
            interrupt::check()?;
            course
                .progress
                .show(&format!("packets, round {}/{rounds}: {case}", round + 1));
            // Now this first, now that.
            for place in 0..lanes.len() {
                let place = if round % 2 == 0 { place } else { lanes.len() - 1 - place };
                let lane = &mut lanes[place];
                lane.measure(case, round, packets)
                    .with_context(|| format!("{case}, {}", lane.bed.title()))?;
            }
        }
        course
            .progress
            .done(course.plan.packets_seconds() / rounds as f64 / 2.0);
    }
    let [one, many, many_twin, one_twin] = lanes.map(|lane| lane.times);
    Ok([together(one, one_twin), together(many, many_twin)])
}

/// What was measured on a node and on its twin.
fn together(mut times: Times, twin: Times) -> Times {
    for (own, others) in times.iter_mut().zip(twin) {
        own.extend(others);
    }
    times
}

impl<'a> Lane<'a> {
    fn new(bed: &'a mut Bed, twin: usize) -> Result<Self> {
        let feeder = bed.feeder(Kind::Tc, PROGRAM, usize::from(u16::MAX))?;
        let mut lane = Self {
            bed,
            twin,
            feeder,
            known: Vec::new(),
            answers: Vec::new(),
            answer_ifindex: 0,
            times: Default::default(),
        };
        lane.open_flows()?;
        Ok(lane)
    }

    fn client(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.bed.rig.site.client.address, port)
    }

    fn vip(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.bed.rig.services[self.bed.service()].vip(), VIP_TCP)
    }

    /// Opens flows as a client and its backends do: an opening there, an answer back.
    fn open_flows(&mut self) -> Result<()> {
        self.bed.rig.forget_flows()?;
        let ports = KNOWN_PORT..KNOWN_PORT + FLOWS;
        let openings: Vec<_> = ports
            .clone()
            .map(|port| Frame::tcp(self.client(port), self.vip(), TCP_SYN).bytes())
            .collect();
        self.run(&openings, self.bed.rig.site.client.ifindex(), u32::from(FLOWS))?;

        // How the backends see these flows.
        let maps = PinnedMaps::open(&self.bed.causeway()?.pin_dir).context("cannot open the pinned maps")?;
        let flows = maps.conntrack_new.entries()?;
        let address = |address: causeway_abi::Address| -> Result<Ipv4Addr> {
            match address.to_ip() {
                std::net::IpAddr::V4(address) => Ok(address),
                std::net::IpAddr::V6(address) => bail!("a flow of {address}"),
            }
        };
        let mut answers = Vec::new();
        for (_, flow) in flows {
            if !ports.contains(&u16::from_be(flow.client_port_be)) {
                continue;
            }
            let backend = SocketAddrV4::new(address(flow.backend_address)?, u16::from_be(flow.backend_port_be));
            let client = SocketAddrV4::new(
                address(flow.translated_client)?,
                u16::from_be(flow.translated_client_port_be),
            );
            answers.push((backend, client));
        }
        answers.sort_unstable();
        // Both halves of a flow tell the same.
        answers.dedup();
        ensure!(
            answers.len() == usize::from(FLOWS),
            "{} flows of {FLOWS} were written down",
            answers.len()
        );
        let backends: Vec<_> = self
            .bed
            .rig
            .site
            .backends
            .iter()
            .map(|pod| (pod.address, pod.ifindex()))
            .collect();
        for (backend, ifindex) in backends {
            let of_backend = |flags: u8| -> Vec<_> {
                let own = answers.iter().filter(|(from, _)| *from.ip() == backend);
                own.map(|(from, to)| Frame::tcp(*from, *to, flags).bytes()).collect()
            };
            let accepted = of_backend(TCP_SYN | TCP_ACK);
            ensure!(!accepted.is_empty(), "a backend was given none of {FLOWS} flows");
            self.run(&accepted, ifindex, accepted.len() as u32)?;
            (self.answers, self.answer_ifindex) = (of_backend(TCP_ACK), ifindex);
        }
        self.known = ports
            .map(|port| Frame::tcp(self.client(port), self.vip(), TCP_ACK).bytes())
            .collect();
        Ok(())
    }

    /// Feeds frames that come in on an interface of the node; answers nanoseconds for one.
    fn run(&mut self, frames: &[[u8; FRAME_BYTES]], ifindex: u32, packets: u32) -> Result<f64> {
        self.feeder.set_frames(frames)?;
        let feeder = &mut self.feeder;
        self.bed.rig.site.node.run(|| {
            let empty = feeder.run_empty(ifindex, packets)?;
            let ran = feeder.run(ifindex, packets)?;
            ensure!(
                ran.returned == REDIRECT,
                "the program answered {} instead of handing the packet on",
                ran.returned
            );
            Ok(ran.nanoseconds - empty)
        })
    }

    fn measure(&mut self, case: Case, round: usize, packets: u32) -> Result<()> {
        let client = self.bed.rig.site.client.ifindex();
        let (frames, ifindex) = match case {
            Case::Known => (self.known.clone(), client),
            Case::Answer => (self.answers.clone(), self.answer_ifindex),
            Case::New => {
                let last = NEW_PORT + u16::try_from(packets).context("more new flows than ports")?;
                let ports = NEW_PORT..last;
                let frame = |port| Frame::tcp(self.client(port), self.vip(), TCP_SYN).bytes();
                (ports.map(frame).collect(), client)
            }
            Case::NotVip => {
                let pod = SocketAddrV4::new(self.bed.rig.site.backends[0].address, POD_TCP);
                let ports = KNOWN_PORT..KNOWN_PORT + FLOWS;
                let frame = |port| Frame::tcp(self.client(port), pod, TCP_ACK).bytes();
                (ports.map(frame).collect(), client)
            }
        };
        self.bed.passed(Transport::Tcp)?;
        let drops = self.bed.drops()?;
        let nanoseconds = self.run(&frames, ifindex, packets)?;
        let passed = self.bed.passed(Transport::Tcp)?;
        let dropped = self.bed.drops()? - drops;
        if case == Case::New {
            // New flows are new once only.
            self.open_flows()?;
        }
        let expected = case.expected(packets.into());
        ensure!(
            passed == expected && dropped == 0,
            "of {packets} packets the counters say {passed:?} instead of {expected:?}, and {dropped} drops"
        );
        // The first round warms up.
        if round > 0 {
            self.times[case as usize].push((2 * round + self.twin, nanoseconds));
        }
        Ok(())
    }
}
