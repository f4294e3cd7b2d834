//! Entry point of `causeway-agent`, and of a pod's holder: the same executable under another name.

use std::process::ExitCode;

use anyhow::Context as _;
use causeway_agent::{
    caps,
    config::{Cli, Command, LogFormat, Run},
    image, runtime, start,
};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    // Before anything else, and above all before there are threads: a holder forks.
    if runtime::holder::requested() {
        runtime::holder::main();
    }
    match command(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => run(&options),
        Command::Image(command) => {
            image::cli::run(command)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => Ok(check()),
    }
}

fn check() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for check in caps::check() {
        match check.result {
            Ok(found) => println!("{:<12} ok       {found}", check.name),
            Err(missing) => {
                println!("{:<12} MISSING  {}; {}", check.name, missing.found, missing.remedy);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn run(options: &Run) -> anyhow::Result<ExitCode> {
    start_logging(options)?;
    let config = options.resolve()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let token = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        });
        start::run(options, &config, stop).await
    });
    // Nothing that is under way has to be waited for: every step may be interrupted and is taken up by the next start.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn start_logging(options: &Run) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
        .with_context(|| format!("--log {} is not a level or a list of directives", options.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
