//! `cargo xtask`: see `cargo xtask help`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use xtask::cluster::{DEV, IpFamilies, Routing, Spec, Store, remove, stale, up};
use xtask::progress::Progress;
use xtask::vm::{self, Kernel};
use xtask::{bench, check, compile, fuzz, image, root, setup};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Development tasks of Causeway"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring up a development cluster with the example service and show it working; Ctrl-C removes it.
    Up(UpArgs),
    /// Remove every trace of a development cluster, also after a crash, and what killed tests have left.
    Down {
        /// Which cluster.
        #[arg(long, default_value = DEV)]
        cluster: String,
    },
    /// Set up, check format and lints, run every test.
    Test {
        /// Only tests whose name contains one of these; skips format and lints.
        filters: Vec<String>,
    },
    /// Find or install what building and testing need.
    Setup,
    /// Build the binaries and the demo image.
    Build {
        /// With optimisations.
        #[arg(long)]
        release: bool,
    },
    /// Measure, beside other ways of doing the same.
    #[command(subcommand)]
    Bench(Bench),
    /// Run tests on a stock kernel in an emulated machine.
    VmTest {
        /// Which kernel.
        #[arg(long, value_enum)]
        kernel: Kernel,
        /// Suites of the tests [default: those of packets and of real sockets].
        suites: Vec<String>,
    },
    /// Run made-up sequences of packets through the reference model and the real programs: --minutes N, --seed S.
    #[command(disable_help_flag = true)]
    Fuzz {
        /// Handed on; `cargo xtask fuzz --help` tells them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Check format, lints, and, where they are installed, licences and unused dependencies.
    Lint,
}

#[derive(Subcommand)]
enum Bench {
    /// Balancing of virtual addresses: Causeway, iptables, nftables, none at all; --quick for a first impression.
    #[command(disable_help_flag = true)]
    Vip {
        /// Handed on; `cargo xtask bench vip --help` tells them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// The data path against its goals: sockets, packets, programming; --quick for a first impression.
    #[command(disable_help_flag = true)]
    Datapath {
        /// Handed on; `cargo xtask bench datapath --help` tells them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
}

#[derive(Args)]
struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: u8,
    /// Where the control plane keeps its objects; `etcd` starts a real etcd server.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Leave the cluster running and return.
    #[arg(long)]
    detach: bool,
    /// Which addresses nodes, pods and services have.
    #[arg(long, value_enum, default_value_t)]
    ip_families: IpFamilies,
    /// How pods of other nodes are reached.
    #[arg(long, value_enum, default_value_t)]
    routing: Routing,
    /// Name of the cluster: several can run side by side.
    #[arg(long, default_value = DEV)]
    cluster: String,
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
    /// Leave set-up and build out: run what was built before.
    #[arg(long)]
    no_build: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let progress = Progress::to_stderr();
    match task {
        Task::Up(args) => {
            root::ensure("cluster needs network namespaces, cgroups and BPF")?;
            let mut spec = Spec::new(&args.cluster, args.nodes.into(), args.store)?;
            (spec.families, spec.routing) = (args.ip_families, args.routing);
            up::run(
                &progress,
                &spec,
                up::Options {
                    detach: args.detach,
                    release: args.release,
                    build: !args.no_build,
                },
            )
        }
        Task::Down { cluster } => {
            root::ensure("removing a cluster takes the rights that made it")?;
            Spec::check_name(&cluster)?;
            stale::run(&progress);
            Ok(remove::run(&progress, &cluster))
        }
        Task::Test { filters } => {
            root::ensure("tests make network namespaces, cgroups and BPF programs")?;
            check::test(&progress, &filters)
        }
        Task::VmTest { kernel, suites } => vm::test(&progress, kernel, &suites),
        Task::Setup => {
            setup::run(&progress)?;
            setup::for_tests(&progress)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Build { release } => {
            let binaries = compile::build(compile::Profile::of(release))?;
            let image = image::build(&binaries.demo)?;
            progress.note(&format!(
                "binaries in {}, image {}",
                binaries.directory().display(),
                image.path.display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench(Bench::Vip { options }) => bench::run(&progress, "vip", &options),
        Task::Bench(Bench::Datapath { options }) => bench::run(&progress, "datapath", &options),
        Task::Fuzz { options } => fuzz::run(&progress, &options),
        Task::Lint => check::lint(&progress),
    }
}
