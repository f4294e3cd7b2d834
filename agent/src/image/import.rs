//! Bringing images in from OCI layouts, OCI archives and docker archives.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek},
    path::{Component, Path, PathBuf},
};

use oci_spec::image::{Descriptor, ImageIndex, MediaType, OciLayout};
use serde::Deserialize;

use super::{
    error::{ImageError, at},
    hashing::Hashing,
    reference::{Reference, is_digest},
    store::{Image, ImageStore},
    unpack,
};

/// Names an image has in an index, best first.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Indexes may hold indexes; nobody nests them deeper than this.
const MAX_DEPTH: usize = 4;

/// This machine's architecture as images call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Imports every image at `path`. With the store's lock held.
pub(super) fn import(store: &ImageStore, path: &Path, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
    let metadata = fs::metadata(path).map_err(at("read", path))?;
    let dir = if metadata.is_dir() {
        path.to_owned()
    } else {
        extract(store, path)?
    };
    let source = Source { path, dir };
    let found = if source.dir.join("index.json").exists() {
        source.oci(store)?
    } else if source.dir.join("manifest.json").exists() {
        source.docker(store)?
    } else {
        return Err(source.refuse("it has neither an index.json nor a manifest.json"));
    };
    let named = source.name(found, name)?;
    let images = named
        .into_iter()
        .map(|(reference, digest)| store.commit(&reference, &digest))
        .collect();
    if source.dir != path {
        fs::remove_dir_all(&source.dir).map_err(at("remove", &source.dir))?;
    }
    images
}

/// A manifest in the store and the names the source has for it.
struct Found {
    digest: String,
    names: Vec<String>,
}

struct Source<'a> {
    /// What the user named.
    path: &'a Path,
    /// Where its files are.
    dir: PathBuf,
}

