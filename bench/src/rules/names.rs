//! Chain names made from hashes.

use sha2::{Digest as _, Sha256};

/// The first `length` characters of the base-32 form (RFC 4648, 6) of the SHA-256 hash of a text.
pub(super) fn hash(text: &str, length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let bit = |index: usize| digest[index / 8] >> (7 - index % 8) & 1;
    (0..length)
        .map(|character| {
            let value = (0..5).fold(0, |value, offset| value << 1 | bit(character * 5 + offset));
            char::from(ALPHABET[usize::from(value)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kube_proxy() {
        assert_eq!(hash("ns1/svc1:p80tcp", 16), "XPGD46QRK7WJZT7O");
        assert_eq!(hash("ns1/svc1:p80tcp10.180.0.1:80", 16), "SXIVWICOYRO3J4NJ");
        assert_eq!(hash("ns1/svc1/tcp/p80", 8), "ULMVA6XW");
    }
}
