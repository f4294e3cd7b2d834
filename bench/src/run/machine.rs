//! What the measurements ran on.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    program::{Variant, search_path},
    worker::processors,
};

/// The machine and the programs on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// How many the benchmark may use.
    pub processors: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Whether it is a virtual machine.
    pub virtual_machine: bool,
    /// Version of the mode `iptables`, with its kernel interface.
    pub iptables: String,
    /// Version of `nft`.
    pub nft: String,
}

impl Machine {
    /// This one.
    pub fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let memory = read("/proc/meminfo")?;
        let kib = memory.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        });
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            processors: processors()?.len(),
            memory_gib: kib.unwrap_or_default().div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            iptables: version(Variant::quickest().iptables),
            nft: version("nft"),
        })
    }

    /// In one line.
    pub fn text(&self) -> String {
        let machine = if self.virtual_machine { ", virtual machine" } else { "" };
        format!(
            "{} processors ({}{machine}), {} GiB, Linux {}; {}; {}",
            self.processors, self.processor, self.memory_gib, self.kernel, self.iptables, self.nft
        )
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn version(program: &str) -> String {
    let output = Command::new(program)
        .arg("--version")
        .env("PATH", search_path())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => format!("no {program}"),
    }
}