impl Source<'_> {
    fn refuse(&self, problem: impl Into<String>) -> ImageError {
        ImageError::NotAnImage {
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// Decides what every image is called.
    fn name(&self, found: Vec<Found>, name: Option<&Reference>) -> Result<Vec<(Reference, String)>, ImageError> {
        if let Some(name) = name {
            return match &found[..] {
                [one] => Ok(vec![(name.clone(), one.digest.clone())]),
                [] => Err(self.refuse(format!("it holds nothing for linux/{}", architecture()))),
                several => {
                    let names: Vec<_> = several
                        .iter()
                        .flat_map(|found| &found.names)
                        .map(String::as_str)
                        .collect();
                    Err(self.refuse(format!(
                        "it holds several ({}), which cannot all get one name",
                        names.join(", ")
                    )))
                }
            };
        }
        let mut named = Vec::new();
        for Found { digest, names } in found {
            // A tag alone names nothing.
            let full: Vec<_> = names.iter().filter(|name| name.contains([':', '/'])).collect();
            if full.is_empty() {
                return Err(self.refuse(format!("image {digest} in it has no name; give it one with --ref")));
            }
            for name in full {
                named.push((name.parse()?, digest.clone()));
            }
        }
        if named.is_empty() {
            Err(self.refuse(format!("it holds nothing for linux/{}", architecture())))
        } else {
            Ok(named)
        }
    }

    fn oci(&self, store: &ImageStore) -> Result<Vec<Found>, ImageError> {
        let layout = OciLayout::from_file(self.dir.join("oci-layout"))
            .map_err(|error| self.refuse(format!("its oci-layout file is not valid: {error}")))?;
        if !layout.image_layout_version().starts_with("1.") {
            return Err(self.refuse(format!("its layout has version {}", layout.image_layout_version())));
        }
        let index = ImageIndex::from_file(self.dir.join("index.json"))
            .map_err(|error| self.refuse(format!("its index.json is not valid: {error}")))?;
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for descriptor in index.manifests() {
            let annotations = descriptor.annotations().clone().unwrap_or_default();
            let name = NAME_ANNOTATIONS.iter().find_map(|key| annotations.get(*key));
            for digest in self.manifests(store, descriptor, 0)? {
                let entry = found.entry(digest.clone()).or_insert(Found {
                    digest,
                    names: Vec::new(),
                });
                entry.names.extend(name.cloned());
            }
        }
        Ok(found.into_values().collect())
    }

    /// Brings in the manifests for this machine that a descriptor leads to, with everything they name.
    fn manifests(&self, store: &ImageStore, descriptor: &Descriptor, depth: usize) -> Result<Vec<String>, ImageError> {
        let fits = descriptor.platform().as_ref().is_none_or(|platform| {
            platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture()
        });
        if !fits {
            return Ok(Vec::new());
        }
        let digest = self.copy(store, descriptor)?;
        match descriptor.media_type() {
            MediaType::ImageManifest => {}
            MediaType::Other(kind) if kind == DOCKER_MANIFEST => {}
            MediaType::ImageIndex => return self.nested(store, &digest, depth),
            MediaType::Other(kind) if kind == DOCKER_LIST => return self.nested(store, &digest, depth),
            other => return Err(self.refuse(format!("{digest} in its index is a {other}"))),
        }
        let manifest = store.manifest(&digest)?;
        for part in manifest.layers().iter().chain([manifest.config()]) {
            self.copy(store, part)?;
        }
        Ok(vec![digest])
    }

    fn nested(&self, store: &ImageStore, digest: &str, depth: usize) -> Result<Vec<String>, ImageError> {
        if depth >= MAX_DEPTH {
            return Err(self.refuse("its indexes are nested too deep"));
        }
        let path = store.blob(digest);
        let kind = "image index";
        let index = ImageIndex::from_file(&path).map_err(|source| ImageError::Parse {
            digest: digest.to_owned(),
            kind,
            source,
        })?;
        let nested = index
            .manifests()
            .iter()
            .map(|descriptor| self.manifests(store, descriptor, depth + 1));
        Ok(nested.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Copies a blob into the store. Answers its digest.
    fn copy(&self, store: &ImageStore, descriptor: &Descriptor) -> Result<String, ImageError> {
        let digest = descriptor.digest().to_string();
        if !is_digest(&digest) {
            return Err(self.refuse(format!("{digest} is not a sha256 digest, the only kind supported")));
        }
        let path = self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.refuse(format!("blob {digest} is missing")),
            _ => ImageError::File {
                action: "read",
                path: path.clone(),
                source: error,
            },
        })?;
        store.put_blob(&digest, Some(descriptor.size()), file)?;
        Ok(digest)
    }

    /// `docker save` as it was before it wrote OCI layouts, and what other tools still write.
    fn docker(&self, store: &ImageStore) -> Result<Vec<Found>, ImageError> {
        let text = fs::read(self.dir.join("manifest.json")).map_err(at("read", self.path))?;
        let images: Vec<DockerImage> = serde_json::from_slice(&text)
            .map_err(|error| self.refuse(format!("its manifest.json is not valid: {error}")))?;
        images
            .into_iter()
            .map(|image| {
                let config = self.adopt(store, &image.config)?;
                let layers = image.layers.iter().map(|layer| self.adopt(store, layer)).collect::<Result<Vec<_>, _>>()?;
                let describe = |kind: &str, (digest, size): &(String, u64)| {
                    serde_json::json!({ "mediaType": kind, "digest": digest, "size": size })
                };
                // Equal archives must give equal manifests: no dates, keys in a fixed order.
                let manifest = serde_json::json!({
                    "schemaVersion": 2,
                    "mediaType": MediaType::ImageManifest.to_string(),
                    "config": describe(MediaType::ImageConfig.as_ref(), &config),
                    "layers": layers.iter().map(|layer| describe(MediaType::ImageLayer.as_ref(), layer)).collect::<Vec<_>>(),
                })
                .to_string();
                let mut hashing = Hashing::new(manifest.as_bytes());
                io::copy(&mut hashing, &mut io::sink()).map_err(at("read", self.path))?;
                let digest = hashing.digest();
                store.put_blob(&digest, None, manifest.as_bytes())?;
                Ok(Found { digest, names: image.repo_tags.unwrap_or_default() })
            })
            .collect()
    }

    /// Copies a file of a docker archive into the store, whatever its digest turns out to be: that of a layer is checked
    /// against the configuration when it is unpacked.
    fn adopt(&self, store: &ImageStore, name: &str) -> Result<(String, u64), ImageError> {
        let path = safe_path(Path::new(name)).map(|name| self.dir.join(name));
        let path = path.ok_or_else(|| self.refuse(format!("its manifest.json names \"{name}\"")))?;
        let open = || -> io::Result<(File, String)> {
            let mut file = File::open(&path)?;
            let mut hashing = Hashing::new(&mut file);
            io::copy(&mut hashing, &mut io::sink())?;
            let digest = hashing.digest();
            file.rewind()?;
            Ok((file, digest))
        };
        let (file, digest) = open().map_err(|error| self.refuse(format!("cannot read \"{name}\" in it: {error}")))?;
        let size = file.metadata().map_err(at("read", &path))?.len();
        store.put_blob(&digest, Some(size), file)?;
        Ok((digest, size))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Takes the plain files of an archive out into a temporary directory. Links, which no layout needs, are left.
fn extract(store: &ImageStore, path: &Path) -> Result<PathBuf, ImageError> {
    let refuse = |problem: String| ImageError::NotAnImage {
        path: path.to_owned(),
        problem,
    };
    let file = File::open(path).map_err(at("read", path))?;
    let plain = unpack::decompress(BufReader::new(file)).map_err(|error| refuse(error.to_string()))?;
    let target = store.temporary("archive");
    fs::create_dir_all(&target).map_err(at("make", &target))?;
    let mut archive = tar::Archive::new(plain);
    let broken = |error: io::Error| refuse(format!("neither a directory nor a tar archive ({error})"));
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(broken)?.into_owned();
        let name = safe_path(&name).ok_or_else(|| refuse(format!("it holds \"{}\"", name.display())))?;
        let to = target.join(name);
        let write = |entry: &mut dyn Read| -> io::Result<()> {
            to.parent().map(fs::create_dir_all).transpose()?;
            io::copy(entry, &mut File::create(&to)?).map(drop)
        };
        write(&mut entry).map_err(at("write", &to))?;
    }
    Ok(target)
}

/// `path` without `.`; `None` when it could lead elsewhere.
fn safe_path(path: &Path) -> Option<PathBuf> {
    let mut safe = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => safe.push(part),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    (!safe.as_os_str().is_empty()).then_some(safe)
}
