//! The model and the programs go through a sequence side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use causeway_abi::counter::ServiceCounters;
use causeway_abi::event::Verdict;
use causeway_abi::service::{Slot, SourceRangeKey};
use nix::sched::{CloneFlags, unshare};

use super::case::{Action, AnswerSpec, Case, ErrorSpec, VipSpec};
use super::change::{service_key, source_ranges};
use super::compare::{self, Baseline};
use super::kernel::{Kernel, clock};
use super::world;
use super::{craft, wire, world::tables};
use crate::model::frame::{self, Frame};
use crate::model::tables::Route;
use crate::model::{Fate, Hook, MARK_TUNNEL_KEY, Model, Seen};

/// A sequence that takes longer than this by the clock is begun again: then time passed that no step told of.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often.
const ATTEMPTS: usize = 50;

/// What came of a sequence.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The programs did as the model says, for so many packets.
    Agreed {
        /// How many.
        packets: u64,
        /// How many of them XDP sent on.
        by_xdp: u64,
    },
    /// They did not.
    Differs(Box<Difference>),
}

/// The first thing they disagreed on.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The step's number; `None` for what was found at the end.
    pub step: Option<u32>,
    /// The packet in words.
    pub packet: String,
    /// What each says.
    pub details: Vec<String>,
}

impl Difference {
    /// A name for the kind of difference: what is left of the details without their numbers. Shrinking keeps it.
    pub fn kind(&self) -> String {
        let first = self.details.first().map_or("", String::as_str);
        let name = first.split(':').next().unwrap_or(first);
        name.chars()
            .filter(|letter| !letter.is_ascii_digit())
            .take(40)
            .collect()
    }
}

/// What a packet became.
struct Made {
    at: Hook,
    became: Vec<u8>,
    verdict: Verdict,
}

/// The programs, and what they counted before.
pub struct Runner {
    pub(super) kernel: Kernel,
    baseline: Baseline,
}

impl Runner {
    /// Loads the programs. The calling thread moves to a network namespace of its own, whose only interface is down: there the
    /// fragments end that programs put back on their interface.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; that takes root")?;
        let kernel = Kernel::load()?;
        world::write(&kernel, &tables())?;
        let baseline = Baseline::of(&kernel)?;
        Ok(Self { kernel, baseline })
    }

    /// Runs a sequence; with `thorough`, everything is compared after each step and not only at the end.
    pub fn run(&mut self, case: &Case, thorough: bool) -> Result<Outcome> {
        for _ in 0..ATTEMPTS {
            let begun = clock()?;
            let outcome = Sequence::new(self, case).run(case, thorough, begun);
            let slow = clock()?.saturating_sub(begun) > PATIENCE;
            self.clear(case)?;
            match outcome {
                Ok(Outcome::Differs(_)) | Err(_) if slow => {}
                outcome => return outcome,
            }
        }
        bail!("the machine is too busy: a sequence takes more than {PATIENCE:?}, {ATTEMPTS} times over")
    }

    fn clear(&mut self, case: &Case) -> Result<()> {
        self.kernel.forget()?;
        for step in &case.steps {
            match &step.action {
                Action::Backend(spec) => self
                    .kernel
                    .backends
                    .put(spec.index as usize, &causeway_abi::backend::Backend::default()),
                Action::Service(spec) => {
                    self.kernel.services.remove(&service_key(&spec.vip))?;
                    for key in source_ranges(spec) {
                        self.kernel.source_ranges.remove(&key)?;
                    }
                }
                _ => {}
            }
        }
        self.baseline = Baseline::of(&self.kernel)?;
        Ok(())
    }
}

pub(super) struct Sequence<'a> {
    pub(super) runner: &'a mut Runner,
    pub(super) model: Model,
    made: BTreeMap<u32, Made>,
    /// Slots of services, as they are in the map.
    pub(super) slots: BTreeMap<VipSpec, Vec<Slot>>,
    /// How often each service's table has changed, its id, and its session affinity.
    pub(super) programmed: BTreeMap<VipSpec, (u32, u32, u32)>,
    /// Source ranges by service id, as they are in the map.
    pub(super) ranges: BTreeMap<u32, Vec<SourceRangeKey>>,
    /// Backends whose slots do not decide alone.
    pub(super) unsettled: BTreeSet<u32>,
    packets: u64,
    by_xdp: u64,
}

