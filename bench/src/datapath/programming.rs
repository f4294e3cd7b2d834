//! What changes cost the agent, by the clock and in processor time.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_abi::{
    Address,
    backend::READY,
    service::{SCOPE_CLUSTER, ServiceKey},
};
use causeway_maps::{AddressExt as _, PinnedMaps, Protocol};

use super::{
    Course, as_milliseconds,
    bed::Bed,
    entry::{Bound, Entry, Goal},
};
use crate::{
    clock::{milliseconds, now_ns, thread_cpu_ns},
    interrupt,
    program::timed,
    service::VIP_TCP,
    stats::{deviation, median},
};

/// No change takes longer.
const LONGEST: Duration = Duration::from_secs(30);

/// All services into empty maps.
pub(super) fn from_nothing(course: &mut Course<'_>, many: &mut Bed) -> Result<()> {
    let (number, title) = (many.name(), many.title());
    course.progress.show(&format!("programming {title}"));
    let cost = timed(|| many.rig.program())?;
    let title = format!("{title} with two backends each, into empty maps");
    course.add(
        Entry::new(
            format!("programming_{number}_cpu"),
            format!("{title}: CPU of the agent's code"),
            cost.cpu.as_secs_f64(),
            "s",
        )
        .goal(Goal::Value(Bound::AtMost, 1.5)),
    );
    course.add(Entry::new(
        format!("programming_{number}_time"),
        format!("{title}: time"),
        cost.wall.as_secs_f64(),
        "s",
    ));
    Ok(())
}

/// One endpoint of one service, among many.
pub(super) fn changes(course: &mut Course<'_>, many: &mut Bed) -> Result<()> {
    let outcome = change_times(course, many);
    let Some(Changes { visible, whole, cpu }) = course.keep("changes of one endpoint", outcome)? else {
        return Ok(());
    };
    let value = median(&visible).context("no changes")?;
    let name = format!("endpoint_change_{}", many.name());
    course.add(
        Entry::new(
            name.clone(),
            format!("one endpoint changed among {}, until the map shows it", many.title()),
            value,
            "ms",
        )
        .spread(deviation(&visible))
        .goal(Goal::Value(Bound::AtMost, 1.0)),
    );
    course.add(
        Entry::new(
            format!("{name}_whole"),
            "the same, until the agent is done",
            median(&whole).context("no changes")?,
            "ms",
        )
        .spread(deviation(&whole)),
    );
    course.add(
        Entry::new(
            format!("{name}_cpu"),
            "the same: CPU of the agent's code",
            median(&cpu).context("no changes")?,
            "ms",
        )
        .spread(deviation(&cpu)),
    );
    Ok(())
}

/// What changes took, in milliseconds.
#[derive(Debug, Default)]
struct Changes {
    /// Until the map shows it.
    visible: Vec<f64>,
    /// Until the agent's code was done.
    whole: Vec<f64>,
    /// Processor time of the agent's code.
    cpu: Vec<f64>,
}

/// Milliseconds until the map shows a change, and until the agent has done all that it does for it.
fn change_times(course: &mut Course<'_>, many: &mut Bed) -> Result<Changes> {
    let mut changes = Changes::default();
    let service = many.service();
    many.rig.change(service, &[0])?;
    for round in 0..course.plan.changes {
        interrupt::check()?;
        course
            .progress
            .show(&format!("endpoint change {} of {}", round + 1, course.plan.changes));
        let to = 1 - round % 2;
        let sought = many.rig.site.backends[to].address;
        let vip = many.rig.services[service].vip();
        let maps = PinnedMaps::open(&many.causeway()?.pin_dir).context("cannot open the pinned maps")?;
        let looks = AtomicBool::new(false);
        let (begun, seen) = thread::scope(|scope| {
            let watcher = scope.spawn(|| wait_for(&maps, vip, sought, &looks));
            while !looks.load(Ordering::Acquire) && !watcher.is_finished() {
                std::hint::spin_loop();
            }
            let (begun, cpu) = (now_ns(), thread_cpu_ns());
            many.rig.change(service, &[to])?;
            changes.cpu.push(as_milliseconds(thread_cpu_ns() - cpu));
            changes.whole.push(as_milliseconds(now_ns() - begun));
            let seen = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
            anyhow::Ok((begun, seen))
        })?;
        changes.visible.push(as_milliseconds(seen.saturating_sub(begun)));
        course
            .progress
            .done(course.plan.programming_seconds() / course.plan.changes as f64);
    }
    Ok(changes)
}

