//! Container images: a content-addressed store, filled by importing OCI layouts and archives.
//!
//! [`reference`] names images, `store` keeps blobs, unpacked layers and references, `import` brings images in,
//! `unpack` turns a layer into an overlayfs lower directory. A registry client would be one more way of filling the store
//! (it needs [`ImageStore::put_blob`] and [`ImageStore::commit`] only).
//!
//! Invariants: nothing is visible before it is complete and its digest verified; a crash at any instant leaves only
//! temporary files, which the next import removes; no path in an image can reach outside its layer's directory.

pub mod cli;
mod config;
mod error;
mod garbage;
mod hashing;
mod import;
pub mod reference;
mod store;
mod unpack;

pub use config::{ImageConfig, Rootfs};
pub use error::ImageError;
pub use store::{Image, ImageStore, ImageSummary};