impl<'a> Sequence<'a> {
    fn new(runner: &'a mut Runner, case: &Case) -> Self {
        runner.kernel.watch(case.watched);
        runner.kernel.set_node(&world::node(case.direct));
        let mut tables = tables();
        tables.node.direct = case.direct;
        tables.is_mute = case.mute;
        Self {
            runner,
            model: Model::new(tables),
            slots: BTreeMap::new(),
            programmed: BTreeMap::new(),
            made: BTreeMap::new(),
            ranges: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            packets: 0,
            by_xdp: 0,
        }
    }

    fn run(mut self, case: &Case, thorough: bool, begun: Duration) -> Result<Outcome> {
        // A sequence has fewer messages than may be sent at once.
        self.runner.kernel.set_mute(case.mute)?;
        for step in &case.steps {
            let difference = self.step(step.id, &step.action, case.watched, begun)?;
            let difference = match difference {
                None if thorough => self.compare(begun)?,
                difference => difference,
            };
            if let Some(difference) = difference {
                return Ok(Outcome::Differs(Box::new(Difference {
                    step: Some(step.id),
                    ..difference
                })));
            }
        }
        Ok(match self.compare(begun)? {
            Some(difference) => Outcome::Differs(Box::new(difference)),
            None => self.agreed(),
        })
    }

    fn agreed(&self) -> Outcome {
        Outcome::Agreed {
            packets: self.packets,
            by_xdp: self.by_xdp,
        }
    }

    fn step(&mut self, id: u32, action: &Action, watched: bool, begun: Duration) -> Result<Option<Difference>> {
        match action {
            Action::Backend(spec) => self.backend(spec)?,
            Action::NoBackend(index) => self.no_backend(*index),
            Action::Service(spec) => self.service(spec)?,
            Action::NoService(vip) => self.no_service(vip)?,
            Action::Wait(seconds) => self.wait(Duration::from_secs(*seconds), begun)?,
            Action::Collect => self.collect()?,
            Action::Settle => self.settle()?,
            Action::Packet(spec) => {
                if spec.from.is_ipv4() == spec.to.is_ipv4() {
                    return self.packet(id, spec.at, &craft::packet(spec), spec.mark, watched);
                }
            }
            Action::Answer(spec) => return self.answer(id, spec, watched),
            Action::Error(spec) => return self.error(id, spec, watched),
        }
        Ok(None)
    }

    fn packet(&mut self, id: u32, at: Hook, frame: &[u8], mark: u32, watched: bool) -> Result<Option<Difference>> {
        // XDP comes before anybody could have set a mark.
        if at == Hook::FromUplink
            && mark == 0
            && let Some(out) = self.runner.kernel.run_xdp(frame)?
        {
            return Ok(self.sent_by_xdp(id, frame, out, watched));
        }
        let Some(seen) = self.runner.kernel.run(at, frame, mark)? else {
            return Ok(None);
        };
        self.packets += 1;
        let expected = self.model.expect(at, frame, mark, &seen);
        let details = compare::packet(&expected, &seen, watched);
        self.made.insert(
            id,
            Made {
                at,
                became: seen.frame,
                verdict: expected.verdict,
            },
        );
        Ok((!details.is_empty()).then(|| Difference {
            step: Some(id),
            packet: format!("{at:?}: {}", craft::words(frame)),
            details,
        }))
    }

    fn answer(&mut self, id: u32, spec: &AnswerSpec, watched: bool) -> Result<Option<Difference>> {
        let Some((made, at)) = self.other_end(spec.to) else {
            return Ok(None);
        };
        let Some(packet) = craft::answer(spec, &made.became, at) else {
            return Ok(None);
        };
        let frame = craft::packet(&packet);
        if spec.on_wire && at == Hook::FromTunnel {
            // As it is on the wire it meets XDP first, then the uplink's hook; what both leave alone comes out of the tunnel.
            let wire = wire::wrap(&frame, world::other_node(), world::this_node());
            let difference = self.packet(id, Hook::FromUplink, &wire, 0, watched)?;
            if difference.is_some() || self.made.get(&id).is_some_and(|made| made.verdict != Verdict::ToStack) {
                return Ok(difference);
            }
        }
        self.packet(id, at, &frame, 0, watched)
    }

