//! `causeway-agent image …`: for `main.rs`.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    error::{ImageError, at},
    store::ImageStore,
};

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
pub fn run(command: ImageCommand) -> Result<(), ImageError> {
    match command {
        ImageCommand::Import {
            state_dir,
            reference,
            path,
        } => {
            for image in ImageStore::open(&state_dir)?.import(&path, reference.as_deref())? {
                print(&format!("{} {}\n", image.reference, image.digest))?;
            }
            Ok(())
        }
        ImageCommand::List { state_dir } => {
            let images = ImageStore::open(&state_dir)?.list()?;
            let width = images
                .iter()
                .map(|image| image.reference.len())
                .max()
                .unwrap_or(0)
                .max("REFERENCE".len());
            print(&format!("{:width$}  {:71}  SIZE\n", "REFERENCE", "DIGEST"))?;
            for image in images {
                print(&format!(
                    "{:width$}  {:71}  {}\n",
                    image.reference, image.digest, image.size_bytes
                ))?;
            }
            Ok(())
        }
        ImageCommand::Remove { state_dir, reference } => ImageStore::open(&state_dir)?.remove(&reference),
    }
}

fn print(text: &str) -> Result<(), ImageError> {
    let path = Path::new("standard output");
    std::io::stdout().write_all(text.as_bytes()).map_err(at("write", path))
}
