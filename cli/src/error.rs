//! What a command can fail with, in words.

use std::{error::Error as _, io, path::PathBuf};

use causeway_maps::{MapsError, dry_run::DryRunError, events::EventsError};
use causeway_proto::{
    client::{ClientError, ConnectError},
    manifest::ManifestErrors,
};
use thiserror::Error;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The errors are on standard error already.
    #[error("failed")]
    Reported,
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The control plane refused, or could not be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The control plane refused, or could not be reached, for one object.
    #[error("{}", about(object, error))]
    Object {
        /// The object, as "pod/web".
        object: String,
        /// Why.
        error: ClientError,
    },
    /// The address of the control plane is none.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory holds no manifests.
    #[error("no .yaml, .yml or .json file in {0}")]
    NoManifests(PathBuf),
    /// A manifest holds no objects.
    #[error("no objects in {0}")]
    NoObjects(String),
    /// A manifest is wrong.
    #[error("{}", in_file(file, errors))]
    Manifest {
        /// The file.
        file: String,
        /// Everything wrong with it.
        errors: ManifestErrors,
    },
    /// Waiting took too long.
    #[error("timed out waiting for {0}")]
    TimedOut(String),
    /// The editor could not be run, or failed.
    #[error("cannot edit with \"{editor}\"")]
    Editor {
        /// The editor's command.
        editor: String,
        /// Why.
        source: io::Error,
    },
    /// The pinned maps of one node could not be read.
    #[error("node {node}")]
    NodeMaps {
        /// Cluster and node.
        node: String,
        /// Why.
        source: Box<MapsError>,
    },
    /// An agent refused, or could not be reached.
    #[error("the agent of node {node} at {target}: {problem}")]
    Agent {
        /// The node.
        node: String,
        /// Where its agent should be.
        target: String,
        /// What it said, or the innermost cause.
        problem: String,
    },
    /// An agent or program answered with something that this program does not understand.
    #[error("the answer of node {node} is not understood; is its agent of another version?")]
    Answer {
        /// The node.
        node: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The events of one node could not be taken.
    #[error("node {node}")]
    Events {
        /// Cluster and node.
        node: String,
        /// Why.
        source: Box<EventsError>,
    },
    /// A packet could not be tried out on a node.
    #[error("node {node}")]
    DryRun {
        /// Cluster and node.
        node: String,
        /// Why.
        source: Box<DryRunError>,
    },
    /// The terminal could not be used.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// bpffs could not be listed.
    #[error("cannot look for pinned maps in {path}")]
    Pins {
        /// Mount point of bpffs.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process has no room for its I/O driver.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

/// The error, with the object's name unless it has that already.
fn about(object: &str, error: &ClientError) -> String {
    let text = error.to_string();
    let name = object.rsplit('/').next().unwrap_or(object);
    let first = text.lines().next().unwrap_or_default();
    let named = first.split(['"', '/']).any(|word| word == name);
    if named { text } else { format!("{object}: {text}") }
}

fn in_file(file: &str, errors: &ManifestErrors) -> String {
    errors
        .errors()
        .iter()
        .map(|error| format!("{file}: {error}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Writes an error to standard error: each of its lines, its causes, and what to do when nobody answered.
pub fn report(error: &CliError) {
    // Standard error may be closed; there is nobody left to tell.
    let _ = io::Write::write_all(&mut io::stderr(), text(error).as_bytes());
}

/// The error as it is shown.
fn text(error: &CliError) -> String {
    let mut text = format!("error: {error}");
    if let CliError::Manifest { .. } = error {
        // One line each, all of them errors.
        text = text.replace('\n', "\nerror: ");
    }
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if let CliError::Client(ClientError::Unreachable { .. })
    | CliError::Object {
        error: ClientError::Unreachable { .. },
        ..
    } = error
    {
        text.push_str("; is it running? set --server or CAUSEWAY_SERVER to its address");
    }
    text.push('\n');
    text
}

/// Goes on after failures, reports each, and fails at the end when there was any.
#[derive(Debug, Default)]
pub struct Failures(usize);

impl Failures {
    /// Keeps what succeeded, reports what did not.
    pub fn keep<T>(&mut self, result: Result<T, CliError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0 += 1;
                if !matches!(error, CliError::Reported) {
                    report(&error);
                }
                None
            }
        }
    }

    /// Whether the whole succeeded.
    pub fn finish(self) -> Result<(), CliError> {
        if self.0 == 0 { Ok(()) } else { Err(CliError::Reported) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_control_plane_is_explained() {
        let error = ClientError::Unreachable {
            target: "http://127.0.0.1:6550".to_owned(),
            problem: "connection refused".to_owned(),
        };
        assert_eq!(
            text(&error.into()),
            "error: cannot reach the control plane at http://127.0.0.1:6550: connection refused; is it running? set \
             --server or CAUSEWAY_SERVER to its address\n"
        );
    }

    #[test]
    fn the_object_is_named_once() {
        let error = |message: &str| {
            let error = ClientError::Refused {
                code: causeway_proto::client::error::Code::InvalidArgument,
                message: message.to_owned(),
                violations: Vec::new(),
            };
            CliError::Object {
                object: "pod/web".to_owned(),
                error,
            }
            .to_string()
        };
        assert_eq!(
            error("Pod \"default/web\" is invalid"),
            "Pod \"default/web\" is invalid"
        );
        assert_eq!(
            error("namespace \"webshop\" not found"),
            "pod/web: namespace \"webshop\" not found"
        );
    }

    #[test]
    fn causes_follow_their_error() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = CliError::Read {
            path: "web.yaml".into(),
            source,
        };
        assert_eq!(text(&error), "error: cannot read web.yaml: no such file\n");
    }

    #[test]
    fn every_error_of_a_manifest_has_its_line() {
        let errors = causeway_proto::manifest::parse_yaml("apiVersion: v1\nkind: Pod\nx: 1\ny: 2\n").unwrap_err();
        let text = text(&CliError::Manifest {
            file: "web.yaml".into(),
            errors,
        });
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines().all(|line| line.starts_with("error: web.yaml: line ")),
            "{text}"
        );
    }
}
