//! A node of the test's own: state directory, cgroups, images. Dropping it removes every trace, whatever the test did.

use std::{
    fs,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use causeway_agent::{
    cgroup::{Resources, layout::Layout, tree::Cgroups},
    image::{Image, ImageStore},
    runtime::{ContainerSpec, ContainerState, Runtime, RuntimeConfig, Sandbox, SandboxId, SandboxSpec, SandboxState},
};
use sha2::{Digest, Sha256};

/// Bound of every wait: far beyond what anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `probe` answers something.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Node {
    pub dir: tempfile::TempDir,
    pub parent: String,
    pub runtime: Runtime,
    pub image: Image,
}

impl Node {
    /// A node with the busybox image.
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid has no preconditions.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests need root");
        let dir = tempfile::Builder::new().prefix("causeway-test-").tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("causeway/test-{}-{number}/node-1", std::process::id());
        let state_dir = dir.path().join("state");
        fs::create_dir(&state_dir).unwrap();
        let layout = dir.path().join("layout");
        write_layout(
            &layout,
            "busybox:test",
            &[busybox_layer()],
            &serde_json::json!({ "Env": ["FROM_IMAGE=yes"] }),
        );
        let image = ImageStore::open(&state_dir)
            .unwrap()
            .import(&layout, None)
            .unwrap()
            .remove(0);
        let runtime = Runtime::new(config(&state_dir, &parent)).await.unwrap();
        Self {
            dir,
            parent,
            runtime,
            image,
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn cgroups(&self) -> Cgroups {
        Cgroups::new(Layout::detect().unwrap(), &self.parent)
    }

    /// What an agent does that was killed and started again.
    pub async fn restart_agent(&mut self) {
        self.runtime = Runtime::new(config(&self.state_dir(), &self.parent)).await.unwrap();
    }

    pub async fn sandbox(&self, uid: &str) -> Sandbox {
        self.runtime.create_sandbox(sandbox_spec(uid)).await.unwrap()
    }

    /// A container that runs a shell script.
    pub fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        self.container(name, &["/bin/sh", "-c", script])
    }

    pub fn container(&self, name: &str, argv: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: name.to_owned(),
            image: "busybox:test".to_owned(),
            image_id: self.image.id.clone(),
            rootfs: self.image.rootfs.clone(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: self.image.config.env.clone(),
            ..ContainerSpec::default()
        }
    }

    pub async fn state(&self, id: &SandboxId, name: &str) -> ContainerState {
        self.runtime
            .sandbox(id)
            .await
            .unwrap()
            .unwrap()
            .latest(name)
            .unwrap()
            .clone()
    }

    /// Waits until the latest attempt of a container has ended.
    pub async fn ended(&self, id: &SandboxId, name: &str) -> ContainerState {
        let what = format!("the end of container {name}");
        wait_for(&what, || async {
            Some(self.state(id, name).await).filter(|state| state.exit().is_some())
        })
        .await
    }

    /// Starts a container that runs a shell script.
    pub async fn start(&self, id: &SandboxId, name: &str, script: &str) -> ContainerState {
        self.runtime
            .start_container(id, self.shell(name, script))
            .await
            .unwrap()
    }

    /// Waits until nobody holds a sandbox any more.
    pub async fn holder_ended(&self, id: &SandboxId) -> SandboxState {
        wait_for("the holder's end", || async {
            Some(self.runtime.sandbox(id).await.unwrap().unwrap()).filter(|state| state.holder.is_none())
        })
        .await
    }

    /// Runs a container to its end; answers its state and its output without the stamps.
    pub async fn run(&self, id: &SandboxId, spec: ContainerSpec) -> (ContainerState, String) {
        let (name, attempt) = (spec.name.clone(), spec.attempt);
        self.runtime.start_container(id, spec).await.unwrap();
        let state = self.ended(id, &name).await;
        (state, self.output(id, &name, attempt))
    }

    /// Lines of a container's log, without stamp, stream and tag.
    pub fn output(&self, id: &SandboxId, name: &str, attempt: u32) -> String {
        let log = fs::read_to_string(self.runtime.log_path(id, name, attempt)).unwrap();
        // While it is being written, the last record may be there in part.
        let whole = log.rfind('\n').map_or("", |end| &log[..=end]);
        whole
            .lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n")
            .collect()
    }

