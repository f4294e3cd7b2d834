//! Packs the demo program into an OCI image archive (OCI image-spec 1.1: image layout, one uncompressed layer).

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{compile, root};

/// Name under which the nodes know the image.
pub const REFERENCE: &str = "causeway-demo:dev";

/// A built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The archive.
    pub path: PathBuf,
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
}

struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hash = Sha256::digest(&bytes);
        let mut digest = "sha256:".to_owned();
        for byte in hash {
            let _ = write!(digest, "{byte:02x}");
        }
        Self { digest, bytes }
    }

    fn of_json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

/// Writes the image of `demo` to `target/images/causeway-demo.tar`. The same program makes the same bytes.
pub fn build(demo: &Path) -> Result<Image> {
    let program = fs::read(demo).with_context(|| format!("cannot read {}", demo.display()))?;
    let (archive, digest) = pack(&program).context("cannot pack the demo image")?;
    let directory = compile::target_dir().join("images");
    root::create_dir(&directory)?;
    let path = directory.join("causeway-demo.tar");
    if !fs::read(&path).is_ok_and(|old| old == archive) {
        fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
        root::give_to_invoker(&path)?;
    }
    Ok(Image { path, digest })
}

fn pack(program: &[u8]) -> Result<(Vec<u8>, String)> {
    let layer = Blob::new(layer(program)?);
    let config = Blob::of_json(&json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "config": {
            "User": "65534:65534",
            "ExposedPorts": {"8080/tcp": {}, "8080/udp": {}},
            "Env": ["PATH=/"],
            "Entrypoint": ["/causeway-demo"],
            "Cmd": ["serve"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created_by": "cargo xtask build"}],
    }));
    let manifest = Blob::of_json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }));
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": REFERENCE});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });

    let mut archive = Builder::new(Vec::new());
    add_file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add_file(&mut archive, "index.json", index.to_string().as_bytes(), 0o644)?;
    for blob in [&config, &manifest, &layer] {
        add_file(&mut archive, &blob.path(), &blob.bytes, 0o644)?;
    }
    Ok((archive.into_inner()?, manifest.digest))
}

/// The root file system: the program, the user database it names, and mount points.
fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (directory, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
    ] {
        let mut header = header(0, mode);
        header.set_entry_type(EntryType::Directory);
        layer.append_data(&mut header, format!("{directory}/"), std::io::empty())?;
    }
    let users = b"root:x:0:0:root:/:\nnobody:x:65534:65534:nobody:/:\n";
    add_file(&mut layer, "etc/passwd", users, 0o644)?;
    add_file(&mut layer, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
    add_file(&mut layer, "causeway-demo", program, 0o755)?;
    Ok(layer.into_inner()?)
}

fn add_file(archive: &mut Builder<impl Write>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    archive
        .append_data(&mut header(content.len() as u64, mode), path, content)
        .with_context(|| path.to_owned())
}

fn header(size_bytes: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        tar::Archive::new(archive)
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().to_string_lossy().into_owned(), content)
            })
            .collect()
    }

    #[test]
    fn every_descriptor_leads_to_bytes_of_its_digest_and_size() {
        let (archive, digest) = pack(b"program").unwrap();
        let files = entries(&archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(Blob::new(bytes.clone()).digest, digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(entries(&blob(&manifest["layers"][0]))["causeway-demo"], b"program");
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        assert_eq!(pack(b"a").unwrap(), pack(b"a").unwrap());
        assert_ne!(pack(b"a").unwrap().1, pack(b"b").unwrap().1);
    }
}
