//! Several frontends of one service, and one that changes hands.

use super::*;

#[test]
fn frontends_that_choose_alike_share_a_table_and_an_id() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut one = service(80, &[1, 2]);
    let external = |port: u16, local_only| Frontend {
        scope: Scope::External,
        local_only,
        ..Frontend::cluster(vip_id(port))
    };
    one.frontends
        .extend([external(80, false), external(30_000, false), external(443, true)]);
    let report = planner.sync(&desired([one.clone()]), now, &mut maps);
    assert_eq!((report.services_written, report.slots_written), (4, 512));
    let entry = |maps: &Maps, port, scope| maps.services[&service_key(&vip_id(port), scope)];
    let cluster = entry(&maps, 80, Scope::Cluster);
    assert_eq!(entry(&maps, 80, Scope::External), cluster);
    assert_eq!(entry(&maps, 30_000, Scope::External), cluster);
    let local = entry(&maps, 443, Scope::External);
    assert!(local.service_id != cluster.service_id && local.slot_base != cluster.slot_base);
    assert_eq!(maps.names.len(), 2);

    // A frontend that goes takes nothing with it, and all follow a new table.
    one.frontends.remove(1);
    one.backends.push(backend(3, true));
    for _ in 0..2 {
        planner = maps.adopt();
        planner.sync(&desired([one.clone()]), now, &mut maps);
        let cluster = entry(&maps, 80, Scope::Cluster);
        assert_eq!(entry(&maps, 30_000, Scope::External), cluster);
        assert_eq!(maps.reachable(80).len(), 3);
        assert_eq!((maps.services.len(), maps.names.len()), (3, 2));
    }
    planner.sync(&desired([]), now, &mut maps);
    assert!(maps.services.is_empty() && maps.names.is_empty() && maps.live.is_empty());
}

#[test]
fn a_frontend_changes_hands_in_one_step() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let named = |name: &str, backends: &[u16]| DesiredService {
        name: format!("default/{name}:80"),
        ..service(80, backends)
    };
    planner.sync(&desired([named("old", &[1, 2])]), now, &mut maps);
    maps.log.clear();
    let update = [
        ServicesOf {
            owner: "default/new".into(),
            services: vec![named("new", &[3, 4])],
        },
        ServicesOf {
            owner: "default/old".into(),
            services: Vec::new(),
        },
    ];
    assert_eq!(applied(&planner.update(update, now, &mut maps)), (1, 0));
    assert!(!maps.log.contains(&"remove"), "{:?}", maps.log);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(maps.names.values().collect::<Vec<_>>(), ["default/new:80"]);
    assert_eq!(planner.owners().collect::<Vec<_>>(), ["default/new"]);
}

/// Owners of one service each, so many that they are not all dealt with together.
fn very_many() -> impl Iterator<Item = ServicesOf> {
    (1000..1600).map(|vip| owned("many", vip, &[1, 2]))
}

fn owned(name: &str, vip: u16, backends: &[u16]) -> ServicesOf {
    let owner = format!("default/{name}-{vip}");
    let name = format!("{owner}:80");
    let services = vec![DesiredService {
        name,
        ..service(vip, backends)
    }];
    ServicesOf { owner, services }
}

#[test]
fn a_frontend_changes_hands_in_one_step_among_very_many_others() {
    let mut maps = Maps::new(1 << 16, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    planner.update([owned("old", 80, &[1, 2])], now, &mut maps);
    maps.log.clear();
    let gone = ServicesOf {
        owner: "default/old-80".into(),
        services: Vec::new(),
    };
    let update = std::iter::once(gone)
        .chain(very_many())
        .chain([owned("new", 80, &[3, 4])]);
    assert_eq!(applied(&planner.update(update, now, &mut maps)), (601, 0));
    assert!(!maps.log.contains(&"remove"), "{:?}", maps.log);
    assert_eq!(maps.reachable(80).keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!((maps.services.len(), maps.names.len()), (601, 601));
    assert_eq!(planner.owners().count(), 601);
}

#[test]
fn very_many_new_services_take_nothing_from_one_that_was_there() {
    let mut maps = Maps::new(1 << 16, 64);
    let now = Instant::now();
    let mut one = owned("one", 80, &[3, 4]);
    one.services[0].backends[1].preferred = false;
    maps.planner().update([one.clone()], now, &mut maps);

    // No table of the adopted ones has the second backend: only its service, which comes last, says that it is wanted.
    let mut planner = maps.adopt();
    planner.all_seen();
    let report = planner.update(very_many().chain([one]), now, &mut maps);
    assert_eq!(applied(&report), (600, 0));
    assert_eq!(report.backends_written, 2, "only those of the new ones");
    assert_eq!(maps.flags(4), IN_USE | LOCAL | READY);
}

#[test]
fn each_frontend_has_a_table_of_the_backends_that_it_may_choose() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let mut one = service(80, &[1, 2, 3]);
    one.backends[1].local = false;
    one.backends[2].preferred = false;
    one.frontends.push(Frontend {
        scope: Scope::External,
        local_only: true,
        ..one.frontends[0].clone()
    });
    planner.sync(&desired([one.clone()]), now, &mut maps);
    let reached = |maps: &Maps, scope| maps.reachable_from(80, scope).keys().copied().collect::<Vec<_>>();
    assert_eq!(reached(&maps, Scope::Cluster), [1, 2]);
    assert_eq!(reached(&maps, Scope::External), [1, 3]);
    assert!(planner.sync(&desired([one.clone()]), now, &mut maps).is_unchanged());
    assert!(maps.adopt().sync(&desired([one.clone()]), now, &mut maps).slots_written == 0);

    one.frontends.pop();
    assert_eq!(applied(&planner.sync(&desired([one]), now, &mut maps)), (0, 1));
    assert!(!maps.services.contains_key(&service_key(&vip_id(80), Scope::External)));
}

#[test]
fn source_ranges_are_written_before_the_flag_and_go_with_the_service() {
    let mut maps = Maps::new(4096, 64);
    let mut planner = maps.planner();
    let now = Instant::now();
    let range = SourceRange {
        address: "192.0.2.0".parse().unwrap(),
        prefix_len: 24,
    };
    let mut one = service(80, &[1]);
    one.frontends[0].scope = Scope::External;
    one.frontends[0].source_ranges = vec![range];
    planner.sync(&desired([one.clone()]), now, &mut maps);
    let key = service_key(&vip_id(80), Scope::External);
    let written = maps.services[&key];
    assert_eq!(written.flags & SERVICE_SOURCE_RANGES, SERVICE_SOURCE_RANGES);
    assert_eq!(maps.source_ranges[&written.service_id], [range]);
    assert!(
        maps.adopt()
            .sync(&desired([one.clone()]), now, &mut maps)
            .is_unchanged()
    );

    one.frontends[0].source_ranges.clear();
    planner.sync(&desired([one]), now, &mut maps);
    assert_eq!(maps.services[&key].flags & SERVICE_SOURCE_RANGES, 0);
    assert!(maps.source_ranges[&written.service_id].is_empty());
}
