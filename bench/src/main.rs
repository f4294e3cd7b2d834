//! `cargo xtask bench vip` runs this.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use causeway_bench::{
    interrupt,
    options::{Options, Plan},
    report, run, worker,
};

#[derive(Parser)]
#[command(name = "causeway-bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Virtual addresses: Causeway beside iptables, nftables and no balancing.
    Vip(Options),
    /// A client or server of the benchmark itself.
    #[command(hide = true, name = "worker")]
    Worker { arguments: Vec<String> },
}

fn main() -> ExitCode {
    let result = match Cli::parse().what {
        What::Vip(options) => vip(&options),
        What::Worker { arguments } => work(&arguments).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("\nerror: {error:#}");
        ExitCode::FAILURE
    })
}

fn vip(options: &Options) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this makes network namespaces and loads BPF programs: run it as root");
    }
    interrupt::catch()?;
    let plan = Plan::new(options)?;
    let mut results = run::run(&plan)?;
    results.settle();
    let entries = report::entries(&results);
    let text = report::table(&results, &entries);
    println!("{text}");
    fs::create_dir_all(&options.output).with_context(|| format!("cannot make {}", options.output.display()))?;
    report::write(&options.output, &results, &entries, &text)?;
    if let Some(path) = &options.json {
        fs::write(path, report::json(&entries)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.document {
        let document = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = report::replace_results(&document, &report::markdown(&results, &entries))
            .with_context(|| format!("cannot change {}", path.display()))?;
        fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if results.refusals.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {} measurements were refused, see above", results.refusals.len());
    Ok(ExitCode::FAILURE)
}

fn work(arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((role, [])) if role == "client" => worker::run_client(),
        Some((role, rest)) if role == "server" => {
            let (number, address) = worker::parse_server(rest)?;
            worker::run_server(number, address)
        }
        _ => bail!("neither client nor server"),
    }
}
