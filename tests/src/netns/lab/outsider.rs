//! Machines on the underlay that are no nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use crate::netns::{Netns, ask, connect, socket::domain, socket_in};

/// A machine outside of the cluster.
#[derive(Debug)]
pub struct Outsider {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: IpAddr,
    /// Its IPv6 address.
    pub address6: IpAddr,
}

impl Outsider {
    /// A socket of one of its processes.
    pub fn socket(&self, kind: i32) -> OwnedFd {
        socket_in(&self.netns, None, libc::AF_INET, kind)
    }

    /// Connects from it.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        let socket = socket_in(&self.netns, None, domain(to.ip()), libc::SOCK_STREAM);
        connect(socket, to)
    }

    /// Who answers so many connections, how often.
    pub fn tally(&self, times: usize, to: SocketAddr) -> BTreeMap<String, usize> {
        let mut tally = BTreeMap::new();
        for _ in 0..times {
            let stream = self.connect(to).expect("a connection");
            assert_eq!(stream.peer_addr().expect("its peer"), to);
            *tally.entry(ask(&stream).expect("an answer")).or_default() += 1;
        }
        tally
    }
}
