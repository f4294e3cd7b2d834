//! The image of the tests' containers: busybox.

use std::{fs, path::Path};

use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Writes it as an OCI image layout.
pub(super) fn write_layout(directory: &Path) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let put = |kind: &str, bytes: &[u8]| {
        let hex = digest(bytes);
        fs::write(blobs.join(&hex), bytes).expect("a blob");
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let layer = layer();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", config.to_string().as_bytes()),
        "layers": [put("layer.v1.tar", &layer)],
    });
    let manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("index.json"), index.to_string()).expect("an index");
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout");
}

fn digest(bytes: &[u8]) -> String {
    let hex: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.concat()
}

/// busybox and the names tests call it by.
fn layer() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").expect("these tests need /bin/busybox (Debian: busybox-static)");
    let header = |kind: tar::EntryType, size: usize| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = header(tar::EntryType::Regular, busybox.len());
    archive
        .append_data(&mut file, "bin/busybox", busybox.as_slice())
        .expect("an entry");
    for applet in [
        "sh", "sleep", "touch", "test", "env", "cat", "rm", "true", "false", "kill",
    ] {
        let mut link = header(tar::EntryType::Symlink, 0);
        archive
            .append_link(&mut link, format!("bin/{applet}"), "busybox")
            .expect("an entry");
    }
    archive.into_inner().expect("an archive")
}
