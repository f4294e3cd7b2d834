use std::{collections::BTreeSet, sync::Arc};

use causeway_control::{
    api::{ApiError, DeleteOptions, Registry, RegistryOptions, allocation},
    store::Store,
};
use causeway_proto::{
    Kind, Resource,
    v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec},
};
use futures::future::join_all;

type Shared = Arc<dyn Store>;

fn options() -> RegistryOptions {
    RegistryOptions::new("10.96.0.0/16".parse().expect("a range"))
}

async fn registry(store: &Shared, change: impl FnOnce(&mut RegistryOptions)) -> Registry {
    let mut options = options();
    change(&mut options);
    let registry = Registry::start(Arc::clone(store), options);
    registry.bootstrap().await.expect("the store is there");
    registry
}

fn port(number: i32, protocol: &str, node_port: i32) -> ServicePort {
    ServicePort {
        name: format!("p{number}-{}", protocol.to_lowercase()),
        port: number,
        protocol: protocol.into(),
        node_port,
        ..ServicePort::default()
    }
}

fn service(name: &str, kind: &str, ports: Vec<ServicePort>) -> Service {
    let spec = ServiceSpec {
        r#type: kind.into(),
        ports,
        ..ServiceSpec::default()
    };
    let mut service = Service {
        spec: Some(spec),
        ..Service::default()
    };
    name.clone_into(&mut service.meta_mut().name);
    service
}

fn node_port_service(name: &str, node_port: i32) -> Service {
    service(name, "NodePort", vec![port(80, "TCP", node_port)])
}

async fn create(registry: &Registry, service: Service) -> Result<Service, ApiError> {
    let created = registry.create(service.into_object(), false).await?;
    Ok(Service::from_object(created).expect("a service"))
}

async fn update(
    registry: &Registry,
    service: &Service,
    change: impl FnOnce(&mut ServiceSpec),
) -> Result<Service, ApiError> {
    let mut service = service.clone();
    service.meta_mut().resource_version.clear();
    change(service.spec.as_mut().expect("a specification"));
    let updated = registry.update(service.into_object(), false).await?;
    Ok(Service::from_object(updated).expect("a service"))
}

async fn delete(registry: &Registry, name: &str) {
    let options = DeleteOptions::default();
    registry
        .delete(Kind::Service, "", name, &options)
        .await
        .expect("deleted");
}

fn spec(service: &Service) -> &ServiceSpec {
    service.spec.as_ref().expect("a specification")
}

fn node_ports(service: &Service) -> Vec<i32> {
    spec(service).ports.iter().map(|port| port.node_port).collect()
}

/// What is claimed, for whom.
async fn claims(store: &Shared) -> BTreeSet<(String, String)> {
    let listing = store.list(allocation::PREFIX, None, 0, None).await.expect("a list");
    let claim = |item: &causeway_control::store::KeyValue| {
        let value = String::from_utf8_lossy(&item.value).into_owned();
        let (_, owner) = value.split_once(' ').expect("uid and key");
        let key = item.key.strip_prefix(allocation::PREFIX).expect("the prefix");
        (key.to_owned(), owner.to_owned())
    };
    listing.items.iter().map(claim).collect()
}

fn violations(error: &ApiError) -> Vec<String> {
    let ApiError::Invalid { violations, .. } = error else {
        panic!("{error}")
    };
    let text = |v: &tonic_types::FieldViolation| format!("{}: {}", v.field, v.description);
    violations.iter().map(text).collect()
}

