//! Kernel parameters of the node's network namespace.

use std::{fs, path::Path};

use super::NetworkError;

/// Writes `/proc/sys/net/<key>` unless it holds the value already.
pub(super) fn set(key: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net").join(key);
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl {
        path,
        value: value.to_owned(),
        source,
    })
}

/// Keeps the kernel from dropping packets on `link` whose source it would route elsewhere, which is normal for balanced
/// packets. The stricter of `all` and the link's own value counts (Documentation/networking/ip-sysctl.rst), except that
/// 2 (loose) wins over 1 (strict); so a strict `all` is answered with loose.
pub(super) fn relax_reverse_path_filter(link: &str) -> Result<(), NetworkError> {
    let strict = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").is_ok_and(|value| value.trim() == "1");
    set(&format!("ipv4/conf/{link}/rp_filter"), if strict { "2" } else { "0" })
}
