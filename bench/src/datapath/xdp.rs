//! Nanoseconds of XDP for one packet: packets from outside the cluster for a service whose backends are on another node.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_abi::conntrack::{DIRECTION_FORWARD, Flow};
use causeway_maps::{AddressExt as _, PinnedMaps};

use super::{
    Course,
    bed::Bed,
    entry::{Bound, Entry, Goal},
};
use crate::{
    interrupt,
    mode::SiteKind,
    program::Passed,
    service::{POD_TCP, Transport, VIP_TCP},
    stats::{deviation, median, paired_ratio},
    testrun::{FRAME_BYTES, Feeder, Frame, Kind, TCP_ACK, TCP_SYN},
};

/// What everything goes through that comes in by the uplink.
const PROGRAM: &str = "cw_xdp";
/// What begins a flow that is translated, and what the backend's first answer comes through.
const FROM_UPLINK: &str = "cw_from_uplink";
const FROM_TUNNEL: &str = "cw_from_tunnel";
/// Rounds for each of the tc programs': differences of a few nanoseconds need more.
const ROUNDS: usize = 3;
/// As in the tc programs' measurement.
const FLOWS: u16 = 256;
const KNOWN_PORT: u16 = 2_000;
const NEW_PORT: u16 = 10_000;
// enum xdp_action, and TC_ACT_REDIRECT.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const REDIRECT: u32 = 7;

/// A kind of packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    /// Of a flow that is not new; the table alone decides.
    Known,
    /// Opens a flow; the table alone decides.
    New,
    /// Of a flow that is translated both ways and written down.
    Translated,
    /// For nobody in particular.
    NotVip,
}

impl Case {
    const DIRECT: [Self; 3] = [Self::Known, Self::New, Self::NotVip];
    const TRANSLATED: [Self; 1] = [Self::Translated];

    fn name(self) -> &'static str {
        match self {
            Self::Known => "xdp_known",
            Self::New => "xdp_new",
            Self::Translated => "xdp_nat_known",
            Self::NotVip => "xdp_not_vip",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Known => "XDP, known flow, answered directly",
            Self::New => "XDP, new flow, answered directly",
            Self::Translated => "XDP, known flow, full NAT with conntrack",
            Self::NotVip => "XDP, not a virtual address",
        }
    }

    /// The goal, nanoseconds.
    fn goal(self) -> f64 {
        match self {
            Self::Known => 60.0,
            Self::New => 80.0,
            Self::Translated => 150.0,
            Self::NotVip => 20.0,
        }
    }

    /// What the counters of the service must say of so many packets.
    fn expected(self, packets: u64) -> (u64, u64) {
        match self {
            Self::Known | Self::Translated => (0, packets),
            Self::New => (packets, packets),
            Self::NotVip => (0, 0),
        }
    }

    fn action(self) -> u32 {
        if self == Self::NotVip { XDP_PASS } else { XDP_TX }
    }
}

/// Values of a case by round.
type Times = Vec<(usize, f64)>;

/// A node with XDP, and its feeder.
struct Lane {
    bed: Bed,
    /// Which of the nodes of its kind.
    twin: usize,
    feeder: Feeder,
    uplink: u32,
    cases: &'static [Case],
    times: Vec<Times>,
    /// The same, one packet a run.
    single: Vec<Times>,
    /// What the empty program took.
    empty: Vec<f64>,
    /// What the feeder takes to shorten a packet again that the program has made longer.
    shortening: Vec<f64>,
}

pub(super) fn measure(course: &mut Course<'_>) -> Result<()> {
    let outcome = lanes(course);
    let Some([one, many, translated, many_twin, one_twin]) = course.keep("packets through cw_xdp", outcome)? else {
        return Ok(());
    };
    let (one, many) = (one.together(one_twin), many.together(many_twin));
    let all = [&one, &translated];
    for lane in all {
        for (case, (times, single)) in lane.cases.iter().zip(lane.times.iter().zip(&lane.single)) {
            let entry = entry(case.name(), case.title(), times)?;
            course.add(entry.goal(Goal::Value(Bound::AtMost, case.goal())));
            course.add(self::entry(
                &format!("{}_single", case.name()),
                &format!("{}, one packet a run", case.title()),
                single,
            )?);
        }
    }
    for ((case, alone), among) in one.cases.iter().zip(&one.times).zip(&many.times) {
        let values = |times: &Times| -> Vec<f64> { times.iter().map(|(_, value)| *value).collect() };
        let name = format!("{}_{}", case.name(), many.bed.name());
        let title = format!("{}, {}; baseline: one", case.title(), many.bed.title());
        let baseline = median(&values(alone)).context("no values")?;
        let ratio = paired_ratio(among, alone).context("no ratio")?;
        course.add(
            entry(&name, &title, among)?
                .against(baseline, ratio)
                .goal(Goal::Ratio(Bound::AtMost, 1.05)),
        );
    }
    let values =
        |pick: fn(&Lane) -> &Vec<f64>| -> Vec<f64> { all.iter().flat_map(|lane| pick(lane).clone()).collect() };
    for (name, title, values) in [
        (
            "xdp_empty",
            "an empty XDP program behind the feeder, subtracted from the above",
            values(|lane| &lane.empty),
        ),
        (
            "xdp_shortening",
            "the feeder's shortening of packets that got longer, subtracted from those",
            values(|lane| &lane.shortening),
        ),
    ] {
        let value = median(&values).context("no values")?;
        course.add(Entry::new(name, title, value, "ns").spread(deviation(&values)));
    }
    Ok(())
}

