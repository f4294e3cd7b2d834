//! `causeway create` and `causeway apply`.

use std::{io::Write, path::PathBuf};

use causeway_proto::{manifest::Document, v1::apply_response::Outcome};
use clap::Args;

use crate::{
    context::Context,
    error::{CliError, Failures},
    files,
};

/// Options of `causeway create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway create -f web.yaml\n  cat web.yaml | causeway create -f -")]
pub struct CreateArgs {
    #[command(flatten)]
    files: FileArgs,
}

/// Options of `causeway apply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    causeway apply -f web.yaml\n  \
    causeway apply -f examples/\n  \
    causeway get rc web -o yaml | sed 's/:v1/:v2/' | causeway apply -f -")]
pub struct ApplyArgs {
    #[command(flatten)]
    files: FileArgs,
}

/// Where the manifests are.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Manifest in YAML or JSON, directory of such, or - for standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// Read directories below directories too
    #[arg(short = 'R', long)]
    recursive: bool,
}

/// Creates objects; one that is there already is an error.
pub async fn create(context: &Context, args: &CreateArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for document in placed(context, &args.files)? {
        let title = document.object.title();
        match context.client.create_object(document.object).await {
            Ok(object) => writeln!(out, "{} created", object.title()).map_err(CliError::Output)?,
            Err(error) if error.is_unavailable() => return Err(error.into()),
            Err(error) => {
                failures.keep::<()>(Err(CliError::Object { object: title, error }));
            }
        }
    }
    failures.finish()
}

/// Creates objects, or merges manifests into those that are there.
pub async fn apply(context: &Context, args: &ApplyArgs, out: &mut impl Write) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for document in placed(context, &args.files)? {
        match context.client.apply(&document.raw).await {
            Ok(applied) => {
                writeln!(out, "{} {}", document.object.title(), word(applied.outcome)).map_err(CliError::Output)?;
            }
            Err(error) if error.is_unavailable() => return Err(error.into()),
            Err(error) => {
                failures.keep::<()>(Err(CliError::Object {
                    object: document.object.title(),
                    error,
                }));
            }
        }
    }
    failures.finish()
}

/// All objects, each in its namespace. Nothing is sent while any of them cannot be.
fn placed(context: &Context, args: &FileArgs) -> Result<Vec<Document>, CliError> {
    let mut failures = Failures::default();
    let read = files::read(&args.filename, args.recursive)?;
    let placed = read
        .into_iter()
        .filter_map(|document| failures.keep(files::place(context, document)))
        .collect();
    failures.finish().map(|()| placed)
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    }
}
