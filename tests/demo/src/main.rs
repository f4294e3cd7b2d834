//! `causeway-demo`: the one program inside the demo image, both sides of a conversation.
//!
//! `serve` is a small HTTP/1.1 and UDP server that says which pod answered, and can be told over HTTP to turn unready,
//! to hang or to crash. `fetch` and `load` are its clients; the server runs them too when asked (`GET /fetch`,
//! `GET /load`), so that any pod can be made a client without `exec`.
//!
//! It is linked statically: the image holds this file and no C library.

mod client;
mod http;
mod serve;
mod tally;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "causeway-demo",
    version,
    about = "HTTP server and client that tell which pod answered"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP and UDP echo until SIGTERM.
    Serve(ServeArgs),
    /// Send a number of requests one after another and print the tally as JSON.
    Fetch(FetchArgs),
    /// Send a number of datagrams, each from a socket of its own, and print the tally as JSON.
    Datagrams(DatagramArgs),
    /// Send requests for a while, several at once, and print the tally as JSON.
    Load(LoadArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Address and port for HTTP (TCP) and echo (UDP).
    #[arg(long, default_value = "0.0.0.0:8080", env = "LISTEN")]
    listen: SocketAddr,
    /// Not ready until this many milliseconds after the start.
    #[arg(long, value_name = "MS", default_value_t = 0, env = "READY_AFTER_MS")]
    ready_after_ms: u64,
    /// After SIGTERM, go on accepting connections this many milliseconds, so that load balancers can look away first.
    #[arg(long, value_name = "MS", default_value_t = 500, env = "DRAIN_MS")]
    drain_ms: u64,
}

#[derive(Args)]
struct FetchArgs {
    /// What to ask, `http://ADDRESS[:PORT]/PATH`.
    #[arg(long)]
    url: String,
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Send all requests on one connection.
    #[arg(long)]
    keep_alive: bool,
    /// Pause between requests.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    interval_ms: u64,
    /// Longest wait for a connection, and for an answer.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout_ms: u64,
}

#[derive(Args)]
struct DatagramArgs {
    /// What to ask, `ADDRESS:PORT`.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Longest wait for an answer.
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    timeout_ms: u64,
}

#[derive(Args)]
struct LoadArgs {
    /// What to ask, `http://ADDRESS[:PORT]/PATH`.
    #[arg(long)]
    url: String,
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// Every worker keeps one connection instead of making one per request.
    #[arg(long)]
    keep_alive: bool,
    /// Pause between requests of one worker.
    #[arg(long, value_name = "MS", default_value_t = 1)]
    interval_ms: u64,
    /// Longest wait for a connection, and for an answer.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    timeout_ms: u64,
}

fn main() -> Result<ExitCode> {
    let tally = match Cli::parse().command {
        Command::Serve(args) => {
            serve::run(&serve::Config {
                listen: args.listen,
                ready_after: Duration::from_millis(args.ready_after_ms),
                drain: Duration::from_millis(args.drain_ms),
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Fetch(args) => client::fetch(
            &client::Target {
                url: http::Url::parse(&args.url)?,
                keep_alive: args.keep_alive,
                interval: Duration::from_millis(args.interval_ms),
                timeout: Duration::from_millis(args.timeout_ms),
            },
            args.count,
        ),
        Command::Datagrams(args) => client::datagrams(args.to, args.count, Duration::from_millis(args.timeout_ms)),
        Command::Load(args) => client::load(
            &client::Target {
                url: http::Url::parse(&args.url)?,
                keep_alive: args.keep_alive,
                interval: Duration::from_millis(args.interval_ms),
                timeout: Duration::from_millis(args.timeout_ms),
            },
            Duration::from_secs_f64(args.duration),
            args.concurrency,
        ),
    };
    println!("{}", serde_json::to_string(&tally.report())?);
    Ok(if tally.errors() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
