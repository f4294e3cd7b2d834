//! `causeway delete`.

use std::{io::Write, path::PathBuf, time::Duration};

use causeway_proto::{
    Kind,
    client::{DeleteOptions, Propagation},
    v1::Object,
};
use clap::{ArgAction, Args, ValueEnum};
use tokio::time::Instant;

use crate::{
    context::Context,
    error::{CliError, Failures},
    files,
    objects::{self, SelectArgs},
    target::Targets,
    wait::{Awaited, parse_duration, until_gone},
};

/// Options of `causeway delete`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
#[command(after_help = "Examples:\n  \
    causeway delete pod web-x7k2p\n  \
    causeway delete rc/web svc/web\n  \
    causeway delete pods -l app=web --wait=false\n  \
    causeway delete -f web.yaml --ignore-not-found\n  \
    causeway delete rc web --cascade orphan")]
pub struct DeleteArgs {
    /// KIND NAME…, KIND/NAME…, or KIND with -l or --all
    #[arg(
        required_unless_present = "filename",
        conflicts_with = "filename",
        value_name = "KIND NAME"
    )]
    targets: Vec<String>,

    /// Delete the objects of a manifest, of a directory of such, or of standard input (-); may be repeated
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// Read directories below directories too
    #[arg(short = 'R', long)]
    recursive: bool,

    #[command(flatten)]
    select: SelectArgs,

    /// All objects of the kind
    #[arg(long)]
    all: bool,

    /// Seconds to end gracefully, instead of the object's own; 0 needs --force
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..))]
    grace_period: Option<i64>,

    /// End gracefully, but within a second
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    now: bool,

    /// Remove at once, without waiting for the node to say that the processes have ended
    #[arg(long)]
    force: bool,

    /// What happens to the objects that it owns
    #[arg(long, value_enum, default_value_t)]
    cascade: Cascade,

    /// Wait until the objects are gone
    #[arg(long, action = ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    wait: bool,

    /// How long to wait: 30s, 5m [default: for ever]
    #[arg(long, value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Cascade {
    /// They are deleted after it
    #[default]
    Background,
    /// They are deleted before it
    Foreground,
    /// They stay
    Orphan,
}

/// Deletes objects, and waits until they are gone.
pub async fn run(context: &Context, args: &DeleteArgs, out: &mut impl Write) -> Result<(), CliError> {
    let options = args.options()?;
    if args.force {
        eprintln!("warning: with --force, the processes of a pod may go on running on a node that cannot be reached");
    }
    let mut failures = Failures::default();
    let mut deleted = Vec::new();
    for (kind, namespace, name) in doomed(context, args, &mut failures).await? {
        match context.client.delete_object(kind, &namespace, &name, &options).await {
            Ok(object) => {
                writeln!(out, "{} \"{name}\" deleted", kind.singular()).map_err(CliError::Output)?;
                deleted.push(object);
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if error.is_unavailable() => return Err(error.into()),
            Err(error) => {
                failures.keep::<()>(Err(error.into()));
            }
        }
    }
    if args.wait {
        out.flush().map_err(CliError::Output)?;
        let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
        for object in deleted.iter().filter_map(Awaited::of) {
            failures.keep(until_gone(context, &object, deadline).await);
        }
    }
    failures.finish()
}

impl DeleteArgs {
    fn options(&self) -> Result<DeleteOptions, CliError> {
        let grace_period_seconds = match (self.grace_period, self.force, self.now) {
            (Some(0), false, _) => {
                let problem = "--grace-period 0 needs --force: the pod is removed without a word from its node";
                return Err(CliError::Usage(problem.to_owned()));
            }
            (Some(1..), true, _) => {
                return Err(CliError::Usage("--force goes with --grace-period 0 only".to_owned()));
            }
            (None, true, _) => Some(0),
            (None, false, true) => Some(1),
            (given, ..) => given,
        };
        let propagation = match self.cascade {
            Cascade::Background => Propagation::Background,
            Cascade::Foreground => Propagation::Foreground,
            Cascade::Orphan => Propagation::Orphan,
        };
        Ok(DeleteOptions {
            grace_period_seconds,
            propagation,
            preconditions: None,
        })
    }
}

/// Kind, namespace and name of what is to be deleted.
async fn doomed(
    context: &Context,
    args: &DeleteArgs,
    failures: &mut Failures,
) -> Result<Vec<(Kind, String, String)>, CliError> {
    let key = |object: &Object| {
        let meta = object.meta()?;
        Some((object.kind()?, meta.namespace.clone(), meta.name.clone()))
    };
    if !args.filename.is_empty() {
        let read = files::read(&args.filename, args.recursive)?;
        let placed: Vec<_> = read
            .into_iter()
            .filter_map(|document| failures.keep(files::place(context, document)))
            .collect();
        return Ok(placed.iter().filter_map(|document| key(&document.object)).collect());
    }
    let targets = Targets::parse(&args.targets)?;
    if let Targets::Named(named) = &targets {
        if args.all || args.select.selects() || args.select.all_namespaces {
            return Err(CliError::Usage("name objects or select them, not both".to_owned()));
        }
        let named = named
            .iter()
            .map(|(kind, name)| (*kind, context.namespace_of(*kind).to_owned(), name.clone()));
        return Ok(named.collect());
    }
    if !args.all && !args.select.selects() {
        return Err(CliError::Usage(
            "name the objects, select them with -l, or say --all".to_owned(),
        ));
    }
    let found = objects::find(context, &targets, &args.select, failures).await?;
    if found.objects.is_empty() {
        objects::say_nothing_found(context, &targets.kinds(), args.select.all_namespaces);
    }
    Ok(found.objects.iter().filter_map(key).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: DeleteArgs,
    }

    fn options(text: &str) -> Result<DeleteOptions, String> {
        let words = ["delete", "pod", "web"].into_iter().chain(text.split_whitespace());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        command.args.options().map_err(|error| error.to_string())
    }

    #[test]
    fn ways_to_end_an_object() {
        let grace = |text| options(text).map(|options| options.grace_period_seconds);
        assert_eq!(grace(""), Ok(None));
        assert_eq!(grace("--grace-period 5"), Ok(Some(5)));
        assert_eq!(grace("--now"), Ok(Some(1)));
        assert_eq!(grace("--force"), Ok(Some(0)));
        assert_eq!(grace("--force --grace-period 0"), Ok(Some(0)));
        assert!(grace("--grace-period 0").unwrap_err().contains("--force"));
        assert!(grace("--grace-period 5 --force").is_err());
        assert_eq!(options("--cascade orphan").unwrap().propagation, Propagation::Orphan);
    }

    #[test]
    fn waiting_is_the_default_and_can_be_turned_off() {
        let wait = |words: &[&str]| Command::try_parse_from(words).map(|command| command.args.wait).ok();
        assert_eq!(wait(&["delete", "pod", "web"]), Some(true));
        assert_eq!(wait(&["delete", "--wait", "pod", "web"]), Some(true));
        assert_eq!(wait(&["delete", "pod", "web", "--wait=false"]), Some(false));
        assert_eq!(wait(&["delete"]), None);
        assert_eq!(wait(&["delete", "pod", "web", "-f", "x.yaml"]), None);
    }
}
