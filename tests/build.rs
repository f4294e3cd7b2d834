//! Builds the BPF object, which the packet tests embed.

fn main() {
    causeway_ebpf_build::build_script();
}
