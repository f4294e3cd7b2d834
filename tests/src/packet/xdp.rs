//! Running the XDP program, and what only it and direct server return look at.

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{TestRun, TestRunOptions, Xdp},
    util::nr_cpus,
};
use causeway_abi::{
    backend::{Backend, IN_USE, READY},
    conntrack::FlowKey,
    direct::DirectFlow,
    node::{DIRECT_RETURN, NATIVE_ROUTING, NodeConfig},
    service::{NO_BACKEND, Slot},
};
use causeway_maps::Plain;

use super::{
    craft::Frame,
    datapath::{Datapath, parse_ip},
};

/// What an XDP program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The frame is dropped as a mistake (`XDP_ABORTED`).
    Aborted,
    /// The kernel makes a socket buffer of it (`XDP_PASS`).
    Pass,
    /// It leaves by the interface it came in on (`XDP_TX`).
    Transmit,
}

/// The MAC addresses of frames to a neighbour, which end in the last byte of its address.
pub const NEIGHBOUR_MAC: [u8; 5] = [2, 0, 0, 0, 3];
/// The MAC address of the uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 4, 1];
/// Bytes that an uplink carries of IP.
pub const UPLINK_MTU: u32 = 1_500;
/// Bytes that the tunnel puts before a frame.
pub const TUNNEL_OVERHEAD: usize = 50;

impl Datapath {
    /// Runs the XDP program on a frame.
    pub fn run_xdp(&self, frame: &[u8]) -> Result<(Action, Vec<u8>)> {
        let program: &Xdp = self.ebpf.program("cw_xdp").context("no such program")?.try_into()?;
        let mut out = vec![0; 4096];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            0 => Action::Aborted,
            2 => Action::Pass,
            3 => Action::Transmit,
            other => bail!("cw_xdp returned {other}"),
        };
        Ok((action, out))
    }

    /// Lets backends' nodes answer clients directly.
    pub fn return_directly(&mut self) -> Result<()> {
        self.set_node_flag(DIRECT_RETURN)
    }

    /// Lets packets for pods of other nodes go by the kernel's routes.
    pub fn route_natively(&mut self) -> Result<()> {
        self.set_node_flag(NATIVE_ROUTING)
    }

    fn set_node_flag(&mut self, flag: u32) -> Result<()> {
        let mut map: Array<&mut MapData, Plain<NodeConfig>> = self.map_mut("NODE")?.try_into()?;
        let Plain(mut node) = map.get(&0, 0)?;
        node.flags |= flag;
        Ok(map.set(0, Plain(node), 0)?)
    }

    /// Writes a backend of another node that is ready.
    pub fn remote_backend(&mut self, index: u32, address: &str, node: &str) -> Result<()> {
        self.remote_backend_with(index, address, node, IN_USE | READY)
    }

    /// Writes a backend of another node with flags.
    pub fn remote_backend_with(&mut self, index: u32, address: &str, node: &str, flags: u32) -> Result<()> {
        self.backend_with(index, address, flags, 1)?;
        let mut map: Array<&mut MapData, Plain<Backend>> = self.map_mut("BACKENDS")?.try_into()?;
        let Plain(mut backend) = map.get(&index, 0)?;
        backend.node_v4_be = v4(node)?;
        Ok(map.set(index, Plain(backend), 0)?)
    }

    /// Gives every slot that points to a backend another one that it had before.
    pub fn previous(&mut self, backend: u32, previous: u32) -> Result<()> {
        let mut slots: Array<&mut MapData, Plain<Slot>> = self.map_mut("SLOTS")?.try_into()?;
        for index in 0..slots.len() {
            let Plain(slot) = slots.get(&index, 0)?;
            if slot.backend == backend
                && slot
                    != (Slot {
                        backend: 0,
                        previous: 0,
                    })
            {
                slots.set(index, Plain(Slot { backend, previous }), 0)?;
            }
        }
        Ok(())
    }

    /// Ends the changing hands of all slots.
    pub fn settle(&mut self, backend: u32) -> Result<()> {
        self.previous(backend, NO_BACKEND)
    }

    /// Tells the program of a neighbour on the uplink, as the kernel would.
    pub fn neighbour(&mut self, address: &str) -> Result<()> {
        let word = v4(address)?;
        // The place that the program looks at.
        let place = word.wrapping_mul(0x9e37_79b1) >> 24;
        let mut element = [0_u8; 32];
        element[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        element[8..12].copy_from_slice(&word.to_ne_bytes());
        element[12..16].copy_from_slice(&UPLINK_MTU.to_ne_bytes());
        element[16..21].copy_from_slice(&NEIGHBOUR_MAC);
        element[21] = word.to_ne_bytes()[3];
        element[22..28].copy_from_slice(&UPLINK_MAC);
        let processors = nr_cpus().map_err(|(_, error)| error).context("counting processors")?;
        let mut map: PerCpuArray<&mut MapData, [u8; 32]> = self.map_mut("NEXT_HOPS")?.try_into()?;
        Ok(map.set(place, PerCpuValues::try_from(vec![element; processors])?, 0)?)
    }

    /// The same for an address of IPv6.
    pub fn neighbour6(&mut self, address: &str) -> Result<()> {
        let words = parse_ip(address).words();
        let place = words
            .into_iter()
            .fold(0, |word, next| word ^ next)
            .wrapping_mul(0x9e37_79b1)
            >> 24;
        let mut element = [0_u8; 48];
        element[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        element[8..24].copy_from_slice(&words.map(u32::to_ne_bytes).concat());
        element[24..28].copy_from_slice(&UPLINK_MTU.to_ne_bytes());
        element[28..33].copy_from_slice(&NEIGHBOUR_MAC);
        element[33] = words[3].to_ne_bytes()[3];
        element[34..40].copy_from_slice(&UPLINK_MAC);
        let processors = nr_cpus().map_err(|(_, error)| error).context("counting processors")?;
        let mut map: PerCpuArray<&mut MapData, [u8; 48]> = self.map_mut("NEXT_HOPS6")?.try_into()?;
        Ok(map.set(place, PerCpuValues::try_from(vec![element; processors])?, 0)?)
    }

    /// The flows that are written down for direct server return.
    pub fn direct_flows(&self) -> Result<Vec<(FlowKey, DirectFlow)>> {
        let map: HashMap<&MapData, Plain<FlowKey>, Plain<DirectFlow>> = self.map("DIRECT_FLOWS")?.try_into()?;
        Ok(map
            .iter()
            .map(|entry| entry.map(|(key, flow)| (key.0, flow.0)))
            .collect::<Result<_, _>>()?)
    }
}

/// A frame as it comes out of the uplink, from another node's tunnel (RFC 7348, 5).
pub fn in_tunnel(from: &str, to: &str, network: u32, frame: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((network << 8).to_be_bytes());
    payload.extend(frame);
    Frame::udp(&format!("{from}:50000"), &format!("{to}:8472"))
        .without_checksum()
        .payload(&payload)
        .build()
}

/// The frame inside a frame of the tunnel.
pub fn inside(frame: &[u8]) -> Result<&[u8]> {
    ensure!(
        frame.len() > TUNNEL_OVERHEAD && frame[36..38] == 8472_u16.to_be_bytes(),
        "not of the tunnel: {frame:02x?}"
    );
    Ok(&frame[TUNNEL_OVERHEAD..])
}

fn v4(address: &str) -> Result<u32> {
    let bytes = parse_ip(address).to_v4().context("not an IPv4 address")?;
    Ok(u32::from_ne_bytes(bytes))
}
