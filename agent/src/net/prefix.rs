//! Prefixes of addresses, and the ranges a node works with: one, or one of each family.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 or IPv6 prefix such as a node's pod range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

/// Text is no prefix.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a prefix such as 10.244.1.0/24 or fd00:244:0:1::/64, with all bits behind its length 0")]
pub struct ParsePrefixError(pub String);

impl Prefix {
    /// The prefix of `length` bits that holds `address`; `None` when its family has fewer bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let mask = mask(width(address), length)?;
        Some(Self {
            network: from_bits(address, to_bits(address) & mask),
            length,
        })
    }

    /// The prefix that holds nothing but `address`.
    pub fn host(address: IpAddr) -> Self {
        Self {
            network: address,
            length: width(address),
        }
    }

    /// First address.
    pub fn network(self) -> IpAddr {
        self.network
    }

    /// Bits that count, in the prefix's own family.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether it is one of IPv4 addresses.
    pub fn is_ipv4(self) -> bool {
        self.network.is_ipv4()
    }

    /// The range's second address, which is the node's own.
    pub fn router(self) -> IpAddr {
        let is_single = self.length == width(self.network);
        from_bits(self.network, to_bits(self.network) + u128::from(!is_single))
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: IpAddr) -> bool {
        let mask = mask(width(self.network), self.length);
        address.is_ipv4() == self.is_ipv4() && mask.is_some_and(|mask| to_bits(address) & mask == to_bits(self.network))
    }

    /// Whether all of `other` lies inside.
    pub fn holds(self, other: Self) -> bool {
        other.length >= self.length && self.contains(other.network)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.holds(other) || other.holds(self)
    }

    /// Addresses pods may have, as numbers: all but the network's, the router's and, of IPv4, the broadcast address.
    pub(crate) fn pod_addresses(self) -> std::ops::Range<u128> {
        let first = to_bits(self.network);
        let rest = mask(width(self.network), self.length).map_or(0, |mask| !mask & all(width(self.network)));
        let last = first + rest;
        let end = if self.is_ipv4() { last } else { last.saturating_add(1) };
        first.saturating_add(2).min(end)..end
    }

    /// The address of this family that is `bits` as a number.
    pub(crate) fn address(self, bits: u128) -> IpAddr {
        from_bits(self.network, bits)
    }
}

/// An address as a number.
pub(crate) fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn all(width: u8) -> u128 {
    u128::MAX >> (128 - u32::from(width))
}

fn mask(width: u8, length: u8) -> Option<u128> {
    let host_bits = u32::from(width.checked_sub(length)?);
    Some(all(width) & u128::MAX.checked_shl(host_bits).unwrap_or(0))
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParsePrefixError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let prefix = Self::new(address, length.parse().map_err(|_| refuse())?).ok_or_else(refuse)?;
        if prefix.network == address {
            Ok(prefix)
        } else {
            Err(refuse())
        }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// One prefix, or one of each family; the first is the primary one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges {
    primary: Prefix,
    secondary: Option<Prefix>,
}

/// Prefixes are no [`Ranges`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangesError {
    /// One of them is none.
    #[error(transparent)]
    Prefix(#[from] ParsePrefixError),
    /// Too many, too few, or two of one family.
    #[error("\"{0}\" is neither one prefix nor one of each family, with a comma between them")]
    Families(String),
}

impl Ranges {
    /// The ranges of these prefixes; `None` unless they are one, or one of each family.
    pub fn new(prefixes: &[Prefix]) -> Option<Self> {
        let (primary, secondary) = match *prefixes {
            [primary] => (primary, None),
            [primary, secondary] if primary.is_ipv4() != secondary.is_ipv4() => (primary, Some(secondary)),
            _ => return None,
        };
        Some(Self { primary, secondary })
    }

    /// The first one.
    pub fn primary(&self) -> Prefix {
        self.primary
    }

    /// All of them, the primary one first.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> {
        [self.primary].into_iter().chain(self.secondary)
    }

    /// The one of the family of `like`.
    pub fn of_family(&self, like: IpAddr) -> Option<Prefix> {
        self.iter().find(|range| range.is_ipv4() == like.is_ipv4())
    }

    /// Whether each of `others` lies in one of these.
    pub fn hold(&self, others: &Self) -> bool {
        others.iter().all(|other| self.iter().any(|range| range.holds(other)))
    }

    /// Whether these are `others` and perhaps one more, behind them.
    pub fn extend(&self, others: &Self) -> bool {
        self.primary == others.primary && (others.secondary.is_none() || self.secondary == others.secondary)
    }

    /// The node's own address in each.
    pub fn routers(&self) -> Vec<IpAddr> {
        self.iter().map(Prefix::router).collect()
    }
}

