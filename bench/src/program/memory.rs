//! Kernel memory held by rules: the processes that write them run in a memory cgroup of their own, to which the kernel
//! charges what it allocates for the rules and from which it is uncharged when they go.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::site::Cgroup;

/// A memory cgroup.
#[derive(Debug)]
pub(super) struct Account {
    cgroup: Cgroup,
    file: PathBuf,
    /// The line of `file` that tells; the whole file is the number where there is none.
    line: Option<&'static str>,
}

impl Account {
    /// A new one; an error says why there can be none.
    pub(super) fn open(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
        let v1 = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words.get(2) == Some(&"cgroup") && words.get(3)?.split(',').any(|option| option == "memory"))
                .then(|| PathBuf::from(words[1]))
        });
        if let Some(root) = v1 {
            let cgroup = Cgroup::below(&root, name)?;
            let file = cgroup.path().join("memory.kmem.usage_in_bytes");
            return Ok(Self {
                cgroup,
                file,
                line: None,
            });
        }
        let cgroup = Cgroup::new(name)?;
        let file = cgroup.path().join("memory.stat");
        if !file.exists() {
            bail!("the memory controller is not on in the root of the cgroup tree");
        }
        Ok(Self {
            cgroup,
            file,
            line: Some("kernel "),
        })
    }

    /// Makes a command's process start in it.
    pub(super) fn enter(&self, command: &mut Command) -> Result<()> {
        let entrance: File = self.cgroup.entrance()?;
        // SAFETY: between fork and exec only write(2) is called, on a descriptor that the closure owns.
        unsafe {
            command.pre_exec(move || Ok(nix::unistd::write(&entrance, b"0").map(drop)?));
        }
        Ok(())
    }

    /// Bytes of kernel memory charged at present.
    pub(super) fn bytes(&self) -> Result<u64> {
        let path = self.file.display();
        let text = fs::read_to_string(&self.file).with_context(|| format!("cannot read {path}"))?;
        let number = match self.line {
            None => Some(text.trim()),
            Some(line) => text.lines().find_map(|candidate| candidate.strip_prefix(line)),
        };
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("{path} does not tell kernel memory"))
    }
}
