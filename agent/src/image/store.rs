//! The store on disk.

use std::path::{Path, PathBuf};

use super::config::{ImageConfig, Rootfs};

/// An image ready to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Full reference ("docker.io/library/demo:latest").
    pub reference: String,
    /// Digest of the configuration ("sha256:…"): what makes two images the same.
    pub id: String,
    /// Digest of the manifest.
    pub digest: String,
    /// What it runs.
    pub config: ImageConfig,
    /// Its unpacked layers.
    pub rootfs: Rootfs,
}

/// A line of `image list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageSummary {
    /// Full reference.
    pub reference: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Size of manifest, configuration and compressed layers.
    pub size_bytes: u64,
}

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image in the store (and nowhere to pull it from).
    #[error("image \"{0}\" is not in this node's image store")]
    NotFound(String),
}

/// Images of one node. Cheap to clone; several processes may use one directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

impl ImageStore {
    /// Opens (makes) the store of the node with this state directory, in `<state_dir>/images`.
    pub fn open(state_dir: &Path) -> Result<Self, ImageError> {
        todo!()
    }

    /// Brings in every image of the OCI layout directory, OCI archive or docker archive at `path`; with `reference`, the
    /// one image in it gets that name. Answers the full references. Blocking.
    pub fn import(&self, path: &Path, reference: Option<&str>) -> Result<Vec<Image>, ImageError> {
        todo!()
    }

    /// The image called `reference` ("demo", "demo:1", "registry.example/x@sha256:…").
    pub fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        todo!()
    }

    /// Every image, by reference.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        todo!()
    }
}
