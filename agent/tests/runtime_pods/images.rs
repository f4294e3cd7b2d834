//! Images from import to the file system a container sees.

use std::{fs, path::Path, process::Command};

use causeway_agent::image::{ImageError, ImageStore};

use crate::support::{Node, busybox_layer, digest, layer, write_layout};

fn store(dir: &Path) -> ImageStore {
    ImageStore::open(dir).unwrap()
}

#[tokio::test]
async fn upper_layers_change_and_hide_lower_ones() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let layout = node.dir.path().join("layered");
    let upper = layer(&[
        ("data/.wh.deleted", 0o644, b""),
        ("data/added", 0o644, b"added\n"),
        ("opaque/.wh..wh..opq", 0o644, b""),
        ("opaque/new", 0o644, b"new\n"),
    ]);
    // One layer twice: overlayfs alone would refuse that.
    write_layout(
        &layout,
        "layered",
        &[upper.clone(), busybox_layer(), upper],
        &serde_json::json!({}),
    );
    let store = store(&node.state_dir());
    let image = store.import(&layout, Some("layered:1")).unwrap().remove(0);
    let mut spec = node.shell(
        "main",
        "ls /data /opaque; echo mine > /data/kept; rm -f /data/added 2>/dev/null; cat /data/kept",
    );
    spec.rootfs = image.rootfs.clone();
    let (_, output) = node.run(&id, spec.clone()).await;
    assert!(output.starts_with("/data:\nadded\nkept\n\n/opaque:\nnew\n"), "{output}");
    assert!(output.ends_with("mine\n"));
    // What one container wrote, the next does not see.
    spec.name = "other".to_owned();
    spec.argv = vec!["cat".to_owned(), "/data/kept".to_owned()];
    assert_eq!(node.run(&id, spec).await.1, "kept\n");
}

#[test]
fn an_imported_image_is_found_by_every_name_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let config = serde_json::json!({
        "Entrypoint": ["/bin/serve"], "Cmd": ["--port", "80"], "Env": ["A=b=c", "PATH=/bin"], "User": "web", "WorkingDir": "/srv",
        "ExposedPorts": { "80/tcp": {} }, "StopSignal": "SIGINT",
    });
    let manifest = write_layout(&layout, "demo:1", &[layer(&[("f", 0o644, b"x")])], &config);
    let store = store(dir.path());
    let imported = store.import(&layout, None).unwrap();
    assert_eq!(imported.len(), 1);
    let image = store.resolve("docker.io/library/demo:1").unwrap();
    assert_eq!((&image, image.digest.as_str()), (&imported[0], manifest.as_str()));
    assert_eq!(image.config.argv(&[], &[]), ["/bin/serve", "--port", "80"]);
    assert_eq!(
        (image.config.user.as_str(), image.config.working_dir.as_str()),
        ("web", "/srv")
    );
    assert_eq!(
        image.config.env,
        [("A", "b=c"), ("PATH", "/bin")].map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
    assert_eq!(store.resolve(&format!("demo@{manifest}")).unwrap().id, image.id);
    assert!(matches!(store.resolve("demo"), Err(ImageError::NotFound(name)) if name == "demo"));
    let other = format!("demo@{}", digest(b"other"));
    assert!(matches!(store.resolve(&other), Err(ImageError::NotFound(_))));
    // Again, under another name; nothing is unpacked twice.
    store.import(&layout, Some("demo")).unwrap();
    let names: Vec<_> = store.list().unwrap().into_iter().map(|image| image.reference).collect();
    assert_eq!(names, ["docker.io/library/demo:1", "docker.io/library/demo:latest"]);
}

#[test]
fn removal_keeps_what_others_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let shared = layer(&[("shared", 0o644, b"x")]);
    for (name, own) in [("a:1", "a"), ("b:1", "b")] {
        let layout = dir.path().join(own);
        write_layout(
            &layout,
            name,
            &[shared.clone(), layer(&[(own, 0o644, b"x")])],
            &serde_json::json!({}),
        );
        store.import(&layout, None).unwrap();
    }
    let layers = || fs::read_dir(dir.path().join("images/layers")).unwrap().count();
    // Three, and the one of images without layers.
    assert_eq!(layers(), 4);
    // A container runs from b's layers.
    let rootfs = store.resolve("b:1").unwrap().rootfs;
    let attempt = dir.path().join("pods/p1/containers/main/0");
    fs::create_dir_all(&attempt).unwrap();
    fs::write(
        attempt.join("spec.json"),
        serde_json::json!({ "rootfs": rootfs }).to_string(),
    )
    .unwrap();
    store.remove("b:1").unwrap();
    assert_eq!(layers(), 4);
    store.remove("a:1").unwrap();
    assert_eq!(layers(), 3);
    fs::remove_dir_all(dir.path().join("pods")).unwrap();
    let layout = dir.path().join("a");
    store.import(&layout, None).unwrap();
    store.remove("a:1").unwrap();
    assert_eq!(
        (
            layers(),
            fs::read_dir(dir.path().join("images/blobs/sha256")).unwrap().count()
        ),
        (1, 0)
    );
    assert!(matches!(store.remove("a:1"), Err(ImageError::NotFound(_))));
}

