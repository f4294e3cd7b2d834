//! Kernel parameters of the node's network namespace.

use std::{fs, path::Path};

use super::NetworkError;

fn get(key: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys/net").join(key)).ok()?;
    Some(text.trim().to_owned())
}

/// Writes `/proc/sys/net/<key>` unless it holds the value already.
pub(super) fn set(key: &str, value: &str) -> Result<(), NetworkError> {
    if get(key).is_some_and(|present| present == value) {
        return Ok(());
    }
    let path = Path::new("/proc/sys/net").join(key);
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl {
        path,
        value: value.to_owned(),
        source,
    })
}

/// Makes the node forward IPv6. A forwarding node stops to listen to routers (Documentation/networking/ip-sysctl.rst,
/// `accept_ra`), by whom the uplink may have its default route, unless it is told to go on.
pub(super) fn forward_ipv6(uplink: &str) -> Result<(), NetworkError> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Err(NetworkError::NoIpv6);
    }
    let key = format!("ipv6/conf/{uplink}/accept_ra");
    if get(&key).is_some_and(|value| value == "1") {
        set(&key, "2")?;
    }
    set("ipv6/conf/all/forwarding", "1")
}

/// Makes a link carry IPv6 with the addresses that it is given and no others: none of its own making, from routers or
/// link-local. Has to be said before the link is up.
pub(super) fn plain_ipv6(link: &str) -> Result<(), NetworkError> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Err(NetworkError::NoIpv6);
    }
    // 1: `IN6_ADDR_GEN_MODE_NONE` (linux/if_link.h).
    for (key, value) in [("accept_ra", "0"), ("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
        set(&format!("ipv6/conf/{link}/{key}"), value)?;
    }
    Ok(())
}

/// Keeps the kernel from dropping packets on `link` whose source it would route elsewhere, which is normal for balanced
/// packets. The stricter of `all` and the link's own value counts (Documentation/networking/ip-sysctl.rst), except that
/// 2 (loose) wins over 1 (strict); so a strict `all` is answered with loose.
pub(super) fn relax_reverse_path_filter(link: &str) -> Result<(), NetworkError> {
    let strict = get("ipv4/conf/all/rp_filter").is_some_and(|value| value == "1");
    set(&format!("ipv4/conf/{link}/rp_filter"), if strict { "2" } else { "0" })
}
