//! What slots remember, and for how long.

use super::*;

#[test]
fn slots_remember_whose_they_were_until_that_backend_is_gone() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let three = maps.index_of(3);
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let slots = table(&maps, 80);
    let orphans = slots.iter().filter(|slot| slot.previous == three).count();
    assert!(
        orphans >= slots.len() / 4,
        "{orphans} of {} slots remember the one that left",
        slots.len()
    );
    assert!(
        slots.iter().any(|slot| slot.previous == NO_BACKEND),
        "slots that did not change hands remember nobody"
    );

    planner.sync(&desired([service(80, &[1, 2])]), now + GRACE.backends, &mut maps);
    assert!(table(&maps, 80).iter().all(|slot| slot.previous != three));
}

#[test]
fn a_slot_remembers_as_long_as_a_flow_of_its_goes_on() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    planner.sync(&desired([service(80, &[1, 2, 3])]), start, &mut maps);
    let slots = table(&maps, 80);
    let (place, slot) = slots
        .iter()
        .enumerate()
        .find(|(_, slot)| slot.previous != NO_BACKEND)
        .expect("a slot that changed hands");
    let flow = WrittenFlow {
        service: service_key(&vip_id(80), Scope::Cluster),
        hash: ((place as u64) << 32).div_ceil(slots.len() as u64) as u32,
        backend: slot.previous,
        key: None,
    };
    // One that is where its slot would send it needs nothing.
    let settled = WrittenFlow {
        backend: slot.backend,
        ..flow
    };
    maps.direct_flows = vec![flow];
    let mut now = start;
    for _ in 0..3 {
        now += GRACE.hold;
        planner.settle(now, &mut maps);
        assert_eq!(remembering(&maps, 80), 1);
        assert_eq!(planner.next_due(), Some(now + GRACE.hold));
    }
    maps.direct_flows = vec![settled];
    planner.settle(now + GRACE.hold, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
    assert_eq!(
        maps.direct_flows,
        [],
        "a later connection from its port would not change it"
    );
}

#[test]
fn a_slot_whose_backend_before_is_gone_still_asks_for_flows_with_others() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let three = maps.index_of(3);
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let (before, orphans) = (remembering(&maps, 80), table(&maps, 80));
    planner.settle(now + GRACE.backends, &mut maps);
    assert_eq!(remembering(&maps, 80), before);
    for (orphan, slot) in orphans.into_iter().zip(table(&maps, 80)) {
        let expected = if orphan.previous == three {
            slot.backend
        } else {
            orphan.previous
        };
        assert_eq!(slot.previous, expected);
    }
    planner.settle(now + GRACE.hold, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
}

/// A service with a remote backend that was not ready for a time, and a flow of one of its slots with another.
#[test]
fn a_backend_that_returns_is_settled_when_no_flow_of_its_slots_is_elsewhere() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let mut now = Instant::now();
    let mut want = desired([service(80, &[1, 2])]);
    for backend in &mut want.services[0].backends {
        backend.local = false;
    }
    planner.sync(&want, now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | READY);
    for ready in [false, true] {
        want.services[0].backends[1].ready = ready;
        planner.sync(&want, now, &mut maps);
    }
    assert_eq!(maps.flags(2), IN_USE | READY | UNSETTLED);
    let slots = table(&maps, 80);
    let two = maps.index_of(2);
    let place = slots.iter().position(|slot| slot.backend == two).unwrap();
    let flow = |backend: u32| WrittenFlow {
        service: service_key(&vip_id(80), Scope::Cluster),
        hash: ((place as u64) << 32).div_ceil(slots.len() as u64) as u32,
        backend,
        key: None,
    };
    maps.direct_flows = vec![flow(1 - two)];
    assert_eq!(planner.next_due(), Some(now + GRACE.slots));
    now += GRACE.slots;
    planner.settle(now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | READY | UNSETTLED, "a flow is elsewhere");

    // An agent that takes over sees to it as well.
    let mut planner = maps.adopt();
    let real = Instant::now();
    planner.sync(&want, real, &mut maps);
    maps.direct_flows = vec![flow(two)];
    planner.settle(real + GRACE.slots, &mut maps);
    assert_eq!((maps.flags(2), planner.next_due()), (IN_USE | READY, None));
    assert_eq!(maps.direct_flows, [], "its slot decides");
}

