//! Builds the BPF object, which the agent embeds.

fn main() {
    causeway_ebpf_build::build_script();
}