    /// Waits until a container has written `line`.
    pub async fn wait_output(&self, id: &SandboxId, name: &str, line: &str) {
        let written = || async {
            self.output(id, name, 0)
                .lines()
                .any(|other| other == line)
                .then_some(())
        };
        wait_for(&format!("\"{line}\" from container {name}"), written).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let cgroups = self.cgroups();
        for uid in cgroups.pods() {
            drop(cgroups.kill_pod(&uid));
            drop(cgroups.remove_pod(&uid));
        }
        cgroups.remove_node();
    }
}

pub fn config(state_dir: &Path, parent: &str) -> RuntimeConfig {
    RuntimeConfig {
        state_dir: state_dir.to_owned(),
        cgroup_parent: parent.to_owned(),
        holder_exe: PathBuf::from(env!("CARGO_BIN_EXE_causeway-agent")),
        log_max_bytes: 64 << 10,
        log_max_files: 3,
    }
}

pub fn sandbox_spec(uid: &str) -> SandboxSpec {
    SandboxSpec {
        uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: uid.to_owned(),
        hostname: format!("host-{uid}"),
        addresses: vec!["10.1.2.3".parse().unwrap()],
        host_network: false,
        resolv_conf: "nameserver 10.96.0.10\n".to_owned(),
        resources: Resources::default(),
    }
}

pub fn namespace(pid: u32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn pid(state: &ContainerState) -> u32 {
    match state.phase {
        causeway_agent::runtime::ContainerPhase::Running { pid, .. } => pid,
        ref other => panic!("not running: {other:?}"),
    }
}

/// An entry of a layer: path, mode, contents (or a link's target, with mode 0).
pub type Entry<'a> = (&'a str, u32, &'a [u8]);

pub fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if *mode == 0 {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            builder
                .append_link(&mut header, path, std::str::from_utf8(content).unwrap())
                .unwrap();
        } else {
            let kind = if path.ends_with('/') {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            };
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            builder.append_data(&mut header, path, *content).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// busybox with what tests call of it, and two users.
pub fn busybox_layer() -> Vec<u8> {
    const APPLETS: [&str; 25] = [
        "awk", "cat", "dd", "df", "echo", "false", "grep", "hostname", "id", "ls", "mkdir", "mknod", "mount", "ps",
        "pwd", "readlink", "rm", "seq", "sh", "sleep", "touch", "true", "unshare", "wc", "yes",
    ];
    let busybox = fs::read("/bin/busybox").expect("these tests need /bin/busybox (Debian: busybox-static)");
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n";
    let group = b"root:x:0:\nweb:x:1001:\nlogs:x:1002:web\n";
    let links: Vec<_> = APPLETS.iter().map(|applet| format!("bin/{applet}")).collect();
    let mut entries: Vec<Entry<'_>> = vec![
        ("bin/", 0o755, b""),
        ("etc/", 0o755, b""),
        ("tmp/", 0o1777, b""),
        ("home/web/", 0o755, b""),
        ("bin/busybox", 0o755, &busybox),
        ("etc/passwd", 0o644, passwd),
        ("etc/group", 0o644, group),
        ("data/kept", 0o644, b"kept\n"),
        ("data/deleted", 0o644, b"deleted\n"),
        ("opaque/old", 0o644, b"old\n"),
    ];
    entries.extend(links.iter().map(|link| (link.as_str(), 0, &b"busybox"[..])));
    layer(&entries)
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: Vec<_> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Writes an OCI layout with one image: gzipped layers, lowest first. Answers the manifest's digest.
pub fn write_layout(dir: &Path, name: &str, layers: &[Vec<u8>], config: &serde_json::Value) -> String {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        fs::write(
            dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:")),
            bytes,
        )
        .unwrap();
        (digest, bytes.len())
    };
    let describe = |kind: &str, (digest, size): (String, usize)| serde_json::json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size });
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let configuration = serde_json::json!({
        "architecture": arch, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| describe("layer.v1.tar+gzip", put(&gzip(layer))))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("config.v1+json", put(configuration.to_string().as_bytes())),
        "layers": layers,
    });
    let (digest, size) = put(manifest.to_string().as_bytes());
    let mut descriptor = describe("manifest.v1+json", (digest.clone(), size));
    descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": name });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    digest
}
