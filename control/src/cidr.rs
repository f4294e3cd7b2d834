//! Address ranges.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// An IPv4 range such as 10.96.0.0/16. No address bit is set beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix_len: u8,
}

/// Why a text is not a range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form address/length.
    #[error("must be a valid IPv4 range, (e.g. 10.96.0.0/16)")]
    Syntax,
    /// The address has bits beyond the prefix.
    #[error("must not have bits set beyond its prefix, did you mean {0}?")]
    HostBits(Cidr),
}

impl Cidr {
    /// The range of a prefix length at an address, whose further bits are dropped.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then(|| Self {
            base: address.to_bits() & mask(prefix_len),
            prefix_len,
        })
    }

    /// First address.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// Bits that are the same in all its addresses.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Number of addresses, network and broadcast address included.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix_len)
    }

    /// The address at a distance from the first.
    pub fn address(&self, offset: u64) -> Option<Ipv4Addr> {
        (offset < self.size()).then(|| Ipv4Addr::from_bits(self.base + offset as u32))
    }

    /// Distance of an address from the first, or `None` outside the range.
    pub fn offset(&self, address: Ipv4Addr) -> Option<u64> {
        (address.to_bits() & mask(self.prefix_len) == self.base).then(|| u64::from(address.to_bits() - self.base))
    }

    /// True when the ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.prefix_len.min(other.prefix_len);
        self.base & mask(shorter) == other.base & mask(shorter)
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').ok_or(CidrError::Syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| CidrError::Syntax)?;
        if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CidrError::Syntax);
        }
        let length = length.parse().map_err(|_| CidrError::Syntax)?;
        let cidr = Self::new(address, length).ok_or(CidrError::Syntax)?;
        if cidr.network() == address {
            Ok(cidr)
        } else {
            Err(CidrError::HostBits(cidr))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        let cidr: Cidr = "10.96.0.0/16".parse().unwrap();
        assert_eq!((cidr.to_string().as_str(), cidr.size()), ("10.96.0.0/16", 65536));
        assert_eq!(
            "10.96.0.1/16".parse::<Cidr>().unwrap_err().to_string(),
            "must not have bits set beyond its prefix, did you mean 10.96.0.0/16?"
        );
        for text in [
            "",
            "10.96.0.0",
            "10.96.0.0/33",
            "10.96.0.0/+8",
            "10.96.0/16",
            "fd00::/64",
            "10.96.0.0/",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Syntax), "{text}");
        }
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
        assert_eq!("10.0.0.7/32".parse::<Cidr>().unwrap().size(), 1);
    }

    #[test]
    fn addresses_count_from_the_first() {
        let cidr: Cidr = "10.96.0.0/24".parse().unwrap();
        assert_eq!(cidr.address(255), Some(Ipv4Addr::new(10, 96, 0, 255)));
        assert_eq!(cidr.address(256), None);
        assert_eq!(cidr.offset(Ipv4Addr::new(10, 96, 0, 9)), Some(9));
        assert_eq!(cidr.offset(Ipv4Addr::new(10, 96, 1, 0)), None);
        assert!(cidr.overlaps(&"10.96.0.0/16".parse().unwrap()));
        assert!(!cidr.overlaps(&"10.97.0.0/16".parse().unwrap()));
    }
}