impl From<Prefix> for Ranges {
    fn from(primary: Prefix) -> Self {
        Self {
            primary,
            secondary: None,
        }
    }
}

impl FromStr for Ranges {
    type Err = RangesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefixes: Vec<Prefix> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Self::new(&prefixes).ok_or_else(|| RangesError::Families(text.to_owned()))
    }
}

impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.secondary {
            None => self.primary.fmt(f),
            Some(secondary) => write!(f, "{},{secondary}", self.primary),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_parse_only_when_host_bits_are_clear() {
        for good in [
            "10.244.1.0/24",
            "0.0.0.0/0",
            "10.0.0.1/32",
            "fd00:244::/48",
            "::/0",
            "fd00::1/128",
        ] {
            assert_eq!(range(good).to_string(), good);
        }
        for bad in [
            "10.244.1.0",
            "10.244.1.1/24",
            "10.244.1.0/33",
            "fd00::1/64",
            "fd00::/129",
            "10.244.1.0/x",
            "",
        ] {
            assert_eq!(bad.parse::<Prefix>(), Err(ParsePrefixError(bad.to_owned())));
        }
    }

    #[test]
    fn addresses_are_inside_or_not() {
        assert!(range("10.244.0.0/16").contains(ip("10.244.255.255")));
        assert!(!range("10.244.0.0/16").contains(ip("10.245.0.0")));
        assert!(range("0.0.0.0/0").contains(ip("255.255.255.255")));
        assert!(!range("0.0.0.0/0").contains(ip("::1")));
        assert!(range("fd00:244::/48").contains(ip("fd00:244:0:ffff::1")));
        assert!(!range("fd00:244::/48").contains(ip("fd00:244:1::1")));
        assert!(!range("::/0").contains(ip("10.0.0.1")));
        assert!(range("10.244.0.0/16").overlaps(range("10.244.3.0/24")));
        assert!(range("10.244.3.0/24").overlaps(range("10.244.0.0/16")));
        assert!(!range("10.244.0.0/16").overlaps(range("10.245.0.0/24")));
    }

    #[test]
    fn the_second_address_is_the_routers_and_the_others_are_the_pods() {
        assert_eq!(range("10.244.1.0/24").router(), ip("10.244.1.1"));
        assert_eq!(range("fd00:244:0:1::/64").router(), ip("fd00:244:0:1::1"));
        assert_eq!(range("10.0.0.5/32").router(), ip("10.0.0.5"));
        let count = |text: &str| {
            let addresses = range(text).pod_addresses();
            addresses.end - addresses.start
        };
        assert_eq!(
            (count("10.0.0.0/29"), count("10.0.0.0/31"), count("10.0.0.0/32")),
            (5, 0, 0)
        );
        assert_eq!((count("fd00::/125"), count("fd00::/128")), (6, 0));
        assert_eq!(count("fd00::/64"), (1 << 64) - 2);
        assert_eq!(count("::/0"), u128::MAX - 2);
    }

    #[test]
    fn ranges_are_one_or_one_of_each_family() {
        let ranges: Ranges = "fd00:244::/48,10.244.0.0/16".parse().unwrap();
        assert_eq!(ranges.to_string(), "fd00:244::/48,10.244.0.0/16");
        assert_eq!(ranges.primary(), range("fd00:244::/48"));
        assert_eq!(ranges.of_family(ip("0.0.0.0")), Some(range("10.244.0.0/16")));
        assert!(ranges.hold(&"10.244.1.0/24,fd00:244:0:1::/64".parse().unwrap()));
        assert!(!ranges.hold(&"10.244.1.0/24,fd01::/64".parse().unwrap()));
        let one: Ranges = "10.244.0.0/16".parse().unwrap();
        assert_eq!(one.of_family(ip("::")), None);
        for bad in ["10.0.0.0/8,11.0.0.0/8", "10.0.0.0/8,fd00::/8,fd01::/16"] {
            assert_eq!(bad.parse::<Ranges>(), Err(RangesError::Families(bad.to_owned())));
        }
        assert!("10.0.0.0/8,".parse::<Ranges>().is_err());
    }

    #[test]
    fn a_second_family_extends_ranges() {
        let ranges = |text: &str| text.parse::<Ranges>().unwrap();
        let (one, both) = (ranges("10.244.1.0/24"), ranges("10.244.1.0/24,fd00::/64"));
        assert!(both.extend(&one) && both.extend(&both) && !one.extend(&both));
        assert!(!ranges("10.244.2.0/24,fd00::/64").extend(&one));
    }
}