    /// What XDP sends is what the other programs would have sent by way of the kernel: out of the tunnel, translated, into the
    /// tunnel; routed besides, so with a time to live that is one less where it was translated.
    fn sent_by_xdp(&mut self, id: u32, frame: &[u8], out: Vec<u8>, watched: bool) -> Option<Difference> {
        self.packets += 1;
        self.by_xdp += 1;
        let mut details = Vec::new();
        if watched {
            details.push("xdp: it sent a packet while somebody watched".to_owned());
        }
        let (at, packet, became, mark) = if wire::is_wire(frame) {
            (Hook::FromTunnel, frame[wire::OVERHEAD..].to_vec(), out, 0)
        } else {
            match wire::unwrap(&out, world::this_node(), world::other_node()) {
                Ok(inner) => (Hook::FromUplink, frame.to_vec(), inner, MARK_TUNNEL_KEY),
                Err(complaint) => {
                    details.push(complaint);
                    (Hook::FromUplink, frame.to_vec(), out, MARK_TUNNEL_KEY)
                }
            }
        };
        let seen = Seen {
            fate: Fate::Redirect,
            frame: became,
            mark,
            told: None,
        };
        let mut expected = self.model.expect(at, &packet, 0, &seen);
        match (expected.verdict, frame::read(&expected.frame)) {
            (Verdict::ToNode, Frame::Ip(sent)) => expected.frame.truncate(sent.end),
            (Verdict::ToNetwork, Frame::Ip(answer)) => {
                // It goes to the client itself.
                expected.frame[..6].copy_from_slice(&world::neighbour_mac(answer.destination));
                expected.frame[6..12].copy_from_slice(&world::UPLINK_MAC);
            }
            (verdict, _) => details.push(format!("xdp: the model says {verdict:?}, XDP sent the packet")),
        }
        details.extend(compare::packet(&expected, &seen, false));
        self.made.insert(
            id,
            Made {
                at,
                became: seen.frame,
                verdict: expected.verdict,
            },
        );
        (!details.is_empty()).then(|| Difference {
            step: Some(id),
            packet: format!("XDP: {}", craft::words(&packet)),
            details,
        })
    }

    fn error(&mut self, id: u32, spec: &ErrorSpec, watched: bool) -> Result<Option<Difference>> {
        let Some((made, at)) = self.other_end(spec.about) else {
            return Ok(None);
        };
        match craft::error(spec, &made.became) {
            Some(frame) => self.packet(id, at, &frame, 0, watched),
            None => Ok(None),
        }
    }

    /// What a step's packet became, and where whoever got it is heard.
    fn other_end(&self, step: u32) -> Option<(&Made, Hook)> {
        let made = self.made.get(&step)?;
        if made.verdict == Verdict::ToStack
            && let Frame::Ip(packet) = frame::read(&made.became)
            && self.model.tables.node.addresses.contains(&packet.destination)
        {
            // The node's own stack, which also chooses the way back.
            let is_pod = self.model.tables.route(packet.source) == Some(Route::Tunnel);
            return Some((made, if is_pod { Hook::ToTunnel } else { Hook::ToUplink }));
        }
        let at = match (made.verdict, made.at) {
            (Verdict::ToPod, _) => Hook::FromPod,
            (Verdict::ToNode, _) => Hook::FromTunnel,
            (Verdict::ToNetwork | Verdict::ToStack, _) => Hook::FromUplink,
            _ => return None,
        };
        Some((made, at))
    }

    fn compare(&self, begun: Duration) -> Result<Option<Difference>> {
        let details = compare::tables(&self.model.tables, &self.runner.kernel, &self.runner.baseline, begun)?;
        Ok((!details.is_empty()).then(|| Difference {
            step: None,
            packet: "what is remembered and counted".to_owned(),
            details,
        }))
    }
}

/// Counters of a service as the model has them.
pub(super) fn counters(count: &crate::model::tables::ServiceCount) -> ServiceCounters {
    ServiceCounters {
        connections: count.connections,
        packets: count.packets,
        bytes: count.bytes,
        drops: count.drops,
    }
}