fn entry(name: &str, title: &str, times: &[(usize, f64)]) -> Result<Entry> {
    let values: Vec<f64> = times.iter().map(|(_, value)| *value).collect();
    let value = median(&values).context("no values")?;
    Ok(Entry::new(name, title, value, "ns").spread(deviation(&values)))
}

/// The nodes that are compared are there twice, in the one order and in the other: where the kernel puts a program and its maps makes a
/// difference of some nanoseconds, which stays as long as they do.
fn lanes(course: &mut Course<'_>) -> Result<[Lane; 5]> {
    course.progress.show("nodes with XDP");
    let number = course.plan.many;
    let one = Lane::new(SiteKind::CausewayXdpDirect, 1, &Case::DIRECT, 0)?;
    let many = Lane::new(SiteKind::CausewayXdpDirect, number, &Case::DIRECT, 0)?;
    let mut translated = Lane::new(SiteKind::CausewayXdp, 1, &Case::TRANSLATED, 0)?;
    translated.open_flows()?;
    let many_twin = Lane::new(SiteKind::CausewayXdpDirect, number, &Case::DIRECT, 1)?;
    let one_twin = Lane::new(SiteKind::CausewayXdpDirect, 1, &Case::DIRECT, 1)?;
    let mut lanes = [one, many, translated, many_twin, one_twin];
    let rounds = course.plan.packet_rounds * ROUNDS;
    for round in 0..rounds {
        for place in 0..lanes.len() {
            // Now this first, now that.
            let place = if round % 2 == 0 { place } else { lanes.len() - 1 - place };
            let lane = &mut lanes[place];
            for case in 0..lane.cases.len() {
                interrupt::check()?;
                let title = lane.cases[case].title();
                course
                    .progress
                    .show(&format!("packets, round {}/{rounds}: {title}", round + 1));
                lane.measure(case, round, course.plan.packets)
                    .with_context(|| format!("{title}, {}", lane.bed.title()))?;
            }
        }
        course
            .progress
            .done(course.plan.packets_seconds() / rounds as f64 / 2.0);
    }
    Ok(lanes)
}

impl Lane {
    fn new(kind: SiteKind, services: usize, cases: &'static [Case], twin: usize) -> Result<Self> {
        let mut bed = Bed::outside(kind, services)?;
        bed.rig.program()?;
        let feeder = bed.feeder(Kind::Xdp, PROGRAM, usize::from(u16::MAX))?;
        let uplink = bed.rig.site.uplink()?;
        bed.rig.site.greet_neighbours()?;
        Ok(Self {
            bed,
            twin,
            feeder,
            uplink,
            cases,
            times: vec![Vec::new(); cases.len()],
            single: vec![Vec::new(); cases.len()],
            empty: Vec::new(),
            shortening: Vec::new(),
        })
    }

    /// What was measured on a node and on its twin.
    fn together(mut self, twin: Self) -> Self {
        let all = |lane: Self| lane.times.into_iter().chain(lane.single);
        for (times, others) in self.times.iter_mut().chain(&mut self.single).zip(all(twin)) {
            times.extend(others);
        }
        self
    }

