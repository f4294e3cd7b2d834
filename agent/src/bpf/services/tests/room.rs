//! Maps that are nearly full, and full.

use std::collections::BTreeSet;

use super::*;

#[test]
fn oversized_tables_give_room_to_a_service_that_has_none() {
    let mut maps = Maps::new(2200, 512);
    let mut planner = maps.planner();
    let mut now = Instant::now();
    let eight: Vec<u16> = (1..=8).collect();
    planner.sync(&desired([service(80, &eight)]), now, &mut maps);
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    now += GRACE.hold;
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    assert_eq!(table(&maps, 80).len(), 1024, "nobody needs the room");

    let wide: Vec<u16> = (10..210).collect();
    let want = desired([service(80, &[1, 2]), service(81, &wide), service(82, &wide)]);
    let refused = planner.sync(&want, now, &mut maps).not_applied;
    assert!(matches!(refused[0].reason, Reason::SlotsFull { .. }), "{refused:?}");
    planner.sync(&want, now, &mut maps);
    assert!(table(&maps, 80).len() < 1024);
    now += GRACE.slots;
    assert!(planner.sync(&want, now, &mut maps).not_applied.is_empty());
    assert_eq!(maps.reachable(82).len(), 200);
}

#[test]
fn a_service_that_does_not_fit_is_named_and_the_others_stay_whole() {
    let mut maps = Maps::new(260, 4096);
    let mut planner = maps.planner();
    let now = Instant::now();
    let many: Vec<u16> = (1..=400).collect();
    let report = planner.sync(&desired([service(80, &[1, 2]), service(81, &many)]), now, &mut maps);
    let [missed] = report.not_applied.as_slice() else {
        panic!("{report:?}")
    };
    assert!(missed.to_string().contains("default/s:81"), "{missed}");
    assert!(matches!(missed.reason, Reason::SlotsFull { backends: 400, .. }));
    assert_eq!(maps.reachable(80).len(), 2);
    assert!(!maps.services.contains_key(&service_key(&vip_id(81), Scope::Cluster)));

    // What it took on the way is given back: after the grace period those backends are free.
    planner.sync(&desired([service(80, &[1, 2])]), now, &mut maps);
    planner.sync(&desired([service(80, &[1, 2])]), now + GRACE.backends, &mut maps);
    let used = (0..4096)
        .filter(|index| maps.backends.flags(*index).unwrap() & IN_USE != 0)
        .count();
    assert_eq!(used, 2);
}

#[test]
fn a_coarser_table_is_better_than_none() {
    let mut maps = Maps::new(300, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    // 256 slots would be best for each.
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[1, 2]), service(81, &[3, 4])]), now, &mut maps)),
        (2, 0)
    );
    let lengths: Vec<u32> = maps.services.values().map(|service| service.slot_count).collect();
    assert_eq!(lengths, [256, 32]);
}

#[test]
fn a_full_map_of_services_is_reported_and_leaves_nothing_behind() {
    let mut maps = Maps::new(4096, 64);
    maps.services_max = 1;
    let mut planner = maps.planner();
    let now = Instant::now();
    let report = planner.sync(&desired([service(80, &[1]), service(81, &[2])]), now, &mut maps);
    assert!(
        matches!(report.not_applied[0].reason, Reason::Map(MapsError::Full { .. })),
        "{report:?}"
    );
    assert_eq!(maps.names.len(), 1);
    maps.services_max = 2;
    assert_eq!(
        applied(&planner.sync(&desired([service(80, &[1]), service(81, &[2])]), now, &mut maps)),
        (1, 0)
    );
}

#[test]
fn many_services_all_find_room_in_maps_of_the_ordinary_size() {
    let sizes = crate::bpf::MapSizes::default();
    let mut maps = Maps::new(sizes.slots, sizes.backends);
    let mut planner = ServiceSync::new(sizes.slots, sizes.backends, sizes.services, GRACE);
    let address = |prefix: u8, n: u32| std::net::IpAddr::from([prefix, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
    let service = |n: u32| {
        let one = |i| DesiredBackend {
            id: BackendId {
                address: address(11, 3 * n + i),
                ..backend(1, true).id
            },
            ..backend(1, true)
        };
        let vip = VipId {
            address: address(10, n),
            port: 80,
            protocol: Protocol::TCP,
        };
        DesiredService::cluster_ip(vip, format!("default/s{n}:80"), (0..3).map(one).collect())
    };
    let want = desired((0..40_000).map(service));
    let now = Instant::now();
    assert_eq!(applied(&planner.sync(&want, now, &mut maps)), (40_000, 0));
    assert!(planner.sync(&want, now, &mut maps).is_unchanged());
}

#[test]
fn of_many_new_services_those_that_fit_are_there_and_each_other_is_named() {
    let want = desired((1..=600).map(|vip| service(vip, &[1, 2])));
    let named = |report: &SyncReport| -> BTreeSet<String> {
        report.not_applied.iter().map(|failure| failure.name.clone()).collect()
    };
    for limit in [0, 1, 255, 256, 257, 599] {
        let mut maps = Maps::new(1 << 16, 64);
        (maps.services_max, maps.names_max) = (limit + 1, limit);
        let mut planner = maps.planner();
        let now = Instant::now();
        let report = planner.sync(&want, now, &mut maps);
        assert_eq!(report.services_written, limit);
        assert_eq!(
            (named(&report).len(), report.not_applied.len()),
            (600 - limit, 600 - limit)
        );
        assert!(
            report
                .not_applied
                .iter()
                .all(|failure| failure.to_string().contains("SERVICE_NAMES is full")),
            "{report:?}"
        );
        assert_eq!((maps.services.len(), maps.names.len()), (limit, limit));

        // Names are no longer what is short; there is room for one more service.
        maps.names_max = usize::MAX;
        let now = now + GRACE.slots;
        let report = planner.sync(&want, now, &mut maps);
        assert_eq!((report.services_written, report.not_applied.len()), (1, 599 - limit));
        assert!(
            report
                .not_applied
                .iter()
                .all(|failure| failure.to_string().contains("SERVICES is full"))
        );
        assert_eq!((maps.services.len(), maps.names.len()), (limit + 1, limit + 1));

        maps.services_max = usize::MAX;
        let now = now + GRACE.slots;
        let report = planner.sync(&want, now, &mut maps);
        assert_eq!((report.services_written, report.not_applied.len()), (599 - limit, 0));
        assert!(planner.sync(&want, now, &mut maps).is_unchanged());
    }
}
