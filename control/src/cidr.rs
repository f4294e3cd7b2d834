//! Address ranges of both families.

use std::{fmt, net::IpAddr, str::FromStr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Kubernetes' name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of Kubernetes' name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address of a number.
    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4((number as u32).into()),
            Self::V6 => IpAddr::V6(number.into()),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A range such as `10.96.0.0/16` or `fd00:96::/112`. No address bit is set beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    family: Family,
    prefix_len: u8,
}

/// Why a text is not a range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form address/length.
    #[error("must be a valid address range, (e.g. 10.96.0.0/16 or fd00:96::/112)")]
    Syntax,
    /// The address has bits beyond the prefix.
    #[error("must not have bits set beyond its prefix, did you mean {0}?")]
    HostBits(Cidr),
}

impl Cidr {
    /// The range of a prefix length at an address, whose further bits are dropped.
    pub fn new(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let family = Family::of(address);
        (prefix_len <= family.bits()).then(|| Self {
            base: number(address) & mask(family, prefix_len),
            family,
            prefix_len,
        })
    }

    /// First address.
    pub fn network(&self) -> IpAddr {
        self.family.address(self.base)
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Bits that are the same in all its addresses.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Bits in which its addresses differ.
    pub fn host_bits(&self) -> u8 {
        self.family.bits() - self.prefix_len
    }

    /// Number of addresses, network and broadcast address included; one too few for all of IPv6.
    pub fn size(&self) -> u128 {
        1_u128.checked_shl(self.host_bits().into()).unwrap_or(u128::MAX)
    }

    /// The address at a distance from the first.
    pub fn address(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| self.family.address(self.base + offset))
    }

    /// Distance of an address from the first, or `None` outside the range.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        let number = number(address);
        let inside = Family::of(address) == self.family && number & mask(self.family, self.prefix_len) == self.base;
        inside.then(|| number - self.base)
    }

    /// True when the ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mask = mask(self.family, self.prefix_len.min(other.prefix_len));
        self.family == other.family && self.base & mask == other.base & mask
    }

    /// Reads a range whose address may have bits beyond the prefix, as Kubernetes does with source ranges.
    pub fn parse_loose(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').ok_or(CidrError::Syntax)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Syntax)?;
        if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CidrError::Syntax);
        }
        let length = length.parse().map_err(|_| CidrError::Syntax)?;
        Self::new(address, length).ok_or(CidrError::Syntax)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(family: Family, prefix_len: u8) -> u128 {
    let host_bits = u32::from(family.bits() - prefix_len.min(family.bits()));
    let low = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1);
    !low
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let cidr = Self::parse_loose(text)?;
        let address = text.split_once('/').and_then(|(address, _)| address.parse().ok());
        if Some(cidr.network()) == address {
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

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
            "fd00::/129",
            "10.96.0.0/",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Syntax), "{text}");
        }
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
        assert_eq!("10.0.0.7/32".parse::<Cidr>().unwrap().size(), 1);
        assert_eq!(Cidr::parse_loose("10.96.0.1/16").unwrap().to_string(), "10.96.0.0/16");
    }

    #[test]
    fn addresses_count_from_the_first() {
        let cidr: Cidr = "10.96.0.0/24".parse().unwrap();
        assert_eq!(cidr.address(255), Some(ip("10.96.0.255")));
        assert_eq!(cidr.address(256), None);
        assert_eq!(cidr.offset(ip("10.96.0.9")), Some(9));
        assert_eq!(cidr.offset(ip("10.96.1.0")), None);
        assert!(cidr.overlaps(&"10.96.0.0/16".parse().unwrap()));
        assert!(!cidr.overlaps(&"10.97.0.0/16".parse().unwrap()));
    }

    #[test]
    fn both_families_are_known_and_not_mixed() {
        let cidr: Cidr = "fd00:96::/112".parse().unwrap();
        assert_eq!((cidr.family(), cidr.host_bits(), cidr.size()), (Family::V6, 16, 65536));
        assert_eq!(cidr.address(10), Some(ip("fd00:96::a")));
        assert_eq!(cidr.offset(ip("fd00:96::ffff")), Some(65535));
        assert_eq!(cidr.offset(ip("fd00:97::")), None);
        let everything: Cidr = "::/0".parse().unwrap();
        assert!(everything.overlaps(&cidr));
        assert_eq!(everything.offset(ip("10.0.0.1")), None);
        assert!(!everything.overlaps(&"0.0.0.0/0".parse().unwrap()));
        assert!("fd00:96::1/112".parse::<Cidr>().is_err());
    }
}