    fn client(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.bed.rig.site.client.address, port)
    }

    fn vip(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.bed.rig.services[self.bed.service()].called(), VIP_TCP)
    }

    /// Frames from one client port after the other.
    fn frames(&self, to: SocketAddrV4, ports: std::ops::Range<u16>, flags: u8) -> Vec<[u8; FRAME_BYTES]> {
        ports
            .map(|port| Frame::tcp(self.client(port), to, flags).bytes())
            .collect()
    }

    fn known_ports() -> std::ops::Range<u16> {
        KNOWN_PORT..KNOWN_PORT + FLOWS
    }

    /// Opens flows that are translated: an opening by the uplink, an answer out of the tunnel.
    fn open_flows(&mut self) -> Result<()> {
        let openings = self.frames(self.vip(), Self::known_ports(), TCP_SYN);
        let mut uplink = self.bed.feeder(Kind::Tc, FROM_UPLINK, openings.len())?;
        self.feed(&mut uplink, &openings, self.uplink)?;
        let maps = PinnedMaps::open(&self.bed.causeway()?.pin_dir).context("cannot open the pinned maps")?;
        let forward = maps.conntrack_new.entries()?;
        let forward = forward.iter().filter(|(key, _)| key.direction == DIRECTION_FORWARD);
        let answers = forward
            .map(|(_, flow)| answer_of(flow).map(|frame| frame.bytes()))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            answers.len() == usize::from(FLOWS),
            "{} flows of {FLOWS} were written down",
            answers.len()
        );
        let mut tunnel = self.bed.feeder(Kind::Tc, FROM_TUNNEL, answers.len())?;
        let ifindex = maps.node.get()?.tunnel_ifindex;
        self.feed(&mut tunnel, &answers, ifindex)
    }

    fn feed(&self, feeder: &mut Feeder, frames: &[[u8; FRAME_BYTES]], ifindex: u32) -> Result<()> {
        feeder.set_frames(frames)?;
        let ran = self
            .bed
            .rig
            .site
            .node
            .run(|| feeder.run(ifindex, frames.len() as u32))?;
        ensure!(
            ran.returned == REDIRECT,
            "a program answered {} instead of handing the packet on",
            ran.returned
        );
        Ok(())
    }

    fn measure(&mut self, index: usize, round: usize, packets: u32) -> Result<()> {
        let case = self.cases[index];
        let frames = match case {
            Case::Known | Case::Translated => self.frames(self.vip(), Self::known_ports(), TCP_ACK),
            Case::New => {
                let last = NEW_PORT + u16::try_from(packets).context("more new flows than ports")?;
                self.frames(self.vip(), NEW_PORT..last, TCP_SYN)
            }
            Case::NotVip => {
                let node = SocketAddrV4::new(crate::site::NODE_ADDRESS, POD_TCP);
                self.frames(node, Self::known_ports(), TCP_ACK)
            }
        };
        self.bed.passed(Transport::Tcp)?;
        let drops = self.bed.drops()?;
        self.feeder.set_frames(&frames)?;
        let (feeder, uplink) = (&mut self.feeder, self.uplink);
        let grows = case != Case::NotVip;
        let (empty, shortening, ran, singles) = self.bed.rig.site.node.run(|| {
            let empty = feeder.run_empty(uplink, packets)?;
            let shortening = if grows {
                feeder
                    .run_growing(uplink, packets)?
                    .map_or(0.0, |both| (both - empty) / 2.0)
            } else {
                0.0
            };
            let ran = feeder.run(uplink, packets)?;
            let singles = feeder.run_singly(uplink, SINGLES)?;
            Ok((empty, shortening, ran, singles))
        })?;
        let Passed {
            connections,
            packets: counted,
            ..
        } = self.bed.passed(Transport::Tcp)?;
        let dropped = self.bed.drops()? - drops;
        let all = u64::from(packets + SINGLES);
        ensure!(
            (connections, counted) == case.expected(all) && dropped == 0 && ran.returned == case.action(),
            "of {all} packets the counters say {connections} connections, {counted} packets and {dropped} drops; the last \
             action was {}",
            ran.returned
        );
        // The first round warms up.
        if round > 0 {
            let round = 2 * round + self.twin;
            self.times[index].push((round, ran.nanoseconds - empty - shortening));
            self.single[index].push((round, singles - shortening));
            self.empty.push(empty);
            if grows {
                self.shortening.push(shortening);
            }
        }
        Ok(())
    }
}

/// Packets of a round that are measured one at a time.
const SINGLES: u32 = 200;

/// The backend's answer to the opening of a flow, as it comes out of the tunnel.
fn answer_of(flow: &Flow) -> Result<Frame> {
    let end = |address: causeway_abi::Address, port_be: u16| -> Result<SocketAddrV4> {
        let address: Ipv4Addr = match address.to_ip() {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => bail!("a flow of {address}"),
        };
        Ok(SocketAddrV4::new(address, u16::from_be(port_be)))
    };
    let backend = end(flow.backend_address, flow.backend_port_be)?;
    let client = end(flow.translated_client, flow.translated_client_port_be)?;
    Ok(Frame::tcp(backend, client, TCP_SYN | TCP_ACK))
}
