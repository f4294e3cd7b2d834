//! What packets of a sequence look like beside who sends them to whom: flags, length, and what is odd about them.

use std::net::SocketAddr;

use super::case::{Carries, Oddity, PacketSpec};
use super::generate::Draft;
use super::places::{CALM_TCP_FLAGS, TCP_FLAGS};
use crate::model::Hook;

impl Draft<'_> {
    pub(super) fn packet(&mut self, at: Hook, from: SocketAddr, to: SocketAddr, carries: Carries) -> PacketSpec {
        PacketSpec {
            at,
            from,
            to,
            carries,
            payload: self.payload(),
            odd: self.oddities(from.is_ipv6()),
            chosen: None,
            mark: 0,
        }
    }

    pub(super) fn tcp_flags(&mut self) -> String {
        let flags = if self.calm { CALM_TCP_FLAGS } else { TCP_FLAGS };
        self.random.pick(&flags).to_owned()
    }

    pub(super) fn payload(&mut self) -> u16 {
        match self.random.below(10) {
            0..4 => 0,
            4..8 => self.random.below(40) as u16,
            8 => 512,
            _ => self.random.below(1_300) as u16,
        }
    }

    pub(super) fn oddities(&mut self, six: bool) -> Vec<Oddity> {
        let mut odd = Vec::new();
        if self.calm && self.random.percent(90) {
            return odd;
        }
        while self.random.percent(if odd.is_empty() { 18 } else { 25 }) {
            let next = match self.random.below(14) {
                0 if six => Oddity::Extension(self.random.pick(&[0, 43, 60, 51, 60]), self.random.below(3) as u8),
                0 => Oddity::Options(1 + self.random.below(10) as u8),
                1 => Oddity::TcpOptions(1 + self.random.below(10) as u8),
                2 => Oddity::NoChecksum,
                3 => Oddity::WrongChecksum,
                4 if !six => Oddity::WrongHeaderChecksum,
                5 => Oddity::Padding(1 + self.random.below(40) as u8),
                6 => Oddity::Cut(1 + self.random.below(60) as u16),
                7 => Oddity::Byte(12 + self.random.below(50) as u16, self.random.number() as u8),
                8 => Oddity::Vlan(self.random.below(4_096) as u16),
                9 => Oddity::Hops(self.random.pick(&[0, 1, 2, 255])),
                10..13 if !odd.iter().any(|other| matches!(other, Oddity::Fragment(..))) => {
                    let offset = self.random.pick(&[0, 0, 1, 64, 185]);
                    Oddity::Fragment(offset, self.random.percent(70), self.random.pick(&[7, 8, 9]))
                }
                _ if six => Oddity::Extension(self.random.pick(&[0, 43, 60, 51]), 0),
                _ => continue,
            };
            odd.push(next);
        }
        odd
    }
}
