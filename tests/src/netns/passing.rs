//! An XDP program that lets everything pass.

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};

use crate::packet::OBJECT;

/// The data path's XDP program with maps of its own, in which there is nothing. The kernel wants one at both ends of a veth pair: the
/// receiver of what XDP sends from one end is woken only if it has a program (`veth_xdp_flush` in `drivers/net/veth.c`).
///
/// It is detached when this is dropped.
#[derive(Debug)]
pub(super) struct PassingXdp(Ebpf);

impl PassingXdp {
    pub(super) fn load() -> Self {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SLOTS", 1)
            .map_max_entries("BACKENDS", 1)
            .load(OBJECT)
            .expect("the BPF object");
        program(&mut ebpf).load().expect("its XDP program");
        Self(ebpf)
    }

    /// Attaches it to an interface of this thread's namespace.
    pub(super) fn attach(&mut self, ifindex: u32) {
        program(&mut self.0)
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .expect("XDP on a port of the bridge");
    }
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut("cw_xdp").expect("the XDP program");
    program.try_into().expect("a program of type XDP")
}
