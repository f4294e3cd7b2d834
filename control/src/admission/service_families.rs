//! Address families of a service: which it gets (`ipFamilies`, `ipFamilyPolicy`), and whether its VIPs are of them.

use std::net::IpAddr;

use causeway_proto::v1::ServiceSpec;

use super::{
    field::{Path, Violations},
    service::HEADLESS,
};
use crate::cidr::{Cidr, Family};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
const POLICIES: &[&str] = &[PREFER, REQUIRE, SINGLE];
const FAMILIES: &[&str] = &["IPv4", "IPv6"];

/// A change that names no VIPs or families keeps them; one that changes only one of `clusterIP` and `clusterIPs` means both.
pub(super) fn carry_over(new: &mut ServiceSpec, old: &ServiceSpec) {
    if new.ip_family_policy.is_empty() {
        new.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    if new.ip_families.is_empty() {
        new.ip_families.clone_from(&old.ip_families);
    }
    if new.cluster_ip.is_empty() && (new.cluster_ips.is_empty() || new.cluster_ips == old.cluster_ips) {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    } else if new.cluster_ip == old.cluster_ip && new.cluster_ips.is_empty() {
        new.cluster_ips.clone_from(&old.cluster_ips);
    } else if new.cluster_ip != old.cluster_ip && new.cluster_ips == old.cluster_ips {
        if let Some(first) = new.cluster_ips.first_mut() {
            first.clone_from(&new.cluster_ip);
        }
    } else if new.cluster_ip == old.cluster_ip
        && let Some(first) = new.cluster_ips.first()
    {
        new.cluster_ip.clone_from(first);
    }
    // Back to one family: the second goes, unless the change says something else about it.
    if new.ip_family_policy == SINGLE && old.ip_family_policy != SINGLE {
        if new.ip_families == old.ip_families {
            new.ip_families.truncate(1);
        }
        if new.cluster_ips == old.cluster_ips {
            new.cluster_ips.truncate(1);
        }
    }
}

/// Decides families and policy as the cluster has them, and checks the VIPs that are asked for. `ranges` are the service ranges, one
/// for each family that the cluster has, the preferred one first.
pub(super) fn resolve(spec: &mut ServiceSpec, old: Option<&ServiceSpec>, ranges: &[Cidr], v: &mut Violations) {
    let path = Path::new("spec");
    let moved = old.is_some_and(|old| !old.cluster_ip.is_empty() && old.cluster_ip != spec.cluster_ip);
    // A VIP that may not change is told of elsewhere, and is no ground for more.
    if moved || !well_formed(spec, &path, v) {
        return;
    }
    let families = families(spec, &path, v);
    let Some(families) = families else { return };
    let policy = policy(spec, &families, ranges.len());
    match policy.as_str() {
        SINGLE if families.len() > 1 => {
            let rule = "must be RequireDualStack or PreferDualStack when two families are asked for";
            return v.invalid(&path.child("ipFamilyPolicy"), &policy, rule);
        }
        REQUIRE if ranges.len() < 2 => {
            let rule = "this cluster is not configured for dual-stack services";
            return v.invalid(&path.child("ipFamilyPolicy"), &policy, rule);
        }
        _ => {}
    }
    let families = complete(families, &policy, ranges);
    if let Some(first) = old.and_then(|old| old.ip_families.first())
        && families.first().is_some_and(|family| family.name() != first)
    {
        let first = path.child("ipFamilies").index(0);
        return v.invalid(
            &first,
            families.first().map_or("", |family| family.name()),
            "field is immutable",
        );
    }
    for (at, family) in families.iter().enumerate() {
        if !ranges.iter().any(|range| range.family() == *family) {
            v.invalid(
                &path.child("ipFamilies").index(at),
                family.name(),
                "not configured on this cluster",
            );
        }
    }
    in_ranges(spec, old, ranges, &path.child("clusterIPs"), v);
    spec.ip_families = families.iter().map(|family| family.name().to_owned()).collect();
    spec.ip_family_policy = policy;
}

/// Only names that exist, each once.
fn well_formed(spec: &ServiceSpec, path: &Path, v: &mut Violations) -> bool {
    let mut ok = true;
    let mut wrong = |found: bool| ok &= !found;
    let families = path.child("ipFamilies");
    for (at, name) in spec.ip_families.iter().enumerate() {
        if !FAMILIES.contains(&name.as_str()) {
            v.not_supported(&families.index(at), name, FAMILIES);
            wrong(true);
        } else if spec.ip_families[..at].contains(name) {
            v.duplicate(&families.index(at), name);
            wrong(true);
        }
    }
    let policy = &spec.ip_family_policy;
    if !policy.is_empty() && !POLICIES.contains(&policy.as_str()) {
        v.not_supported(&path.child("ipFamilyPolicy"), policy, POLICIES);
        wrong(true);
    }
    // Told of by `service::validate`.
    wrong(spec.cluster_ips.len() > 2);
    wrong(
        !spec
            .cluster_ips
            .iter()
            .all(|ip| ip == HEADLESS || ip.parse::<IpAddr>().is_ok()),
    );
    ok
}

/// The families that are asked for, by name or by a VIP; `None` when names and VIPs contradict each other.
fn families(spec: &ServiceSpec, path: &Path, v: &mut Violations) -> Option<Vec<Family>> {
    let mut families: Vec<Family> = spec
        .ip_families
        .iter()
        .filter_map(|name| Family::from_name(name))
        .collect();
    let mut fits = true;
    let path = path.child("clusterIPs");
    for (at, text) in spec.cluster_ips.iter().enumerate() {
        let Ok(address) = text.parse() else { continue };
        let family = Family::of(address);
        match families.get(at) {
            Some(expected) if *expected != family => {
                let rule = format!("expected an {expected} value as indicated by `ipFamilies[{at}]`");
                v.invalid(&path.index(at), text, &rule);
                fits = false;
            }
            Some(_) => {}
            None if families.contains(&family) => {
                let rule = "may specify no more than one IP for each IP family";
                v.invalid(&path, &spec.cluster_ips, rule);
                fits = false;
            }
            None => families.push(family),
        }
    }
    fits.then_some(families)
}

fn policy(spec: &ServiceSpec, families: &[Family], in_cluster: usize) -> String {
    if !spec.ip_family_policy.is_empty() {
        return spec.ip_family_policy.clone();
    }
    // Who writes the endpoints of a headless service may write any.
    let anything = spec.cluster_ip == HEADLESS && spec.selector.is_empty() && in_cluster > 1;
    let policy = if families.len() > 1 || anything {
        REQUIRE
    } else {
        SINGLE
    };
    policy.to_owned()
}

/// As many families as the policy wants.
fn complete(mut families: Vec<Family>, policy: &str, ranges: &[Cidr]) -> Vec<Family> {
    let in_cluster = || ranges.iter().map(Cidr::family);
    if families.is_empty() {
        families.extend(in_cluster().next());
    }
    if policy != SINGLE {
        let more: Vec<_> = in_cluster().filter(|family| !families.contains(family)).collect();
        families.extend(more);
    }
    // A preference that the cluster cannot meet is none.
    if policy == PREFER {
        let second_is_there = families
            .get(1)
            .is_none_or(|second| in_cluster().any(|family| family == *second));
        families.truncate(if second_is_there { 2 } else { 1 });
    }
    families
}

/// VIPs that are asked for must be of a range, and not its first or last address. Those from before it was changed stay.
fn in_ranges(spec: &ServiceSpec, old: Option<&ServiceSpec>, ranges: &[Cidr], path: &Path, v: &mut Violations) {
    for (at, text) in spec.cluster_ips.iter().enumerate() {
        let had = old.is_some_and(|old| old.cluster_ips.contains(text) || old.cluster_ip == *text);
        let (false, Ok(address)) = (had, text.parse::<IpAddr>()) else {
            continue;
        };
        // Without a range for it, the family was complained of.
        let Some(range) = ranges.iter().find(|range| range.family() == Family::of(address)) else {
            continue;
        };
        let usable = range
            .offset(address)
            .is_some_and(|offset| offset > 0 && offset < range.size() - 1);
        if !usable {
            let rule = format!(
                "failed to allocate IP {text}: the provided IP is not in the valid range, which is {range} without its first and \
                 last address"
            );
            v.invalid(&path.index(at), text, &rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::field::texts, *};

    const V4: &str = "10.96.0.0/16";
    const V6: &str = "fd00:96::/112";

    fn resolved(
        cluster: &[&str],
        old: Option<&ServiceSpec>,
        alter: impl FnOnce(&mut ServiceSpec),
    ) -> Result<ServiceSpec, Vec<String>> {
        let ranges: Vec<Cidr> = cluster.iter().map(|range| range.parse().unwrap()).collect();
        let mut spec = old.cloned().unwrap_or_default();
        alter(&mut spec);
        if let Some(old) = old {
            carry_over(&mut spec, old);
        }
        if spec.cluster_ip.is_empty() {
            spec.cluster_ip = spec.cluster_ips.first().cloned().unwrap_or_default();
        } else if spec.cluster_ips.is_empty() {
            spec.cluster_ips = vec![spec.cluster_ip.clone()];
        }
        let mut v = Violations::default();
        resolve(&mut spec, old, &ranges, &mut v);
        let wrong = texts(v);
        if wrong.is_empty() { Ok(spec) } else { Err(wrong) }
    }

    fn shown(spec: &Result<ServiceSpec, Vec<String>>) -> String {
        match spec {
            Ok(spec) => format!("{} {}", spec.ip_family_policy, spec.ip_families.join(",")),
            Err(wrong) => wrong.join("; "),
        }
    }

    fn with_policy(policy: &'static str) -> impl Fn(&mut ServiceSpec) {
        move |spec| spec.ip_family_policy = policy.into()
    }

    #[test]
    fn without_a_word_a_service_has_the_clusters_first_family() {
        assert_eq!(shown(&resolved(&[V4], None, |_| {})), "SingleStack IPv4");
        assert_eq!(shown(&resolved(&[V6, V4], None, |_| {})), "SingleStack IPv6");
        let headless = |spec: &mut ServiceSpec| spec.cluster_ip = HEADLESS.into();
        assert_eq!(
            shown(&resolved(&[V4, V6], None, headless)),
            "RequireDualStack IPv4,IPv6"
        );
        assert_eq!(shown(&resolved(&[V4], None, headless)), "SingleStack IPv4");
    }

    #[test]
    fn policies_are_met_or_refused() {
        assert_eq!(
            shown(&resolved(&[V4, V6], None, with_policy(PREFER))),
            "PreferDualStack IPv4,IPv6"
        );
        assert_eq!(
            shown(&resolved(&[V4], None, with_policy(PREFER))),
            "PreferDualStack IPv4"
        );
        assert_eq!(
            shown(&resolved(&[V4, V6], None, with_policy(REQUIRE))),
            "RequireDualStack IPv4,IPv6"
        );
        assert_eq!(
            shown(&resolved(&[V4], None, with_policy(REQUIRE))),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        );
        assert!(
            shown(&resolved(&[V4], None, with_policy("Both"))).starts_with("spec.ipFamilyPolicy: Unsupported value")
        );
    }

    #[test]
    fn families_are_those_of_the_names_and_of_the_vips() {
        let ask = |families: &'static [&'static str], ips: &'static [&'static str]| {
            move |spec: &mut ServiceSpec| {
                spec.ip_families = families.iter().map(|name| (*name).to_owned()).collect();
                spec.cluster_ips = ips.iter().map(|ip| (*ip).to_owned()).collect();
            }
        };
        let of = |families, ips| shown(&resolved(&[V4, V6], None, ask(families, ips)));
        assert_eq!(of(&["IPv6"], &[]), "SingleStack IPv6");
        assert_eq!(of(&["IPv6", "IPv4"], &[]), "RequireDualStack IPv6,IPv4");
        assert_eq!(of(&[], &["fd00:96::a", "10.96.0.10"]), "RequireDualStack IPv6,IPv4");
        assert!(of(&["IPv4"], &["fd00:96::a"]).contains("expected an IPv4 value as indicated by `ipFamilies[0]`"));
        assert!(of(&[], &["fd00:96::a", "fd00:96::b"]).contains("no more than one IP for each IP family"));
        assert!(of(&["IPv4", "IPv4"], &[]).starts_with("spec.ipFamilies[1]: Duplicate value"));
        assert!(of(&[], &["fd00:97::a"]).contains("not in the valid range, which is fd00:96::/112"));
        assert!(of(&[], &["fd00:96::"]).contains("not in the valid range"));
        assert_eq!(
            shown(&resolved(&[V4], None, ask(&["IPv6"], &[]))),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
        );
    }

    #[test]
    fn a_second_family_comes_and_goes_and_the_first_stays() {
        let single = |spec: &mut ServiceSpec| spec.cluster_ip = "10.96.0.10".into();
        let old = resolved(&[V4, V6], None, single).unwrap();
        let mut dual = resolved(&[V4, V6], Some(&old), with_policy(PREFER)).unwrap();
        assert_eq!(
            (dual.ip_families.len(), dual.cluster_ips.len()),
            (2, 1),
            "the second VIP is to be allocated"
        );
        dual.cluster_ips.push("fd00:96::a".into());
        let kept = resolved(&[V4, V6], Some(&dual), |spec| {
            spec.cluster_ips.clear();
            spec.ip_families.clear();
        });
        assert_eq!(kept.unwrap().cluster_ips, ["10.96.0.10", "fd00:96::a"]);
        let back = resolved(&[V4, V6], Some(&dual), with_policy(SINGLE)).unwrap();
        assert_eq!(
            (back.ip_families, back.cluster_ips),
            (vec!["IPv4".to_owned()], vec!["10.96.0.10".to_owned()])
        );
        let turned = resolved(&[V4, V6], Some(&old), |spec| {
            spec.cluster_ips.clear();
            spec.ip_families = vec!["IPv6".into()];
        });
        assert!(shown(&turned).contains("expected an IPv6 value"), "{turned:?}");
    }
}
