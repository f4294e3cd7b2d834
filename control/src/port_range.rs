//! Ranges of ports.

use std::{fmt, str::FromStr};

/// Ports from the first to the last, both included; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Text is no range of ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a range of ports such as 30000-32767")]
pub struct PortRangeError;

impl PortRange {
    /// Where Kubernetes takes node ports from.
    pub const NODE_PORTS: Self = Self {
        first: 30_000,
        last: 32_767,
    };

    /// Number of ports.
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Distance of a port from the first, or `None` outside the range.
    pub fn offset(self, port: u16) -> Option<u32> {
        (self.first..=self.last)
            .contains(&port)
            .then(|| u32::from(port - self.first))
    }

    /// The port at a distance from the first.
    pub fn port(self, offset: u32) -> Option<u16> {
        (offset < self.count()).then(|| self.first + offset as u16)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').ok_or(PortRangeError)?;
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(PortRangeError),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_counted() {
        let range: PortRange = "30000-32767".parse().unwrap();
        assert_eq!((range, range.count()), (PortRange::NODE_PORTS, 2768));
        assert_eq!(
            (range.offset(30_001), range.offset(29_999), range.offset(32_768)),
            (Some(1), None, None)
        );
        assert_eq!((range.port(2767), range.port(2768)), (Some(32_767), None));
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65_535);
        for text in ["", "30000", "2-1", "0-5", "1-65536", "a-b"] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError), "{text}");
        }
    }
}
