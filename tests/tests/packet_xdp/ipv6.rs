//! Flows of IPv6: XDP takes the established ones.

use anyhow::Result;
use causeway_tests::packet::{
    Action, Datapath, Frame, decode, tcp,
    xdp::{UPLINK_MAC, in_tunnel, inside},
};

use crate::support::{FROM_NETWORK, NODE, OTHER, TCP, UDP, assert_passes, last_mac, node, packet};

const VIP: &str = "[2001:db8:50::1]:443";
const CLIENT: &str = "[2001:db8::7]:40000";
const BACKEND: &str = "[fd00:2::6]:8080";

/// A service, its protocol, and whether its backend on the other node is reached without the tunnel.
struct Service {
    datapath: Datapath,
    id: u32,
    protocol: u8,
    native: bool,
}

impl Service {
    fn new(protocol: u8, native: bool) -> Result<Self> {
        let mut datapath = node()?;
        datapath.route("fd00:2::", 64, OTHER)?;
        if native {
            datapath.route_natively()?;
            datapath.native_route("fd00:2::", 64)?;
        }
        datapath.neighbour6("2001:db8::7")?;
        datapath.neighbour6("fd00:2::6")?;
        datapath.remote_backend(0, BACKEND, OTHER)?;
        let id = datapath.service_with(VIP, protocol, &[0], FROM_NETWORK)?;
        Ok(Self {
            datapath,
            id,
            protocol,
            native,
        })
    }

    /// A packet of the client.
    fn request(&self, flags: u8) -> Vec<u8> {
        packet(self.protocol, CLIENT, VIP, flags)
    }

    /// A packet of the backend to whom it takes for its client.
    fn answer(&self, to: &str, flags: u8) -> Vec<u8> {
        packet(self.protocol, BACKEND, to, flags)
    }

    /// A packet of the client the slow way, as it goes to the backend.
    fn request_slowly(&self, flags: u8) -> Result<Vec<u8>> {
        Ok(self.datapath.run("cw_from_uplink", &self.request(flags))?.frame)
    }

    /// A packet of the backend the slow way, as it goes to the client.
    fn answer_slowly(&self, answer: &[u8]) -> Result<Vec<u8>> {
        let program = if self.native {
            "cw_from_uplink"
        } else {
            "cw_from_tunnel"
        };
        Ok(self.datapath.run(program, answer)?.frame)
    }

    /// Lets the slow way see a connection's first three packets. Returns as who the backend sees the client.
    fn establish(&self) -> Result<String> {
        let source = decode(&self.request_slowly(tcp::SYN)?).source.to_string();
        self.answer_slowly(&self.answer(&source, tcp::SYN | tcp::ACK))?;
        self.request_slowly(tcp::ACK)?;
        Ok(source)
    }

    fn assert_passes(&self, frame: &[u8], what: &str) -> Result<()> {
        assert_passes(&self.datapath, frame, what)
    }
}

#[test]
fn a_flow_that_was_not_answered_passes() -> Result<()> {
    for protocol in [TCP, UDP] {
        let service = Service::new(protocol, false)?;
        service.assert_passes(&service.request(tcp::SYN), "a new flow")?;
        service.request_slowly(tcp::SYN)?;
        service.assert_passes(&service.request(tcp::ACK), "a flow that was not answered")?;
    }
    Ok(())
}

#[test]
fn an_established_flow_goes_the_short_way() -> Result<()> {
    for (protocol, native) in [(TCP, false), (UDP, false), (TCP, true)] {
        let service = Service::new(protocol, native)?;
        let source = service.establish()?;
        let slow = service.request_slowly(tcp::ACK)?;
        let (action, out) = service.datapath.run_xdp(&service.request(tcp::ACK))?;
        assert_eq!(action, Action::Transmit);
        let sent = decode(&out);
        let inner = if native {
            assert_eq!((sent.to_mac, sent.from_mac), (last_mac(6), UPLINK_MAC));
            &out[..]
        } else {
            assert_eq!(sent.to_mac, last_mac(12));
            inside(&out)?
        };
        // The same packet, with the same checksum.
        assert_eq!(inner[14..], slow[14..]);
        assert_eq!(decode(inner).source.to_string(), source);

        let answer = service.answer(&source, tcp::ACK);
        let wire = if native {
            answer.clone()
        } else {
            in_tunnel(OTHER, NODE, 1, &answer)
        };
        let (action, back) = service.datapath.run_xdp(&wire)?;
        let client = decode(&back);
        assert_eq!((action, client.path()), (Action::Transmit, format!("{VIP} > {CLIENT}")));
        assert_eq!((client.to_mac, client.from_mac), (last_mac(7), UPLINK_MAC));
        assert_eq!(back[14..], service.answer_slowly(&answer)?[14..]);
        assert_eq!(service.datapath.counters(service.id)?.packets, 7);
    }
    Ok(())
}

#[test]
fn unusual_packets_of_an_established_flow_pass() -> Result<()> {
    for (protocol, native) in [(TCP, false), (UDP, false), (TCP, true)] {
        let service = Service::new(protocol, native)?;
        service.establish()?;
        let usual = service.request(tcp::ACK);
        assert_eq!(service.datapath.run_xdp(&usual)?.0, Action::Transmit);
        if protocol == TCP {
            for flags in [tcp::SYN, tcp::FIN | tcp::ACK, tcp::RST] {
                service.assert_passes(&service.request(flags), "what changes the flow")?;
            }
        }
        let mut dying = usual.clone();
        dying[21] = 1;
        service.assert_passes(&dying, "the last hop")?;
        let mut cut = usual;
        cut.truncate(60);
        service.assert_passes(&cut, "cut short")?;
        let long = match protocol {
            TCP => Frame::tcp(CLIENT, VIP, tcp::ACK),
            _ => Frame::udp(CLIENT, VIP),
        };
        service.assert_passes(&long.payload(&[0; 1_460]).build(), "more than the uplink carries")?;
    }
    Ok(())
}
