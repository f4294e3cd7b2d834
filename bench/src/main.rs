//! `cargo xtask bench vip` runs this.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use causeway_bench::{
    datapath, interrupt,
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
    /// The data path against its goals: sockets, packets, programming.
    Datapath(datapath::Options),
    /// A client or server of the benchmark itself.
    #[command(hide = true, name = "worker")]
    Worker { arguments: Vec<String> },
}

fn main() -> ExitCode {
    let result = match Cli::parse().what {
        What::Vip(options) => vip(&options),
        What::Datapath(options) => measure_datapath(&options),
        What::Worker { arguments } => work(&arguments).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("\nerror: {error:#}");
        if interrupt::requested() {
            eprintln!("Everything was removed.");
        }
        ExitCode::FAILURE
    })
}

/// What every benchmark needs.
fn prepare() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this makes network namespaces and loads BPF programs: run it as root");
    }
    interrupt::catch()
}

/// Puts results into a document, where those of the benchmark are.
fn put_into(document: &Path, name: &str, results: &str) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let new = report::replace_results(&text, name, results)
        .with_context(|| format!("cannot change {}", document.display()))?;
    write(document, &new)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn measure_datapath(options: &datapath::Options) -> Result<ExitCode> {
    prepare()?;
    let results = datapath::run(options)?;
    let table = datapath::table(&results);
    println!("{table}");
    fs::create_dir_all(&options.output).with_context(|| format!("cannot make {}", options.output.display()))?;
    let json = datapath::json(&results.entries)?;
    write(&options.output.join("datapath.json"), &json)?;
    write(&options.output.join("datapath.txt"), &table)?;
    write(&options.output.join("datapath.md"), &datapath::markdown(&results))?;
    if let Some(path) = &options.json {
        write(path, &json)?;
    }
    if let Some(path) = &options.document {
        put_into(path, "datapath", &datapath::markdown(&results))?;
    }
    if results.refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {} measurements were refused, see above", results.refused.len());
    Ok(ExitCode::FAILURE)
}

fn vip(options: &Options) -> Result<ExitCode> {
    prepare()?;
    let mut all = Vec::new();
    for plan in Plan::all(options)? {
        let mut results = run::run(&plan)?;
        results.settle();
        let entries = report::entries(&results);
        println!("{}", report::table(&results, &entries));
        all.push((results, entries));
    }
    fs::create_dir_all(&options.output).with_context(|| format!("cannot make {}", options.output.display()))?;
    report::write(&options.output, &all)?;
    if let Some(path) = &options.json {
        write(path, &report::json(&all)?)?;
    }
    if let Some(path) = &options.document {
        put_into(path, "vip", &report::markdown(&all))?;
    }
    let refused: usize = all.iter().map(|(results, _)| results.refusals.len()).sum();
    if refused == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {refused} measurements were refused, see above");
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
