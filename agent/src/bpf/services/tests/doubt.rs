//! Slots that get flows which went by something else until then.

use super::*;

/// A service as clients in the network know it.
fn outside(vip: u16, backends: &[u16]) -> DesiredService {
    let mut service = service(vip, backends);
    service.frontends[0].scope = Scope::External;
    service
}

fn outer_table(maps: &Maps, vip: u16) -> Vec<Slot> {
    let service = maps.services[&service_key(&vip_id(vip), Scope::External)];
    let slots = service.slot_base..service.slot_base + service.slot_count;
    slots.map(|slot| maps.read_slot(slot)).collect()
}

/// How many slots there are, how many do not decide alone, and how many of those name another backend than their own.
fn doubtful(maps: &Maps, vip: u16) -> (usize, usize, usize) {
    let slots = outer_table(maps, vip);
    let doubtful = slots.iter().filter(|slot| slot.previous != NO_BACKEND);
    let others = doubtful.clone().filter(|slot| slot.previous != slot.backend);
    (slots.len(), doubtful.count(), others.count())
}

/// A flow of a slot, with another backend than that slot's.
fn flow_elsewhere(maps: &Maps, vip: u16, place: usize, backend: u32) -> WrittenFlow {
    let count = outer_table(maps, vip).len() as u64;
    WrittenFlow {
        service: service_key(&vip_id(vip), Scope::External),
        hash: ((place as u64) << 32).div_ceil(count) as u32,
        backend,
        key: None,
    }
}

#[test]
fn slots_ask_for_flows_that_went_by_session_affinity() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    let mut want = desired([outside(80, &[1, 2])]);
    want.services[0].affinity_seconds = 60;
    planner.sync(&want, start, &mut maps);
    let before = outer_table(&maps, 80);
    assert_eq!(doubtful(&maps, 80), (256, 0, 0));
    want.services[0].affinity_seconds = 0;
    planner.sync(&want, start, &mut maps);
    assert_eq!(
        doubtful(&maps, 80),
        (256, 256, 0),
        "the same table, each slot with its own name"
    );
    assert!(
        before
            .iter()
            .zip(outer_table(&maps, 80))
            .all(|(before, now)| before.backend == now.backend)
    );

    let slot = outer_table(&maps, 80)[9];
    maps.direct_flows = vec![flow_elsewhere(&maps, 80, 9, 1 - slot.backend)];
    planner.settle(start + GRACE.hold, &mut maps);
    assert_eq!(
        doubtful(&maps, 80),
        (256, 1, 0),
        "the slot of the flow that is elsewhere"
    );
    maps.direct_flows.clear();
    planner.settle(start + GRACE.hold * 2, &mut maps);
    assert_eq!((doubtful(&maps, 80), planner.next_due()), ((256, 0, 0), None));
}

#[test]
fn slots_of_a_service_that_was_empty_or_not_there_ask_for_its_flows() {
    for (returns_directly, is_known, before) in [
        (true, true, Some(outside(80, &[]))),
        (true, true, None),
        (true, false, Some(outside(80, &[]))),
        (false, true, Some(outside(80, &[]))),
    ] {
        let mut maps = Maps::new(4096, 64);
        maps.returns_directly = returns_directly;
        let mut planner = maps.planner();
        let now = Instant::now();
        planner.sync(&desired(before), now, &mut maps);
        let flow = |vip: u16| WrittenFlow {
            service: service_key(&vip_id(vip), Scope::External),
            hash: 7,
            backend: NO_BACKEND,
            key: None,
        };
        maps.direct_flows = vec![flow(if is_known { 80 } else { 82 })];
        planner.sync(&desired([outside(80, &[1, 2]), outside(81, &[1, 2])]), now, &mut maps);
        let doubts = if returns_directly && is_known { 256 } else { 0 };
        assert_eq!(doubtful(&maps, 80), (256, doubts, 0));
        assert_eq!(doubtful(&maps, 81), (256, 0, 0), "nobody knows a flow of it");
    }
}

#[test]
fn a_narrower_choice_remembers_the_wider_one_and_the_wider_one_asks_for_the_flows_of_the_narrower() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    let mut both = service(80, &[1, 2]);
    both.backends[1].local = false;
    both.frontends.push(Frontend {
        scope: Scope::External,
        ..both.frontends[0].clone()
    });
    let mut local = both.clone();
    local.frontends[1].local_only = true;
    planner.sync(&desired([both.clone()]), start, &mut maps);
    assert_eq!(doubtful(&maps, 80), (256, 0, 0));
    let before = outer_table(&maps, 80);

    planner.sync(&desired([local.clone()]), start, &mut maps);
    let after = outer_table(&maps, 80);
    let is_before = |(before, after): (&Slot, &Slot)| before.backend == after.previous;
    assert!(before.len() == after.len() && before.iter().zip(&after).all(is_before));
    assert!(doubtful(&maps, 80).2 > 100, "slots of the other node's backend");
    assert_eq!(remembering(&maps, 80), 0, "the table for pods stays");

    planner.settle(start + GRACE.hold, &mut maps);
    assert_eq!(doubtful(&maps, 80).1, 0);
    planner.sync(&desired([both]), start + GRACE.hold, &mut maps);
    assert_eq!(doubtful(&maps, 80), (256, 256, 0));
}

#[test]
fn with_direct_server_return_slots_ask_for_flows_that_were_translated() {
    let mut maps = Maps::new(4096, 64);
    maps.returns_directly = false;
    let start = Instant::now();
    let want = desired([outside(80, &[1, 2]), service(81, &[1, 2])]);
    maps.planner().sync(&want, start, &mut maps);
    let mut planner = maps.adopt();
    planner.doubt_all(start, &mut maps);
    assert_eq!((doubtful(&maps, 80), remembering(&maps, 81)), ((256, 256, 0), 0));
    assert!(planner.sync(&want, start, &mut maps).is_unchanged());
    maps.direct_flows = vec![flow_elsewhere(&maps, 80, 9, NO_BACKEND)];
    planner.settle(start + GRACE.hold, &mut maps);
    assert_eq!(doubtful(&maps, 80), (256, 1, 0));
}
