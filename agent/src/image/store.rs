//! The store on disk.
//!
//! ```text
//! images/  blobs/sha256/<hex>      manifests, configurations, compressed layers
//!          layers/<24 hex>/{diff-id,fs/}   unpacked layers, named by the start of their diff id
//!          refs/<reference, "/" as "%2F">  digest of the manifest
//!          tmp/  lock
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use oci_spec::image::{ImageConfiguration, ImageManifest};

use super::{
    config::{ImageConfig, Rootfs},
    error::{ImageError, at},
    hashing::Hashing,
    import,
    reference::Reference,
    unpack,
};

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

/// Images of one node. Cheap to clone; several processes may use one directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(super) state_dir: PathBuf,
    pub(super) root: PathBuf,
}

/// Digits of a diff id that name its layer: overlayfs takes one page of options for up to 127 layers. A layer says its full diff id
/// inside, so that a (contrived) namesake is refused.
const LAYER_NAME: usize = 24;

/// The lower directory of an image without layers.
const EMPTY: &str = "empty/fs";

impl ImageStore {
    /// Opens (makes) the store of the node with this state directory, in `<state_dir>/images`.
    pub fn open(state_dir: &Path) -> Result<Self, ImageError> {
        let root = state_dir.join("images");
        for part in ["blobs/sha256", "layers/empty/fs", "refs", "tmp"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(at("make", &path))?;
        }
        // Inside are the set-uid programs of images, which are for containers only.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(at("protect", &root))?;
        let root = root.canonicalize().map_err(at("find", &root))?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            root,
        })
    }

    /// Brings in every image of the OCI layout directory, OCI archive or docker archive at `path`; with `reference`, the
    /// one image in it gets that name. Blocking.
    pub fn import(&self, path: &Path, reference: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let reference = reference.map(str::parse).transpose()?;
        let _lock = self.lock()?;
        self.clear_temporary()?;
        import::import(self, path, reference.as_ref())
    }

    /// The image called `reference` ("demo", "demo:1", "registry.example/x@sha256:…").
    pub fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let full: Reference = reference.parse()?;
        let digest = match (self.read_ref(&full)?, &full.digest) {
            (Some(digest), None) => Some(digest),
            (_, Some(wanted)) => {
                let name = full.name();
                let refs = self.refs()?;
                refs.iter()
                    .any(|(other, digest)| other.name() == name && digest == wanted)
                    .then(|| wanted.clone())
            }
            (None, None) => None,
        };
        let digest = digest.ok_or_else(|| ImageError::NotFound(reference.to_owned()))?;
        self.load(&full, &digest)
    }

    /// Every image, by reference.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let refs = self.refs()?.into_iter();
        refs.map(|(reference, digest)| {
            let manifest = self.manifest(&digest)?;
            let parts = manifest
                .layers()
                .iter()
                .map(oci_spec::image::Descriptor::size)
                .sum::<u64>();
            let own = fs::metadata(self.blob(&digest)).map_or(0, |metadata| metadata.len());
            let size_bytes = parts + manifest.config().size() + own;
            Ok(ImageSummary {
                reference: reference.to_string(),
                digest,
                size_bytes,
            })
        })
        .collect()
    }

    /// Removes the image called `reference`, and every blob and layer that no image and no container of this node uses.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let full: Reference = reference.parse()?;
        let _lock = self.lock()?;
        self.clear_temporary()?;
        let path = self.ref_path(&full);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::NotFound(reference.to_owned())),
            Err(source) => Err(ImageError::File {
                action: "remove",
                path,
                source,
            }),
            Ok(()) => self.collect_garbage(),
        }
    }

    /// Stores what `reader` gives as the blob `digest` of `size` bytes, unless it is there. Nothing is stored when digest or size
    /// are others.
    pub fn put_blob(&self, digest: &str, size: Option<u64>, mut reader: impl Read) -> Result<(), ImageError> {
        let path = self.blob(digest);
        if path.exists() {
            return Ok(());
        }
        let temporary = self.temporary("blob");
        let mut file = File::create(&temporary).map_err(at("make", &temporary))?;
        let mut hasher = Hashing::new(&mut reader);
        // One byte more than told is enough to know.
        let limit = size.map_or(u64::MAX, |size| size.saturating_add(1));
        let found = io::copy(&mut Read::by_ref(&mut hasher).take(limit), &mut file).map_err(at("write", &temporary))?;
        if let Some(expected) = size.filter(|expected| *expected != found) {
            return Err(ImageError::Size {
                digest: digest.to_owned(),
                expected,
                found,
            });
        }
        let found = hasher.digest();
        if found != digest {
            return Err(ImageError::Digest {
                digest: digest.to_owned(),
                found,
            });
        }
        file.sync_all()
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(at("write", &path))
    }

    /// Unpacks the layers of the image whose manifest, configuration and layers are in the store, and gives it a name.
    pub fn commit(&self, reference: &Reference, digest: &str) -> Result<Image, ImageError> {
        let manifest = self.manifest(digest)?;
        let configuration = self.configuration(&manifest)?;
        let refuse = |problem: String| {
            Err(ImageError::Unsupported {
                image: digest.to_owned(),
                problem,
            })
        };
        let (os, arch) = (configuration.os().to_string(), configuration.architecture().to_string());
        if os != "linux" || arch != import::architecture() {
            return refuse(format!(
                "it is for {os}/{arch}, this node is linux/{}",
                import::architecture()
            ));
        }
        let diff_ids = configuration.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            return refuse(format!(
                "it has {} layers and {} diff ids",
                manifest.layers().len(),
                diff_ids.len()
            ));
        }
        for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
            self.unpack(layer.digest().as_ref(), diff_id)?;
        }
        if reference.digest.as_ref().is_some_and(|wanted| wanted != digest) {
            return refuse(format!("it cannot be called {reference}"));
        }
        let path = self.ref_path(reference);
        let temporary = self.temporary("ref");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(digest.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(self.root.join("refs"))?.sync_all()
        };
        write().map_err(at("write", &path))?;
        self.load(reference, digest)
    }

    /// A path nobody uses yet, for files that are moved once they are complete.
    pub(super) fn temporary(&self, kind: &str) -> PathBuf {
        self.root.join("tmp").join(format!("{kind}-{}", uuid::Uuid::new_v4()))
    }

    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.root
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:"))
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let open = || -> io::Result<File> {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(at("lock", &path))
    }

    /// Deletes what an interrupted import left. With the lock held: what is there belongs to nobody.
    fn clear_temporary(&self) -> Result<(), ImageError> {
        let path = self.root.join("tmp");
        fs::remove_dir_all(&path)
            .and_then(|()| fs::create_dir(&path))
            .map_err(at("empty", &path))
    }

    fn ref_path(&self, reference: &Reference) -> PathBuf {
        self.root.join("refs").join(reference.to_string().replace('/', "%2F"))
    }

    fn read_ref(&self, reference: &Reference) -> Result<Option<String>, ImageError> {
        let path = self.ref_path(reference);
        match fs::read_to_string(&path) {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ImageError::File {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// Every reference with the digest of its manifest.
    pub(super) fn refs(&self) -> Result<Vec<(Reference, String)>, ImageError> {
        let path = self.root.join("refs");
        let mut refs = Vec::new();
        for entry in fs::read_dir(&path).map_err(at("read", &path))? {
            let name = entry
                .map_err(at("read", &path))?
                .file_name()
                .to_string_lossy()
                .replace("%2F", "/");
            let reference: Reference = name.parse()?;
            // Gone since the directory was read.
            let Some(digest) = self.read_ref(&reference)? else {
                continue;
            };
            refs.push((reference, digest));
        }
        refs.sort();
        Ok(refs)
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<ImageManifest, ImageError> {
        let path = self.blob(digest);
        let file = File::open(&path).map_err(at("read", &path))?;
        let kind = "image manifest";
        ImageManifest::from_reader(file).map_err(|source| ImageError::Parse {
            digest: digest.to_owned(),
            kind,
            source,
        })
    }

    pub(super) fn configuration(&self, manifest: &ImageManifest) -> Result<ImageConfiguration, ImageError> {
        let digest = manifest.config().digest().to_string();
        let path = self.blob(&digest);
        let file = File::open(&path).map_err(at("read", &path))?;
        let kind = "image configuration";
        ImageConfiguration::from_reader(file).map_err(|source| ImageError::Parse { digest, kind, source })
    }

    fn load(&self, reference: &Reference, digest: &str) -> Result<Image, ImageError> {
        let manifest = self.manifest(digest)?;
        let configuration = self.configuration(&manifest)?;
        Ok(Image {
            reference: reference.to_string(),
            id: manifest.config().digest().to_string(),
            digest: digest.to_owned(),
            config: ImageConfig::from(&configuration),
            rootfs: Rootfs {
                base: self.root.join("layers"),
                layers: lower_directories(configuration.rootfs().diff_ids()),
            },
        })
    }

    /// Unpacks a layer unless it is there.
    fn unpack(&self, digest: &str, diff_id: &str) -> Result<(), ImageError> {
        let layer = self.root.join("layers").join(layer_name(diff_id));
        match fs::read_to_string(layer.join("diff-id")) {
            Ok(present) if present == diff_id => return Ok(()),
            Ok(found) => {
                return Err(ImageError::Digest {
                    digest: diff_id.to_owned(),
                    found,
                });
            }
            Err(_) => {}
        }
        let blob = self.blob(digest);
        let file = File::open(&blob).map_err(at("read", &blob))?;
        let temporary = self.temporary("layer");
        let tree = temporary.join("fs");
        fs::create_dir_all(&tree).map_err(at("make", &tree))?;
        let fail = |source| ImageError::Unpack {
            digest: diff_id.to_owned(),
            source,
        };
        let mut hasher = Hashing::new(unpack::decompress(file).map_err(fail)?);
        unpack::unpack(&mut hasher, &tree).map_err(fail)?;
        // Padding behind the archive's end is part of the layer's digest.
        io::copy(&mut hasher, &mut io::sink()).map_err(at("read", &blob))?;
        let found = hasher.digest();
        if found != diff_id {
            return Err(ImageError::Digest {
                digest: diff_id.to_owned(),
                found,
            });
        }
        let finish = || -> io::Result<()> {
            fs::write(temporary.join("diff-id"), diff_id)?;
            // All of a layer is on disk before it can be found.
            nix::unistd::syncfs(File::open(&temporary)?)?;
            fs::rename(&temporary, &layer)
        };
        finish().map_err(at("write", &layer))
    }
}

pub(super) fn layer_name(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").chars().take(LAYER_NAME).collect()
}

/// Lower directories, uppermost first. overlayfs refuses to stack one directory twice; of equal layers the uppermost counts, since
/// it has the last word on everything in it.
fn lower_directories(diff_ids: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = diff_ids.iter().rev().map(|id| format!("{}/fs", layer_name(id)));
    let layers: Vec<_> = names.filter(|name| seen.insert(name.clone())).collect();
    if layers.is_empty() {
        vec![EMPTY.to_owned()]
    } else {
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_layers_are_stacked_once() {
        let id = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let got = lower_directories(&[id("a"), id("b"), id("a")]);
        assert_eq!(
            got,
            [format!("{}/fs", "a".repeat(24)), format!("{}/fs", "b".repeat(24))]
        );
        assert_eq!(lower_directories(&[]), ["empty/fs"]);
    }

    #[test]
    fn damaged_blobs_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let mut hashing = Hashing::new(&b"right"[..]);
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        let digest = hashing.digest();
        assert!(matches!(
            store.put_blob(&digest, None, &b"wrong"[..]),
            Err(ImageError::Digest { .. })
        ));
        assert!(matches!(
            store.put_blob(&digest, Some(4), &b"right"[..]),
            Err(ImageError::Size { found: 5, .. })
        ));
        assert!(!store.blob(&digest).exists());
        store.put_blob(&digest, Some(5), &b"right"[..]).unwrap();
        assert_eq!(fs::read(store.blob(&digest)).unwrap(), b"right");
    }

    #[test]
    fn absent_images_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let error = store.resolve("nothing:1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "image \"nothing:1\" is not in this node's image store"
        );
    }
}
