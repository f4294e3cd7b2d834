//! What an agent finds in the maps of the one before it.

use super::*;

#[test]
fn a_restarted_agent_writes_nothing_and_deletes_only_by_a_list() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[2]), service(82, &[])]);
    maps.planner().sync(&want, now, &mut maps);
    let before = maps.services.clone();

    let mut planner = maps.adopt();
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
    assert_eq!(maps.services, before);

    let mut planner = maps.adopt();
    let report = planner.sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    assert_eq!(applied(&report), (0, 2));
    assert_eq!(maps.services.len(), 1);
}

#[test]
fn new_tables_do_not_overwrite_adopted_ones() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    maps.planner().sync(&desired([service(80, &[1, 2, 3])]), now, &mut maps);
    let mut planner = maps.adopt();
    // `Maps::write_slot` refuses writes into live tables.
    planner.sync(&desired([service(80, &[1, 2]), service(81, &[4, 5])]), now, &mut maps);
    assert_eq!(maps.reachable(80).len(), 2);
    assert_eq!(maps.reachable(81).len(), 2);
    let ids: HashSet<u32> = maps.services.values().map(|service| service.service_id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_table_that_cannot_be_trusted_is_written_anew() {
    let mut maps = Maps::new(4096, 64);
    let now = Instant::now();
    let want = desired([service(80, &[1, 2, 3]), service(81, &[4, 5])]);
    maps.planner().sync(&want, now, &mut maps);
    // As after a crash: a slot of a backend that nobody has, and a second service over the range and id of the first.
    let first = maps.services[&service_key(&vip_id(80), Scope::Cluster)];
    maps.slots.write(
        first.slot_base,
        &Slot {
            backend: 63,
            previous: NO_BACKEND,
        },
    );
    maps.services.insert(service_key(&vip_id(81), Scope::Cluster), first);

    let mut planner = maps.adopt();
    maps.live.clear(); // Only so that the fake does not take the doubtful ranges for live ones.
    planner.sync(&want, now, &mut maps);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(maps.reachable(81).keys().copied().collect::<Vec<_>>(), [4, 5]);
    let ids: HashSet<u32> = maps.services.values().map(|service| service.service_id).collect();
    assert_eq!(ids.len(), 2);
}
