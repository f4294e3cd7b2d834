//! Pods: a network namespace behind a veth pair, and a cgroup.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
};

use causeway_agent::net::{PodLink, PodNet};

use crate::netns::{Netns, Servers, TcpServer, UdpServer, connect, process::command_in, socket::domain, socket_in};

/// A pod: a network namespace and a cgroup.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Its address.
    pub address: IpAddr,
    /// Its IPv6 address, in labs that have those.
    pub address6: Option<IpAddr>,
    /// Its veth pair.
    pub link: PodLink,
    /// What was asked for.
    pub net: PodNet,
    pub(super) cgroup: PathBuf,
}

impl Pod {
    /// A socket of one of its processes, which socket hooks see.
    pub fn socket(&self, domain: i32, kind: i32) -> OwnedFd {
        socket_in(&self.netns, Some(&self.cgroup), domain, kind)
    }

    /// A command of one of its processes, whose sockets hooks see.
    pub fn command(&self, program: &str) -> Command {
        command_in(&self.netns.path(), Some(&self.cgroup), program)
    }

    /// The same, whose sockets hooks do not see.
    pub fn unhooked_command(&self, program: &str) -> Command {
        command_in(&self.netns.path(), None, program)
    }

    /// A socket in its network namespace that no socket hook sees: its packets are balanced one by one.
    pub fn unhooked_socket(&self, domain: i32, kind: i32) -> OwnedFd {
        socket_in(&self.netns, None, domain, kind)
    }

    /// Connects from one of its processes.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        connect(self.socket(domain(to.ip()), libc::SOCK_STREAM), to)
    }

    /// Connects past the socket hooks.
    pub fn connect_unhooked(&self, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        connect(self.unhooked_socket(domain(to.ip()), libc::SOCK_STREAM), to)
    }

    /// Where a port of it is reached directly.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Where a port of it is reached directly over IPv6.
    ///
    /// # Panics
    ///
    /// In a lab without IPv6.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address6.expect("a lab with IPv6"), port)
    }

    /// Starts servers that say `name`, of both protocols at each of its addresses.
    pub fn serve(&self, port: u16, name: &str) -> Servers {
        let mut servers = Servers {
            tcp: vec![self.serve_tcp(port, name)],
            udp: vec![self.serve_udp(port, name)],
        };
        if self.address6.is_some() {
            servers.tcp.push(self.serve_tcp6(port, name));
            servers.udp.push(self.serve_udp6(port, name));
        }
        servers
    }

    /// Starts a TCP server that says `name` over IPv6.
    pub fn serve_tcp6(&self, port: u16, name: &str) -> TcpServer {
        TcpServer::start(self.socket(libc::AF_INET6, libc::SOCK_STREAM), self.at6(port), name)
    }

    /// Starts a UDP server that says `name` over IPv6.
    pub fn serve_udp6(&self, port: u16, name: &str) -> UdpServer {
        UdpServer::start(self.socket(libc::AF_INET6, libc::SOCK_DGRAM), self.at6(port), name)
    }

    /// Starts a TCP server that says `name`.
    pub fn serve_tcp(&self, port: u16, name: &str) -> TcpServer {
        TcpServer::start(self.socket(libc::AF_INET, libc::SOCK_STREAM), self.at(port), name)
    }

    /// Starts a UDP server that says `name`.
    pub fn serve_udp(&self, port: u16, name: &str) -> UdpServer {
        UdpServer::start(self.socket(libc::AF_INET, libc::SOCK_DGRAM), self.at(port), name)
    }
}