pub async fn no_two_services_get_one_node_port(store: Shared) {
    let narrow = |options: &mut RegistryOptions| options.node_ports = "30000-30023".parse().expect("a range");
    let registries = [registry(&store, narrow).await, registry(&store, narrow).await];
    let creators = (0..24).map(|number| {
        let registry = registries[number % 2].clone();
        tokio::spawn(async move { create(&registry, node_port_service(&format!("s{number}"), 0)).await })
    });
    let made: Vec<Service> = join_all(creators)
        .await
        .into_iter()
        .map(|made| made.expect("no panic").expect("there is a port for each"))
        .collect();
    let ports: BTreeSet<i32> = made.iter().flat_map(node_ports).collect();
    assert_eq!(ports, (30_000..30_024).collect());

    let error = create(&registries[0], node_port_service("late", 0))
        .await
        .expect_err("none is left");
    assert_eq!(
        error.to_string(),
        "node port range 30000-30023 is exhausted: all of its 24 ports are allocated"
    );
    let vips = |claims: BTreeSet<(String, String)>| claims.iter().filter(|(key, _)| key.starts_with("vip/")).count();
    assert_eq!(vips(claims(&store).await), 24, "what failed keeps no VIP");

    // What the other control plane frees is found.
    delete(&registries[1], "s5").await;
    let late = create(&registries[0], node_port_service("late", 0))
        .await
        .expect("one is free");
    assert_eq!(node_ports(&late), node_ports(&made[5]));
}

pub async fn a_node_port_that_is_taken_is_refused_with_its_owner(store: Shared) {
    let registry = registry(&store, |_| {}).await;
    let ports = vec![port(80, "TCP", 30_080), port(443, "TCP", 30_443)];
    create(&registry, service("web", "NodePort", ports.clone()))
        .await
        .expect("free");
    let mut more = ports;
    more.push(port(53, "UDP", 30_080));
    let error = create(&registry, service("other", "NodePort", more))
        .await
        .expect_err("taken");
    assert_eq!(
        violations(&error),
        [
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated to service default/web",
            "spec.ports[1].nodePort: Invalid value: 30443: provided port is already allocated to service default/web",
        ]
    );
    let udp = service("udp", "NodePort", vec![port(53, "UDP", 30_080)]);
    create(&registry, udp).await.expect("another protocol is another port");
    let error = create(&registry, node_port_service("low", 8080))
        .await
        .expect_err("out of range");
    assert!(
        violations(&error)[0].ends_with("The range of valid ports is 30000-32767"),
        "{error}"
    );

    let own = create(&registry, node_port_service("own", 30_100)).await.expect("free");
    let error = update(&registry, &own, |spec| spec.ports[0].node_port = 30_443).await;
    assert!(violations(&error.expect_err("taken"))[0].ends_with("already allocated to service default/web"));
    let moved = update(&registry, &own, |spec| spec.ports[0].node_port = 30_101)
        .await
        .expect("free");
    assert_eq!(node_ports(&moved), [30_101]);
    create(&registry, node_port_service("after", 30_100))
        .await
        .expect("freed by the move");
}

