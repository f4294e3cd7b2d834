//! `std::net` and text forms of what the ABI keeps as bytes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use causeway_abi::Address;

/// Conversions of [`Address`], which itself knows no `std`.
pub trait AddressExt: Sized {
    /// The map form; IPv4 becomes v4-mapped.
    fn from_ip(ip: IpAddr) -> Self;
    /// The `std` form; v4-mapped becomes IPv4.
    fn to_ip(self) -> IpAddr;
}

impl AddressExt for Address {
    fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::new(v6.octets()),
        }
    }

    fn to_ip(self) -> IpAddr {
        match self.to_v4() {
            Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            None => IpAddr::V6(Ipv6Addr::from(self.bytes)),
        }
    }
}

/// Address and port (network byte order, as in the maps) as a socket address.
pub fn socket(address: Address, port_be: u16) -> SocketAddr {
    SocketAddr::new(address.to_ip(), u16::from_be(port_be))
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers") with its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// 6.
    pub const TCP: Self = Self(6);
    /// 17.
    pub const UDP: Self = Self(17);

    /// The protocol of that name in a manifest: `TCP` (also when empty) or `UDP`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::TCP),
            "UDP" => Some(Self::UDP),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("ICMP"),
            6 => f.write_str("TCP"),
            17 => f.write_str("UDP"),
            58 => f.write_str("ICMPv6"),
            other => write!(f, "protocol-{other}"),
        }
    }
}

/// Writes "address:port/PROTOCOL" (IPv6 in brackets).
pub fn endpoint(address: Address, port_be: u16, protocol: u8) -> String {
    format!("{}/{}", socket(address, port_be), Protocol(protocol))
}

/// Writes a MAC address as six hexadecimal pairs.
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_goes_through_its_mapped_form() {
        let ip: IpAddr = "10.96.0.1".parse().unwrap();
        let address = Address::from_ip(ip);
        assert_eq!(address, Address::from_v4([10, 96, 0, 1]));
        assert_eq!(address.to_ip(), ip);
    }

    #[test]
    fn endpoints_read_as_people_write_them() {
        let v4 = Address::from_ip("10.96.0.1".parse().unwrap());
        let v6 = Address::from_ip("fd00::1".parse().unwrap());
        assert_eq!(endpoint(v4, 80_u16.to_be(), 6), "10.96.0.1:80/TCP");
        assert_eq!(endpoint(v6, 53_u16.to_be(), 17), "[fd00::1]:53/UDP");
        assert_eq!(endpoint(v6, 53_u16.to_be(), 132), "[fd00::1]:53/protocol-132");
    }
}
