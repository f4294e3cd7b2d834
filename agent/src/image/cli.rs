//! `causeway-agent image …`: for `main.rs`.

use std::path::PathBuf;

/// `image` subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum ImageCommand {
    /// Bring an OCI layout directory, OCI archive or docker archive into a node's image store.
    Import {
        /// State directory of the node.
        #[arg(long)]
        state_dir: PathBuf,
        /// Name for the image; otherwise the names written in the archive.
        #[arg(long = "ref")]
        reference: Option<String>,
        /// Directory or archive.
        path: PathBuf,
    },
    /// List the images of a node.
    List {
        /// State directory of the node.
        #[arg(long)]
        state_dir: PathBuf,
    },
    /// Remove an image from a node's store.
    Remove {
        /// State directory of the node.
        #[arg(long)]
        state_dir: PathBuf,
        /// Image.
        reference: String,
    },
}

/// Runs an `image` subcommand: results on standard output. Blocking.
pub fn run(command: ImageCommand) -> Result<(), super::ImageError> {
    todo!()
}
