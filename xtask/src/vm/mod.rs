//! Tests on stock kernels: what loads and works here need not do so on the kernels people run.
//!
//! A kernel of Debian's is booted in an emulated machine, with the tests and nothing else in its initial file system.

mod initramfs;
mod kernel;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::progress::Progress;
use crate::{compile, lock, root, setup};

pub use kernel::Kernel;

/// Suites that run unless others are named: packets through the programs, and real sockets. Those about pinned links are not
/// among them: kernels without tcx have none for interfaces.
const SUITES: [&str; 16] = [
    "packet_pod",
    "packet_ports",
    "packet_fragments",
    "packet_hops",
    "packet_service",
    "packet_related",
    "packet_sockets",
    "packet_trace",
    "packet_tunnel",
    "packet_uplink",
    "net_uplink",
    "net_path",
    "net_pods",
    "net_services",
    "net_vlan",
    "net_checksums",
];

/// Emulated, with every BPF load verified by an emulated processor: this takes minutes.
const LIMIT: Duration = Duration::from_mins(40);

/// Runs suites of the tests on a kernel.
pub fn test(progress: &Progress, kernel: Kernel, suites: &[String]) -> Result<ExitCode> {
    setup::run(progress)?;
    setup::for_virtual_machines(progress)?;
    let suites: Vec<&str> = if suites.is_empty() {
        SUITES.to_vec()
    } else {
        suites.iter().map(String::as_str).collect()
    };
    let directory = kernel::directory(kernel);
    root::create_dir(&directory)?;
    // The file system that the machine starts from, and what it says, are files in there.
    let _turn = lock::acquire(&directory.join("lock"), || {
        progress.note(&format!(
            "Another `cargo xtask vm-test --kernel {}` uses {}: waiting until it ends.",
            kernel.version(),
            directory.display()
        ));
    })?;
    progress.begin("building the tests");
    progress.hand_over();
    let tests = build(&suites)?;
    progress.done(&format!("built: {}", suites.join(", ")));

    progress.begin(&format!("fetching Linux {}", kernel.version()));
    let unpacked = kernel.unpack(&directory, || setup::refresh_packages(progress))?;
    let image = unpacked
        .image
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    progress.done(&format!("kernel: {image}"));

    let archive = initramfs::build(&directory, &unpacked, &tests)?;
    let (console, results) = (directory.join("console.log"), directory.join("results.log"));
    progress.begin("running the tests in an emulated machine");
    boot(progress, &unpacked.image, &archive, (&console, &results))?;
    let told = fs::read_to_string(&results).context("cannot read the results")?;
    let verdict = judge(&told, &suites);
    if let Err(problem) = &verdict {
        progress.failed();
        let said = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
        eprintln!(
            "{}",
            said.lines()
                .filter(|line| is_telling(line))
                .collect::<Vec<_>>()
                .join("\n")
        );
        eprintln!("\nerror: {problem}\nall that was printed is in {}", console.display());
        return Ok(ExitCode::FAILURE);
    }
    progress.done(&format!("Linux {}: {} suites passed", kernel.version(), suites.len()));
    Ok(ExitCode::SUCCESS)
}

/// Builds the suites; their programs.
fn build(suites: &[&str]) -> Result<Vec<PathBuf>> {
    // Of the whole workspace: built the same way, and so once, as when all tests run.
    let mut cargo = compile::cargo(&["test", "--workspace", "--no-run", "--message-format=json"]);
    for suite in suites {
        cargo.args(["--test", suite]);
    }
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("building the tests ended with {}", output.status);
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The test programs among cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["kind"][0] == "test";
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    messages.lines().filter_map(executable).collect()
}

/// A running emulator; ended when the value goes.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(progress: &Progress, image: &Path, archive: &Path, logs: (&Path, &Path)) -> Result<()> {
    for log in [logs.0, logs.1] {
        fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    }
    let mut emulator = Command::new("qemu-system-x86_64");
    emulator
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-display", "none", "-no-reboot", "-monitor", "none"])
        .arg("-serial")
        .arg(format!("file:{}", logs.0.display()))
        .arg("-serial")
        .arg(format!("file:{}", logs.1.display()))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // It ends with this process, however that ends: the next one gets the lock, and files that nobody uses.
    // SAFETY: runs between fork and exec; prctl(2) is a system call that takes no pointer here.
    unsafe {
        emulator.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    let child = emulator.spawn().context("cannot run qemu-system-x86_64")?;
    let mut emulator = Emulator(child);
    let begun = Instant::now();
    while emulator.0.try_wait().context("cannot wait for the emulator")?.is_none() {
        if begun.elapsed() > LIMIT {
            bail!("the tests did not end within {} s", LIMIT.as_secs());
        }
        let ended = fs::read_to_string(logs.1).unwrap_or_default();
        progress.detail(ended.lines().last().unwrap_or("starting"));
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Whether every suite ended well, by the lines that `init.sh` writes. An emulator ends well also when its kernel panicked, so
/// only what was told counts.
fn judge(told: &str, suites: &[&str]) -> Result<(), String> {
    let lines: Vec<&str> = told.lines().map(str::trim).collect();
    for suite in suites {
        let ended = lines
            .iter()
            .find_map(|line| line.strip_prefix("ended ")?.strip_prefix(suite)?.strip_prefix(' '));
        match ended {
            Some("0") => {}
            Some(code) => return Err(format!("{suite} failed (exit code {code})")),
            None => return Err(format!("{suite} did not end: the machine stopped before")),
        }
    }
    if lines.contains(&"done") {
        Ok(())
    } else {
        Err("the machine stopped before it was done".to_owned())
    }
}

/// Lines of the console that say what went wrong.
fn is_telling(line: &str) -> bool {
    [
        "FAILED",
        "panicked",
        "test result",
        "Kernel panic",
        "left:",
        "right:",
        "insmod:",
    ]
    .iter()
    .any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_suites_that_are_known_to_have_passed_count() {
        let suites = ["packet_pod", "net_pods"];
        assert_eq!(
            judge("ended packet_pod 0\r\nended net_pods 0\r\ndone\r\n", &suites),
            Ok(())
        );
        let problem = |told| judge(told, &suites).unwrap_err();
        assert!(problem("ended packet_pod 0\nended net_pods 101\ndone\n").contains("net_pods failed"));
        assert!(problem("ended packet_pod 0\ndone\n").contains("net_pods did not end"));
        assert!(problem("ended packet_pod 0\nended net_pods 0\n").contains("stopped"));
        assert!(problem("").contains("packet_pod did not end"));
    }

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/t/packet_pod-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/packet_pod-1")]);
    }
}
