//! Builds the BPF object, which the fuzzer embeds.

fn main() {
    causeway_ebpf_build::build_script();
}
