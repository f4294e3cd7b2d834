//! `cargo xtask up`: from nothing to a cluster whose service answers, in front of a person.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::remove::{self, Claim, down_command};
use super::{Claimed, Cluster, Spec, example, host, traffic};
use crate::compile::{self, Binaries, Profile};
use crate::image::{self, Image};
use crate::progress::Progress;
use crate::{interrupt, root, setup};

/// Requests from every client.
const REQUESTS: u64 = 90;
/// Replicas in `examples/web.yaml`.
const REPLICAS: usize = 3;

/// How to bring it up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Leave it running and return.
    pub detach: bool,
    /// Use optimised binaries.
    pub release: bool,
    /// Build them first; otherwise take what was built before.
    pub build: bool,
}

/// Brings the cluster up; in the foreground also waits for Ctrl-C and removes it.
pub fn run(progress: &Progress, spec: &Spec, options: Options) -> Result<ExitCode> {
    // The first thing looked at: a second `up` must not wait for a build to learn that it cannot start.
    make_free(progress, &spec.name)?;
    host::check()?;
    let (binaries, image) = prepare(progress, options)?;
    interrupt::catch()?;

    let begun = Instant::now();
    // An error up to here leaves nothing behind; from here on, nothing returns past the removal.
    let claimed = Claimed::new(spec.clone())?;
    let _removed = RemovedOnPanic(&spec.name);
    let mut running = None;
    let shown = show(progress, claimed, &binaries, &image, begun, &mut running);
    let outcome = match shown {
        Ok(all_answered) if options.detach => {
            how_to_go_on(spec, &binaries, true);
            return Ok(if all_answered {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Ok(_) => {
            how_to_go_on(spec, &binaries, false);
            running.as_mut().map_or(Ok(()), stay)
        }
        Err(error) => Err(error),
    };

    progress.failed();
    if let Err(error) = &outcome
        && !interrupt::requested()
    {
        progress.note(&format!("\nerror: {error:#}"));
        match keep_logs(spec) {
            Ok(directory) => progress.note(&format!("logs are kept in {}", directory.display())),
            Err(error) => progress.note(&format!("the logs could not be kept: {error:#}")),
        }
    }
    let removed = remove::run(progress, &spec.name);
    Ok(if outcome.is_ok() || interrupt::requested() {
        removed
    } else {
        ExitCode::FAILURE
    })
}

/// Even a fault of this program leaves no cluster behind.
struct RemovedOnPanic<'n>(&'n str);

impl Drop for RemovedOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            remove::remove(self.0);
        }
    }
}

fn make_free(progress: &Progress, cluster: &str) -> Result<()> {
    if remove::claim(cluster) == Claim::Remains {
        progress.note(&format!("Remains of an earlier cluster {cluster} are here."));
        remove::run(progress, cluster);
    }
    remove::check_free(cluster)
}

/// Tools, binaries, image: what is not counted into the start-up time.
fn prepare(progress: &Progress, options: Options) -> Result<(Binaries, Image)> {
    let begun = Instant::now();
    let profile = Profile::of(options.release);
    if !options.build {
        let binaries = compile::built(profile)?;
        let image = image::build(&binaries.demo)?;
        progress.note("Set-up and build were left out: this runs what was built before.");
        return Ok((binaries, image));
    }
    setup::run(progress)?;
    progress.begin("building");
    progress.hand_over();
    let binaries = compile::build(profile)?;
    let image = image::build(&binaries.demo)?;
    let took = begun.elapsed().as_secs_f64();
    progress.done(&format!(
        "built: binaries and image {} (set-up and build took {took:.1} s)",
        image::REFERENCE
    ));
    Ok((binaries, image))
}

