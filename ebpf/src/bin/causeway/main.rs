//! The BPF object: every map, and one thin entry point per hook.
//!
//! `hooks/` decides, with the pure logic of the library; the modules beside it touch maps and packets. What became of
//! every packet goes through [`outcome::finish`]; nothing is logged, but in development builds what the kernel refused.
//!
//! The larger steps are functions with C linkage and names of their own. The verifier walks such a global function once, for
//! any arguments, instead of once for every state a caller can be in; that is what keeps the object loadable. It asks that
//! their pointers be checked for null, and that the memory behind them be written.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        reason = "the verifier sees through inlined code; calls cost stack and registers"
    )
)]

#[cfg(target_arch = "bpf")]
mod affinity;
#[cfg(target_arch = "bpf")]
mod balance;
#[cfg(target_arch = "bpf")]
mod conntrack;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod deliver;
#[cfg(target_arch = "bpf")]
mod direct;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod next_hop;
#[cfg(target_arch = "bpf")]
mod outcome;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod refusal;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod trace;
#[cfg(target_arch = "bpf")]
mod xdp_frame;

/// Cargo builds the workspace for the host too; the object is built for BPF by `causeway-ebpf-build`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing panics, so this is never linked in; were it, the verifier would refuse the endless loop.
    loop {}
}

/// The kernel lends some helpers to GPL-compatible programs only (include/linux/license.h).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
