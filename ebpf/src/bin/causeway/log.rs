//! What the kernel refused the programs, said through aya-log: in development builds alone (feature `log`), for in others only
//! counters and events tell.

/// A helper or a map operation, by what it is called in `enum bpf_func_id` (`include/uapi/linux/bpf.h`), was refused with this negative
/// `errno`.
#[inline(always)]
pub fn refused(helper: u32, error: i64) {
    #[cfg(feature = "log")]
    cw_log_refused(helper, error);
    #[cfg(not(feature = "log"))]
    let _ = (helper, error);
}

/// Global function behind [`refused`]: walked once by the verifier, whoever calls it.
#[cfg(feature = "log")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cw_log_refused(helper: u32, error: i64) -> u32 {
    aya_log_ebpf::warn!((), "the kernel refused helper {} with error {}", helper, error);
    0
}