/// Starts, deploys, asks; answers whether every request got its answer.
fn show(
    progress: &Progress,
    claimed: Claimed,
    binaries: &Binaries,
    image: &Image,
    begun: Instant,
    running: &mut Option<Cluster>,
) -> Result<bool> {
    let nodes = claimed.spec().nodes;
    let cluster = running.insert(Cluster::start(progress, claimed, binaries.clone(), image)?);

    progress.begin("deploying examples/web.yaml and a client pod per node");
    cluster.deploy_example()?;
    let web = cluster.wait_for_pods(progress, example::SELECTOR, REPLICAS)?;
    cluster.wait_for_endpoints(progress, example::SERVICE, REPLICAS)?;
    let address = cluster.virtual_ip(example::SERVICE)?;
    progress.done(&format!(
        "service {}: {REPLICAS} pods Ready behind {address}",
        example::SERVICE
    ));

    let url = format!("http://{address}/");
    progress.begin("asking the service");
    cluster.wait_for_answer(progress, "node-1", &url)?;
    let first_answer = begun.elapsed();
    let clients = cluster.wait_for_pods(progress, "app=client", nodes)?;
    let tallies = cluster.fetch_from_everywhere(progress, &clients, &url, REQUESTS)?;
    progress.done(&format!(
        "asked {url} {REQUESTS} times from every node and from a pod on every node"
    ));

    say(&format!("\n{}", traffic::table(&tallies, &example::nodes_of(&web))));
    let seconds = first_answer.as_secs_f64();
    say(&format!(
        "First answer from the virtual IP {seconds:.1} s after the start (build not counted)."
    ));
    let failures: Vec<_> = tallies
        .iter()
        .flat_map(|(client, tally)| {
            tally
                .failures
                .iter()
                .map(move |failure| format!("{client}: {}", failure.error))
        })
        .collect();
    if let Some(first) = failures.first() {
        progress.note(&format!(
            "warning: {} requests failed; the first: {first}",
            failures.len()
        ));
    }
    Ok(failures.is_empty())
}

fn how_to_go_on(spec: &Spec, binaries: &Binaries, detached: bool) {
    let node = Spec::node_names(spec).pop().unwrap_or_default();
    say(&format!(
        "\nGo on in {} shell (as root):",
        if detached { "this" } else { "another" }
    ));
    say(&format!("  export CAUSEWAY_SERVER={}", spec.server()));
    say(&format!("  export PATH=\"{}:$PATH\"", binaries.directory().display()));
    say("  causeway get pods -o wide");
    say("  causeway get svc,endpoints,nodes");
    say("  causeway scale rc web --replicas 5");
    say(&format!(
        "  causeway bpf services --cluster {} --node {node}",
        spec.name
    ));
    if remove::clusters().len() > 1 {
        say(
            "There are other clusters on this machine. CAUSEWAY_SERVER says which one is meant, but not to commands that read",
        );
        say(
            "the machine's maps (bpf, monitor, explain, top): these take the nodes of all clusters unless they are told",
        );
        say(&format!("  --cluster {}", spec.name));
    }
    say(&format!("Logs: {}", spec.logs_dir().display()));
    if detached {
        say(&format!("Remove it all: {}", down_command(&spec.name)));
    } else {
        say("Ctrl-C removes it all.");
    }
}

/// A line of results. That nobody reads them any more is no reason to leave a cluster behind.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Until Ctrl-C, or until a process ends by itself, which is an error.
fn stay(cluster: &mut Cluster) -> Result<()> {
    while !interrupt::requested() {
        if let Some(exited) = cluster.ended()? {
            return Err(anyhow!(exited));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Copies the logs out of the way of the removal.
fn keep_logs(spec: &Spec) -> Result<PathBuf> {
    let kept = compile::target_dir().join("causeway-logs").join(&spec.name);
    root::create_dir(&kept)?;
    for entry in fs::read_dir(spec.logs_dir()).context("no logs")? {
        let from = entry.context("cannot read the log directory")?.path();
        let to = kept.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        root::give_to_invoker(&to)?;
    }
    Ok(kept)
}