#[test]
fn flows_stay_written_down_where_slots_never_decide_alone() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut affine = service(80, &[1, 2]);
    affine.affinity_seconds = 60;
    planner.sync(&desired([affine.clone()]), now, &mut maps);
    affine.backends.push(backend(3, true));
    planner.sync(&desired([affine]), now, &mut maps);
    let flows: Vec<_> = (0..512_u32)
        .map(|place| WrittenFlow {
            service: service_key(&vip_id(80), Scope::Cluster),
            hash: place << 23,
            backend: place % 3,
            key: None,
        })
        .collect();
    maps.direct_flows.clone_from(&flows);
    planner.settle(now + GRACE.hold, &mut maps);
    assert_eq!((remembering(&maps, 80), maps.direct_flows), (0, flows));
    assert_eq!(planner.next_due(), None);
}

#[test]
fn nothing_stays_written_down_of_an_address_that_is_given_up() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut outside = service(80, &[1, 2]);
    outside.frontends[0].scope = Scope::External;
    planner.sync(&desired([outside, service(81, &[1])]), now, &mut maps);
    let of = |port: u16| WrittenFlow {
        service: service_key(&vip_id(port), Scope::External),
        hash: 7,
        backend: 0,
        key: None,
    };
    maps.direct_flows = vec![of(80), of(82)];
    planner.sync(&desired([service(81, &[1])]), now, &mut maps);
    assert_eq!(maps.direct_flows, [of(82)]);
}

#[test]
fn slots_forget_whose_they_were_after_the_hold() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let start = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
    let mut three = service(80, &[1, 2, 3]);
    planner.sync(&desired([three.clone()]), start, &mut maps);
    let first = remembering(&maps, 80);
    assert!(first > 100, "{first} of 512 slots remember");
    assert_eq!(planner.next_due(), Some(start + GRACE.hold));

    // A later change holds for its own time; what it did not touch, for what is left of the earlier one.
    let half = start + GRACE.hold / 2;
    three.backends[2].preferred = false;
    planner.sync(&desired([three.clone()]), half, &mut maps);
    let both = remembering(&maps, 80);
    planner.settle(start + GRACE.hold, &mut maps);
    let later = remembering(&maps, 80);
    assert!(later > 0 && later < both, "{later} of {both} are left");
    planner.settle(half + GRACE.hold, &mut maps);
    assert_eq!((planner.next_due(), remembering(&maps, 80)), (None, 0));
    assert_eq!(
        maps.reachable(80).keys().copied().collect::<Vec<_>>(),
        [1, 2],
        "backends stay"
    );
}

#[test]
fn every_slot_of_a_larger_table_remembers_its_predecessor() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let before = table(&maps, 80);
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let after = table(&maps, 80);
    assert_eq!((before.len(), after.len()), (256, 512));
    for (position, slot) in after.iter().enumerate() {
        let old = before[position / 2].backend;
        let expected = if old == slot.backend { NO_BACKEND } else { old };
        assert_eq!(slot.previous, expected, "slot {position}");
    }
}

#[test]
fn what_slots_remember_outlives_the_agent_but_not_the_hold() {
    let mut maps = Maps::new(4096, 64);
    let start = Instant::now();
    let mut planner = maps.planner();
    planner.sync(&desired([service(80, &[1, 2])]), start, &mut maps);
    let want = desired([service(80, &[1, 2, 3])]);
    planner.sync(&want, start, &mut maps);
    let remembered = remembering(&maps, 80);

    let mut planner = maps.adopt();
    assert!(planner.sync(&want, start, &mut maps).is_unchanged());
    assert_eq!(remembering(&maps, 80), remembered);
    // Adoption takes the real time.
    planner.settle(Instant::now() + GRACE.hold, &mut maps);
    assert_eq!(remembering(&maps, 80), 0);
}

#[test]
fn a_single_backend_shrinks_its_table_when_nothing_is_remembered() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let want = desired([service(80, &[1])]);
    planner.sync(&want, now, &mut maps);
    assert_eq!(table(&maps, 80).len(), 256, "each slot knows whose it was");
    planner.sync(&want, now + GRACE.hold, &mut maps);
    assert_eq!(maps.reachable(80), BTreeMap::from([(1, 1)]));
    assert!(planner.sync(&want, now + GRACE.hold, &mut maps).is_unchanged());
}