/// Reads the service's entry and its first slot, again and again, until they lead to a backend; answers when they did.
fn wait_for(maps: &PinnedMaps, vip: Ipv4Addr, sought: Ipv4Addr, looks: &AtomicBool) -> Result<u64> {
    let key = ServiceKey {
        address: Address::from_ip(vip.into()),
        port_be: VIP_TCP.to_be(),
        protocol: Protocol::TCP.0,
        scope: SCOPE_CLUSTER,
    };
    let begun = Instant::now();
    loop {
        let entry = maps.services.get(&key)?.context("a service that is not in the map")?;
        let slot = maps.slots.read(entry.slot_base).context("a slot beyond the array")?;
        let backend = maps.backends.read(slot.backend).context("a backend beyond the array")?;
        if entry.slot_count > 0 && backend.address == Address::from_ip(sought.into()) {
            ensure!(looks.load(Ordering::Relaxed), "the change was there before it was made");
            return Ok(now_ns());
        }
        looks.store(true, Ordering::Release);
        if begun.elapsed() > LONGEST {
            bail!("the change did not show within {} s", LONGEST.as_secs());
        }
    }
}

/// A probe's verdict on a local pod.
pub(super) fn flips(course: &mut Course<'_>, many: &mut Bed) -> Result<()> {
    course.progress.show("flips of readiness");
    let outcome = flip_times(course, many);
    let Some(mut times) = course.keep("flips of readiness", outcome)? else {
        return Ok(());
    };
    times.sort_by(f64::total_cmp);
    let value = median(&times).context("no flips")?;
    let late = times[(times.len() * 99 / 100).min(times.len() - 1)];
    course.add(
        Entry::new(
            "readiness_flip",
            "a probe's verdict on a local pod, until the map shows it",
            value,
            "µs",
        )
        .spread(deviation(&times))
        .goal(Goal::Value(Bound::AtMost, 50.0)),
    );
    course.add(Entry::new(
        "readiness_flip_p99",
        "the same, 99th percentile",
        late,
        "µs",
    ));
    Ok(())
}

/// Microseconds from each verdict until the flags in the map's memory have changed, read through another mapping of it.
fn flip_times(course: &mut Course<'_>, many: &mut Bed) -> Result<Vec<f64>> {
    let pod = many.rig.site.backends[0].address;
    let maps = PinnedMaps::open(&many.causeway()?.pin_dir).context("cannot open the pinned maps")?;
    let wanted = Address::from_ip(pod.into());
    let index = (0..maps.backends.len())
        .find(|index| {
            maps.backends
                .read(*index)
                .is_some_and(|backend| backend.address == wanted && backend.flags & READY != 0)
        })
        .context("the pod is no backend")?;
    let readiness = many.causeway()?.datapath.readiness();
    let mut times = Vec::with_capacity(course.plan.flips);
    for flip in 0..course.plan.flips {
        interrupt::check()?;
        let ready = flip % 2 == 1;
        let begun = now_ns();
        readiness.set_ready(pod.into(), ready);
        let flags = maps.backends.flags(index).context("a backend beyond the array")?;
        let took = now_ns() - begun;
        ensure!((flags & READY != 0) == ready, "a flip did not show");
        times.push(milliseconds(Duration::from_nanos(took)) * 1e3);
    }
    readiness.set_ready(pod.into(), true);
    Ok(times)
}
