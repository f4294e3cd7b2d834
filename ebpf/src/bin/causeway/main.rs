//! x
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
#[cfg(target_arch = "bpf")]
mod x {
use aya_ebpf::{macros::classifier, programs::TcContext};
#[classifier]
pub fn cw_from_pod(ctx: TcContext) -> i32 {
 let _= ctx; 0
}
}