#[test]
fn damaged_layouts_are_refused_and_leave_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let layout = dir.path().join("layout");
    let manifest = write_layout(&layout, "x:1", &[layer(&[("f", 0o644, b"x")])], &serde_json::json!({}));
    let blobs = layout.join("blobs/sha256");
    for entry in fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        for damage in [Some(bad), Some(good[..good.len() - 1].to_vec()), None] {
            match damage {
                Some(damage) => fs::write(&path, damage).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let error = store.import(&layout, None).unwrap_err();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(error.to_string().contains(name), "{error}");
            assert!(store.list().unwrap().is_empty());
            fs::write(&path, &good).unwrap();
        }
        // Start the next round with nothing stored, or a blob that was stored whole would not be read again.
        fs::remove_dir_all(dir.path().join("images")).unwrap();
        ImageStore::open(dir.path()).unwrap();
    }
    assert_eq!(store.import(&layout, None).unwrap()[0].digest, manifest);
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(&layout, "x:1", &[layer(&[("f", 0o644, b"x")])], &serde_json::json!({}));
    // The configuration tells of another layer; every digest is made right again.
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let old = digest(&layer(&[("f", 0o644, b"x")]));
    let new = digest(b"another");
    let mut replaced = index;
    let mut rename = (old, new);
    for _ in 0..3 {
        let mut next = None;
        for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if text.contains(&rename.0) {
                let text = text.replace(&rename.0, &rename.1);
                fs::remove_file(&path).unwrap();
                let name = digest(text.as_bytes());
                fs::write(path.with_file_name(name.trim_start_matches("sha256:")), &text).unwrap();
                next = Some((format!("sha256:{}", path.file_name().unwrap().to_str().unwrap()), name));
            }
        }
        match next {
            Some(next) => rename = next,
            None => replaced = replaced.replace(&rename.0, &rename.1),
        }
    }
    fs::write(layout.join("index.json"), replaced).unwrap();
    let error = store(dir.path()).import(&layout, None).unwrap_err();
    assert!(
        matches!(error, ImageError::Digest { ref digest, .. } if *digest == crate::support::digest(b"another")),
        "{error:?}"
    );
    assert!(store(dir.path()).list().unwrap().is_empty());
}

#[test]
fn archives_are_imported_like_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let manifest = write_layout(&layout, "x:1", &[layer(&[("f", 0o644, b"x")])], &serde_json::json!({}));
    let archive = dir.path().join("image.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();
    let store = store(dir.path());
    assert_eq!(store.import(&archive, None).unwrap()[0].digest, manifest);
    assert_eq!(
        fs::read_dir(dir.path().join("images/tmp")).unwrap().count(),
        0,
        "left in tmp"
    );
    fs::write(&archive, "no archive at all").unwrap();
    let error = store.import(&archive, None).unwrap_err().to_string();
    assert!(error.contains("image.tar is not an image"), "{error}");
}

#[test]
fn docker_archives_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = layer(&[("f", 0o644, b"x")]);
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": { "Cmd": ["/f"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&bytes)] },
    })
    .to_string();
    let manifest =
        serde_json::json!([{ "Config": "c.json", "RepoTags": ["old:1", "old:2"], "Layers": ["l/layer.tar"] }]);
    let manifest = manifest.to_string();
    let archive = layer(&[
        ("c.json", 0o644, config.as_bytes()),
        ("l/layer.tar", 0o644, &bytes),
        ("manifest.json", 0o644, manifest.as_bytes()),
    ]);
    let path = dir.path().join("saved.tar");
    fs::write(&path, archive).unwrap();
    let store = store(dir.path());
    assert_eq!(store.import(&path, None).unwrap().len(), 2);
    let image = store.resolve("old:2").unwrap();
    assert_eq!(
        (image.id, image.config.cmd),
        (digest(config.as_bytes()), vec!["/f".to_owned()])
    );
}

#[test]
fn other_machines_and_nameless_images_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    write_layout(
        &layout,
        "latest",
        &[layer(&[("f", 0o644, b"x")])],
        &serde_json::json!({}),
    );
    let store = store(dir.path());
    let error = store.import(&layout, None).unwrap_err().to_string();
    assert!(error.ends_with("has no name; give it one with --ref"), "{error}");
    let error = store.import(&layout, Some("Not A Name")).unwrap_err().to_string();
    assert!(error.starts_with("\"Not A Name\" is not an image reference"), "{error}");
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["manifests"][0]["platform"] = serde_json::json!({ "os": "linux", "architecture": "s390x" });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let error = store.import(&layout, Some("x")).unwrap_err().to_string();
    assert!(error.contains("it holds nothing for linux/"), "{error}");
    let error = store.import(&dir.path().join("absent"), None).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read ") && error.ends_with("/absent"),
        "{error}"
    );
}

#[test]
fn what_an_interrupted_import_left_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    fs::create_dir_all(dir.path().join("images/tmp/layer-1/fs/half")).unwrap();
    let layout = dir.path().join("layout");
    write_layout(&layout, "x:1", &[layer(&[("f", 0o644, b"x")])], &serde_json::json!({}));
    store.import(&layout, None).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("images/tmp")).unwrap().count(), 0);
}

#[test]
fn the_command_line_imports_lists_and_removes() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let manifest = write_layout(
        &layout,
        "latest",
        &[layer(&[("f", 0o644, b"x")])],
        &serde_json::json!({}),
    );
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-agent"));
        let output = command.arg("image").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let state = dir.path().join("state");
    let (state, layout) = (state.to_str().unwrap(), layout.to_str().unwrap());
    let imported = agent(&["import", "--state-dir", state, "--ref", "demo", layout]);
    assert_eq!(
        imported,
        (
            true,
            format!("docker.io/library/demo:latest {manifest}\n"),
            String::new()
        )
    );
    let (_, list, _) = agent(&["list", "--state-dir", state]);
    assert!(
        list.starts_with("REFERENCE") && list.contains(&format!("docker.io/library/demo:latest  {manifest}")),
        "{list}"
    );
    assert!(agent(&["remove", "--state-dir", state, "demo"]).0);
    let (success, _, error) = agent(&["remove", "--state-dir", state, "demo"]);
    assert!(
        !success && error.contains("image \"demo\" is not in this node's image store"),
        "{error}"
    );
}
