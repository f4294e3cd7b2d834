//! What is written, and in which order.

use super::*;

#[test]
fn backends_come_before_slots_and_slots_before_the_service() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service"]);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(maps.names[&1], "default/s:80");

    maps.log.clear();
    planner.sync(&desired([]), now, &mut maps);
    assert_eq!(maps.log, ["remove", "backend"]);
    assert!(maps.services.is_empty() && maps.names.is_empty());
}

#[test]
fn nothing_changed_is_nothing_written() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[])]);
    let now = Instant::now();
    assert_eq!(applied(&planner.sync(&want, now, &mut maps)), (2, 0));
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
}

#[test]
fn readiness_is_a_bit_and_not_a_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let mut want = desired([service(80, &[1, 2])]);
    let now = Instant::now();
    planner.sync(&want, now, &mut maps);
    want.services[0].backends[1].ready = false;
    let report = planner.sync(&want, now, &mut maps);
    assert_eq!(
        (report.backends_written, report.slots_written, report.services_written),
        (1, 0, 0)
    );
    assert_eq!(maps.flags(1), IN_USE | LOCAL | READY);
    assert_eq!(maps.flags(2), IN_USE | LOCAL);
    assert_eq!(maps.reachable(80).len(), 2, "still in the table");
}

#[test]
fn a_backend_that_leaves_keeps_its_flows_for_a_while() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | TERMINATING);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1]);
    planner.sync(&desired([service(80, &[1])]), now + GRACE.backends, &mut maps);
    assert_eq!(maps.flags(2), 0);
}

#[test]
fn a_leaver_takes_no_connection_even_before_the_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    maps.log.clear();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service"]);
}

#[test]
fn an_only_backend_that_gives_way_is_retired_after_the_new_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    maps.log.clear();
    planner.sync(&desired([service(80, &[2])]), now, &mut maps);
    assert_eq!(maps.log, ["backend", "slots", "service", "backend"]);
    assert_eq!(
        maps.reachable_from(80, Scope::Cluster)
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [2]
    );
}

#[test]
fn a_new_owner_of_an_index_has_a_new_generation() {
    let mut maps = Maps::new(4096, 1);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1])]), now, &mut maps);
    let first = maps.backends.read(0).unwrap().generation;

    let report = planner.sync(&desired([service(80, &[2])]), now, &mut maps);
    assert!(
        matches!(report.not_applied[0].reason, Reason::BackendsFull),
        "{report:?}"
    );
    assert_eq!(
        maps.reachable(80),
        BTreeMap::from([(1, 1)]),
        "the old table stays whole"
    );
    assert_eq!(maps.flags(1), IN_USE | TERMINATING, "but nobody is sent there");

    planner.sync(&desired([]), now, &mut maps);
    let later = now + GRACE.backends;
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[2])]), later, &mut maps)),
        (1, 0)
    );
    assert_eq!(maps.backends.read(0).unwrap().generation, first + 1);
}

#[test]
fn who_is_not_preferred_any_more_keeps_its_flows() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let mut now = Instant::now();
    let mut one = service(80, &[1, 2]);
    planner.sync(&desired([one.clone()]), now, &mut maps);
    one.backends[1].preferred = false;
    planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1]);
    now += GRACE.backends * 2;
    planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | LOCAL | READY, "it is not on its way out");

    // Not in a table, and yet not forgotten by an agent that starts again.
    let mut planner = maps.adopt();
    planner.sync(&desired([one.clone()]), now, &mut maps);
    now += GRACE.backends * 2;
    planner.sync(&desired([one]), now, &mut maps);
    assert_eq!(maps.flags(2), IN_USE | LOCAL | READY);
}

#[test]
fn a_changed_name_or_affinity_keeps_the_table() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    let renamed = DesiredService {
        name: "default/s:http".into(),
        affinity_seconds: 60,
        ..service(80, &[1, 2])
    };
    let report = planner.sync(&desired([renamed]), now, &mut maps);
    assert_eq!((report.services_written, report.slots_written), (1, 0));
    let service = maps.services[&service_key(&vip_id(80), Scope::Cluster)];
    assert_eq!(
        (service.affinity_seconds, maps.names[&service.service_id].as_str()),
        (60, "default/s:http")
    );
}
