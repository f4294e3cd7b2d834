//! Making sandboxes: what is written before the holder starts, and starting it. Blocking, but for the start.

use std::{
    fmt::Write,
    fs, io,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime},
};

use tokio::{io::AsyncReadExt, process::Command};

use super::{
    RuntimeConfig, RuntimeError,
    files::{self, Durability, PodDir, at},
    holder::{
        self,
        protocol::{Greeting, HolderConfig},
    },
    spec::{SandboxId, SandboxSpec},
    state::{ContainerPhase, ContainerState, Exit, ExitReason},
};
use crate::cgroup::{Resources, tree::Cgroups};

/// Name of the holder's own cgroup; no container can be called so.
const HOLDER_GROUP: &str = "_holder";

/// How long a holder may take to serve.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Longest host name the kernel takes, in bytes.
const MAX_HOSTNAME: usize = 64;

/// Refuses what could not be made.
pub(super) fn validate(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let refuse = |problem: String| Err(RuntimeError::Invalid { id: spec.id(), problem });
    if !files::safe_name(&spec.uid) {
        return refuse("its uid cannot be a file name".to_owned());
    }
    if spec.hostname.is_empty() || spec.hostname.len() > MAX_HOSTNAME || spec.hostname.contains(char::is_whitespace) {
        return refuse(format!(
            "\"{}\" is not a host name of 1 to {MAX_HOSTNAME} bytes",
            spec.hostname
        ));
    }
    Ok(())
}

/// Writes the sandbox's files. Those that containers see are written in place: they are bind-mounted.
pub(super) fn write_files(dir: &PodDir, spec: &SandboxSpec) -> Result<(), RuntimeError> {
    for path in [dir.etc(), dir.shm(), dir.containers()] {
        fs::create_dir_all(&path).map_err(at("make", &path))?;
    }
    files::write_json(&dir.spec(), spec, Durability::Disk).map_err(at("write", &dir.spec()))?;
    let contents = [
        ("hostname", format!("{}\n", spec.hostname)),
        ("hosts", hosts(spec)),
        ("resolv.conf", spec.resolv_conf.clone()),
    ];
    for (name, text) in contents {
        let path = dir.etc().join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&path, text).map_err(at("write", &path))?;
    }
    Ok(())
}

/// In the node's network the host name is the node's, and so are the addresses.
fn hosts(spec: &SandboxSpec) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in &spec.addresses {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{address}\t{}", spec.hostname);
    }
    text
}

/// Makes the cgroups and writes the configuration of a new holder, after clearing what an earlier one left.
pub(super) fn prepare(
    config: &RuntimeConfig,
    cgroups: &Cgroups,
    dir: &PodDir,
    spec: &SandboxSpec,
) -> Result<(), RuntimeError> {
    let id = spec.id();
    let cgroup = |source| RuntimeError::Cgroup {
        id: id.clone(),
        source: Box::new(source),
    };
    cgroups.kill_pod(&spec.uid).map_err(cgroup)?;
    settle_lost(dir)?;
    cgroups.create_pod(&spec.uid, &spec.resources).map_err(cgroup)?;
    let leaf = cgroups
        .create_leaf(&spec.uid, HOLDER_GROUP, &Resources::default())
        .map_err(cgroup)?;
    let holder = HolderConfig {
        spec: spec.clone(),
        procs: leaf.procs,
        log_max_bytes: config.log_max_bytes,
        log_max_files: config.log_max_files,
    };
    files::write_json(&dir.holder_config(), &holder, Durability::Boot).map_err(at("write", &dir.holder_config()))
}

/// Puts an end on record for every container whose holder died before it could. Answers all records.
pub(super) fn settle_lost(dir: &PodDir) -> Result<Vec<ContainerState>, RuntimeError> {
    let mut states = dir.records();
    for state in states.iter_mut().filter(|state| state.exit().is_none()) {
        let path = dir.attempt(&state.name, state.attempt).state();
        let now = SystemTime::now();
        let started_at = match state.phase {
            ContainerPhase::Running { started_at, .. } => started_at,
            _ => fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .unwrap_or(now),
        };
        state.phase = ContainerPhase::Exited(Exit {
            exit_code: 137,
            signal: libc::SIGKILL,
            reason: ExitReason::ContainerStatusUnknown,
            message: "the pod's holder process ended before the container".to_owned(),
            started_at,
            finished_at: now,
        });
        files::write_json(&path, state, Durability::Disk).map_err(at("write", &path))?;
    }
    Ok(states)
}