pub async fn a_node_port_is_for_as_long_as_the_service_needs_it(store: Shared) {
    let registry = registry(&store, |_| {}).await;
    let web = create(&registry, node_port_service("web", 0)).await.expect("a port");
    let number = node_ports(&web)[0];
    // As a manifest that says nothing of node ports is applied again.
    let kept = update(&registry, &web, |spec| {
        spec.ports = vec![port(81, "TCP", 0), port(80, "TCP", 0)];
    });
    let kept = kept.await.expect("kept");
    assert_eq!(node_ports(&kept)[1], number);
    assert_ne!(node_ports(&kept)[0], 0);

    let inner = update(&registry, &kept, |spec| spec.r#type = "ClusterIP".into())
        .await
        .expect("no longer outside");
    assert_eq!(node_ports(&inner), [0, 0]);
    assert_eq!(spec(&inner).cluster_ip, spec(&web).cluster_ip);
    let owners: Vec<_> = claims(&store).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(owners, [format!("vip/{}", spec(&web).cluster_ip)]);
    create(&registry, node_port_service("next", number))
        .await
        .expect("free");
    let again = update(&registry, &inner, |spec| spec.r#type = "NodePort".into())
        .await
        .expect("others");
    assert!(!node_ports(&again).contains(&0) && !node_ports(&again).contains(&number));
    for name in ["web", "next"] {
        delete(&registry, name).await;
    }
    assert_eq!(claims(&store).await, BTreeSet::new());
}

pub async fn both_protocols_of_a_port_get_one_number(store: Shared) {
    let registry = registry(&store, |_| {}).await;
    let ports = vec![port(53, "UDP", 0), port(53, "TCP", 0), port(80, "TCP", 0)];
    let dns = create(&registry, service("dns", "NodePort", ports))
        .await
        .expect("ports");
    let numbers = node_ports(&dns);
    assert_eq!(numbers[0], numbers[1]);
    assert_ne!(numbers[0], numbers[2]);
}

pub async fn load_balancers_with_local_policy_get_a_health_check_port(store: Shared) {
    let registry = registry(&store, |_| {}).await;
    let mut wanted = service("web", "LoadBalancer", vec![port(80, "TCP", 0)]);
    wanted.spec.as_mut().expect("a specification").external_traffic_policy = "Local".into();
    let web = create(&registry, wanted).await.expect("ports");
    let check = spec(&web).health_check_node_port;
    assert!(check != 0 && node_ports(&web) != [check]);
    let error = create(&registry, node_port_service("thief", check))
        .await
        .expect_err("taken");
    assert!(
        violations(&error)[0].ends_with("already allocated to service default/web"),
        "{error}"
    );
    let error = update(&registry, &web, |spec| spec.health_check_node_port = 30_001).await;
    assert_eq!(
        violations(&error.expect_err("for life")),
        ["spec.healthCheckNodePort: Invalid value: 30001: field is immutable"]
    );
    let open = update(&registry, &web, |spec| spec.external_traffic_policy = "Cluster".into()).await;
    assert_eq!(spec(&open.expect("a policy")).health_check_node_port, 0);
    create(&registry, node_port_service("next", check)).await.expect("free");

    let mut without = service("without", "LoadBalancer", vec![port(80, "TCP", 0)]);
    without
        .spec
        .as_mut()
        .expect("a specification")
        .allocate_load_balancer_node_ports = Some(false);
    let without = create(&registry, without).await.expect("no ports");
    assert_eq!(node_ports(&without), [0]);
}

pub async fn dual_stack_services_have_a_vip_of_each_family(store: Shared) {
    let registry = registry(&store, |options| {
        options.secondary_service_cidr = Some("fd00:96::/120".parse().expect("a range"));
    })
    .await;
    let single = create(&registry, service("web", "ClusterIP", vec![port(80, "TCP", 0)])).await;
    let single = single.expect("a VIP");
    assert_eq!(
        (spec(&single).cluster_ips.len(), spec(&single).ip_families.as_slice()),
        (1, &["IPv4".to_owned()][..])
    );

    let dual = update(&registry, &single, |spec| {
        spec.ip_family_policy = "PreferDualStack".into();
    })
    .await;
    let dual = dual.expect("a second VIP");
    assert_eq!(spec(&dual).cluster_ip, spec(&single).cluster_ip);
    let [first, second] = spec(&dual).cluster_ips.as_slice() else {
        panic!("{dual:?}")
    };
    assert!(
        *first == spec(&dual).cluster_ip && second.starts_with("fd00:96::"),
        "{dual:?}"
    );
    let claimed = claims(&store).await;
    assert!(
        claimed.contains(&(format!("vip/{second}"), "default/web".into())),
        "{claimed:?}"
    );

    let mut asking = service("six", "ClusterIP", vec![port(80, "TCP", 0)]);
    asking.spec.as_mut().expect("a specification").cluster_ips = vec![second.clone()];
    let error = create(&registry, asking.clone()).await.expect_err("taken");
    assert!(
        violations(&error)[0].ends_with("already allocated to service default/web"),
        "{error}"
    );
    let back = update(&registry, &dual, |spec| spec.ip_family_policy = "SingleStack".into()).await;
    assert_eq!(spec(&back.expect("one VIP")).cluster_ips, std::slice::from_ref(first));
    let six = create(&registry, asking).await.expect("free");
    assert_eq!(
        (spec(&six).cluster_ip.as_str(), spec(&six).ip_families.as_slice()),
        (second.as_str(), &["IPv6".to_owned()][..])
    );
}

pub async fn load_balancer_addresses_are_given_once(store: Shared) {
    let registry = registry(&store, |options| {
        options.load_balancer_ranges = vec!["192.0.2.0/31".parse().expect("a range")];
    })
    .await;
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        let wanted = service(name, "LoadBalancer", vec![port(80, "TCP", 0)]);
        made.push(create(&registry, wanted).await.expect("a service"));
    }
    let balance = async |service: &Service| {
        let meta = service.meta();
        let object = registry.balance(&meta.namespace, &meta.name, &meta.uid).await?;
        let service = Service::from_object(object).expect("a service");
        let balancer = service
            .status
            .and_then(|status| status.load_balancer)
            .unwrap_or_default();
        Ok::<_, ApiError>(
            balancer
                .ingress
                .into_iter()
                .map(|ingress| ingress.ip)
                .collect::<Vec<_>>(),
        )
    };
    // Somebody else has set the first address, unknown to the allocator's memory.
    let mut own = made[0].clone();
    let ingress = vec![LoadBalancerIngress { ip: "192.0.2.0".into() }];
    own.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    own.meta_mut().resource_version.clear();
    let second = crate::suite::registry(&store, |_| {}).await;
    second
        .update_status(own.clone().into_object(), false)
        .await
        .expect("free");

    assert_eq!(balance(&made[1]).await.expect("an address"), ["192.0.2.1"]);
    assert_eq!(balance(&made[1]).await.expect("an address"), ["192.0.2.1"], "once");
    let error = balance(&made[2]).await.expect_err("none is left");
    assert_eq!(
        error.to_string(),
        "load-balancer range 192.0.2.0/31 is exhausted: all of its 2 addresses are allocated"
    );
    let mut thief = own;
    thief.meta_mut().name = "c".into();
    thief.meta_mut().uid.clear();
    let error = registry
        .update_status(thief.into_object(), false)
        .await
        .expect_err("taken");
    assert_eq!(
        violations(&error),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"192.0.2.0\": the address already belongs to service \
          default/a"
        ]
    );
    delete(&registry, "b").await;
    assert_eq!(balance(&made[2]).await.expect("freed"), ["192.0.2.1"]);
    let inner = registry.get(Kind::Service, "", "c").await.expect("there");
    let inner = Service::from_object_ref(&inner).expect("a service").clone();
    update(&registry, &inner, |spec| spec.r#type = "ClusterIP".into())
        .await
        .expect("another type");
    assert_eq!(balance(&inner).await.expect("taken back"), [""; 0]);
    assert!(
        !claims(&store)
            .await
            .iter()
            .any(|(key, _)| key == "load-balancer/192.0.2.1")
    );
}

pub async fn a_dry_run_takes_nothing(store: Shared) {
    let registry = registry(&store, |options| {
        options.node_ports = "30000-30000".parse().expect("a range");
    })
    .await;
    for _ in 0..3 {
        let wanted = node_port_service("web", 0).into_object();
        let answer = registry.create(wanted, true).await.expect("it would work");
        assert_eq!(
            node_ports(Service::from_object_ref(&answer).expect("a service")),
            [30_000]
        );
    }
    assert_eq!(claims(&store).await, BTreeSet::new());
    let web = create(&registry, node_port_service("web", 0)).await.expect("a port");
    assert!(web.status.is_none(), "a status that says nothing is not there");
}

pub async fn the_example_is_accepted(store: Shared) {
    let registry = registry(&store, |_| {}).await;
    let text = include_str!("../../../examples/outside.yaml");
    let documents = causeway_proto::manifest::parse_yaml(text).expect("a manifest");
    for document in documents {
        let created = registry.create(document.object, false).await.expect("accepted");
        let service = Service::from_object(created).expect("a service");
        assert_eq!(node_ports(&service)[0] != 0, spec(&service).r#type != "ClusterIP");
    }
}
