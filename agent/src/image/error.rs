//! What can go wrong with images.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{reference::ParseReferenceError, unpack};

/// An image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such image in the store (and nowhere to pull it from).
    #[error("image \"{0}\" is not in this node's image store")]
    NotFound(String),
    /// Not a name of an image.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// A file could not be used.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is to be imported is no image.
    #[error("{path} is not an image: {problem}", path = path.display())]
    NotAnImage {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A blob is not what its digest says.
    #[error("blob {digest} is damaged: its contents are {found}")]
    Digest {
        /// What it should be.
        digest: String,
        /// What it is.
        found: String,
    },
    /// A blob has another size than its descriptor says.
    #[error("blob {digest} is damaged: it has {found} bytes instead of {expected}")]
    Size {
        /// Its digest.
        digest: String,
        /// What the descriptor says.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// A blob is no JSON of the expected kind.
    #[error("blob {digest} is not a valid {kind}")]
    Parse {
        /// Its digest.
        digest: String,
        /// What it should be.
        kind: &'static str,
        /// Why not.
        #[source]
        source: oci_spec::OciSpecError,
    },
    /// The image asks for something that is not supported here.
    #[error("image {image}: {problem}")]
    Unsupported {
        /// Digest of the manifest.
        image: String,
        /// What.
        problem: String,
    },
    /// A layer could not be unpacked.
    #[error("cannot unpack layer {digest}")]
    Unpack {
        /// Diff id of the layer.
        digest: String,
        /// Why not.
        #[source]
        source: unpack::UnpackError,
    },
}

pub(super) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ImageError + 'a {
    move |source| ImageError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