/// Starts a holder and waits until it serves. Answers its process id.
pub(super) async fn start_holder(exe: &Path, id: &SandboxId, dir: &PodDir) -> Result<u32, RuntimeError> {
    let fail = |problem: String| RuntimeError::Holder {
        id: id.clone(),
        problem,
    };
    let mut child = Command::new(exe)
        .arg0(holder::ARGV0)
        .arg(&dir.0)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| fail(format!("cannot execute {}: {error}", exe.display())))?;
    let mut text = Vec::new();
    let listen = async {
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut text).await?;
        }
        // The process we started only forks; the holder is its grandchild.
        child.wait().await
    };
    let status: io::Result<_> = tokio::time::timeout(START_PATIENCE, listen)
        .await
        .map_err(|_| fail(format!("no answer within {} s", START_PATIENCE.as_secs())))?;
    status.map_err(|error| fail(format!("cannot hear it: {error}")))?;
    match serde_json::from_slice(&text) {
        Ok(Greeting::Ready(pid)) => Ok(pid),
        Ok(Greeting::Failed(problem)) => Err(fail(problem)),
        Err(_) => Err(fail(format!("it said \"{}\"", String::from_utf8_lossy(&text).trim()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            uid: "u-1".into(),
            hostname: "web-1".into(),
            ..SandboxSpec::default()
        }
    }

    #[test]
    fn impossible_sandboxes_are_refused() {
        assert!(validate(&spec()).is_ok());
        let error = validate(&SandboxSpec {
            uid: "../x".into(),
            ..spec()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "sandbox ../x: its uid cannot be a file name");
        for hostname in [String::new(), "x".repeat(65), "a b".to_owned()] {
            assert!(validate(&SandboxSpec { hostname, ..spec() }).is_err());
        }
    }

    #[test]
    fn hosts_name_the_pod() {
        let addresses = vec!["10.244.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let text = hosts(&SandboxSpec { addresses, ..spec() });
        assert!(text.ends_with("10.244.0.7\tweb-1\nfd00::7\tweb-1\n") && text.starts_with("127.0.0.1\tlocalhost\n"));
    }

    #[test]
    fn files_that_are_bind_mounted_keep_their_inode() {
        use std::os::unix::fs::MetadataExt;

        let temporary = tempfile::tempdir().unwrap();
        let dir = PodDir(temporary.path().to_owned());
        write_files(&dir, &spec()).unwrap();
        let inode = || fs::metadata(dir.etc().join("hosts")).unwrap().ino();
        let before = inode();
        write_files(
            &dir,
            &SandboxSpec {
                addresses: vec!["10.0.0.9".parse().unwrap()],
                ..spec()
            },
        )
        .unwrap();
        assert_eq!(inode(), before);
        assert!(
            fs::read_to_string(dir.etc().join("hosts"))
                .unwrap()
                .contains("10.0.0.9")
        );
    }

    #[test]
    fn a_dead_holders_containers_are_lost_once() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = PodDir(temporary.path().to_owned());
        let attempt = dir.attempt("web", 3);
        fs::create_dir_all(&attempt.0).unwrap();
        let phase = ContainerPhase::Running {
            pid: 1,
            started_at: SystemTime::UNIX_EPOCH,
        };
        let state = ContainerState {
            name: "web".into(),
            attempt: 3,
            image: String::new(),
            image_id: String::new(),
            phase,
        };
        files::write_json(&attempt.state(), &state, Durability::Boot).unwrap();
        let first = settle_lost(&dir).unwrap();
        assert_eq!(
            first[0].exit().map(|exit| exit.reason),
            Some(ExitReason::ContainerStatusUnknown)
        );
        assert_eq!(settle_lost(&dir).unwrap(), first);
    }
}
