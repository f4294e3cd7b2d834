//! What a container can see and do.

use std::{collections::BTreeMap, fs};

use causeway_agent::runtime::{ContainerSpec, UserSpec};

use crate::support::{Node, namespace, pid};

/// `/proc/self/status` of a process in the container.
async fn status(node: &Node, spec: impl FnOnce(&mut ContainerSpec)) -> BTreeMap<String, String> {
    let id = node.sandbox("p1").await.id;
    let mut container = node.container("main", &["cat", "/proc/self/status"]);
    container.name = format!(
        "c{}",
        node.runtime.sandbox(&id).await.unwrap().unwrap().containers.len()
    );
    spec(&mut container);
    let (_, output) = node.run(&id, container).await;
    let fields = output.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Runs a script in which every line must print `refused`.
async fn refused(node: &Node, spec: ContainerSpec) {
    let id = node.sandbox("p1").await.id;
    let (state, output) = node.run(&id, spec).await;
    let verdicts: Vec<_> = output
        .lines()
        .filter(|line| *line == "refused" || *line == "ALLOWED")
        .collect();
    assert!(
        !verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == "refused"),
        "{output}"
    );
    assert_eq!(state.exit().unwrap().exit_code, 0, "{output}");
}

fn script(commands: &[&str]) -> String {
    let tries: Vec<_> = commands
        .iter()
        .map(|command| format!("if {command}; then echo ALLOWED; else echo refused; fi"))
        .collect();
    tries.join("\n")
}

#[tokio::test]
async fn pods_and_containers_have_the_namespaces_they_should() {
    let node = Node::new().await;
    let (one, two) = (node.sandbox("p1").await, node.sandbox("p2").await);
    let mut pids = Vec::new();
    for (sandbox, name) in [(&one, "a"), (&one, "b"), (&two, "a")] {
        let state = node.start(&sandbox.id, name, "exec sleep 1000").await;
        pids.push(pid(&state));
    }
    let me = std::process::id();
    for kind in ["net", "ipc", "uts"] {
        let all: Vec<_> = pids.iter().map(|pid| namespace(*pid, kind)).collect();
        assert!(all[0] == all[1] && all[0] != all[2], "{kind}: {all:?}");
        assert_ne!(namespace(me, kind), all[0], "{kind}");
        assert_eq!(namespace(one.holder, kind), all[0], "{kind}");
    }
    for kind in ["pid", "mnt", "cgroup"] {
        let all: Vec<_> = pids.iter().map(|pid| namespace(*pid, kind)).collect();
        assert!(
            all[0] != all[1] && all[1] != all[2] && all[0] != namespace(me, kind),
            "{kind}: {all:?}"
        );
    }
    assert_eq!(fs::read_link(one.netns_path()).unwrap(), namespace(pids[0], "net"));
}

#[tokio::test]
async fn the_program_is_process_1_and_alone() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let script = "echo $$; set -- /proc/[0-9]*; echo $*; readlink /proc/1/cwd; grep '^0:' /proc/self/cgroup";
    let (_, output) = node.run(&id, node.shell("main", script)).await;
    assert_eq!(output, "1\n/proc/1\n/\n0::/\n");
}

#[tokio::test]
async fn signals_have_their_default_effect() {
    let node = Node::new().await;
    let fields = status(&node, |_| {}).await;
    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(fields[mask], "0000000000000000", "{mask}");
    }
}

#[tokio::test]
async fn privileges_are_few_unless_asked_for() {
    let node = Node::new().await;
    let default = status(&node, |_| {}).await;
    assert_eq!(
        (&*default["CapEff"], &*default["CapBnd"], &*default["CapInh"]),
        ("00000000a80425fb", "00000000a80425fb", "0000000000000000")
    );
    assert_eq!(
        (&*default["NoNewPrivs"], &*default["Seccomp"], &*default["Uid"]),
        ("1", "2", "0\t0\t0\t0")
    );

    let user = status(&node, |spec| {
        spec.user = UserSpec {
            run_as_user: Some(1000),
            run_as_group: Some(77),
            ..UserSpec::default()
        };
    });
    let user = user.await;
    assert_eq!(
        (&*user["CapEff"], &*user["CapPrm"]),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(
        (&*user["Uid"], &*user["Gid"]),
        ("1000\t1000\t1000\t1000", "77\t77\t77\t77")
    );

    let narrow = status(&node, |spec| {
        spec.security.drop_capabilities = vec!["ALL".to_owned()];
        spec.security.add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
        spec.security.allow_privilege_escalation = true;
    });
    let narrow = narrow.await;
    assert_eq!(
        (&*narrow["CapEff"], &*narrow["CapBnd"]),
        ("0000000000000400", "0000000000000400")
    );
    assert_eq!((&*narrow["NoNewPrivs"], &*narrow["Seccomp"]), ("0", "2"));

    let privileged = status(&node, |spec| spec.security.privileged = true).await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap()
        .trim()
        .to_owned();
    assert_eq!((&privileged["CapEff"], &*privileged["Seccomp"]), (&own, "0"));
}

#[tokio::test]
async fn the_node_is_out_of_reach() {
    let node = Node::new().await;
    let commands = script(&[
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "unshare -m true",
        "echo 0 > /proc/sys/kernel/sysrq",
        "echo h > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "hostname other",
        // A device node can be made, but not opened: neither in the root, nor in /dev, nor in shared memory.
        "mknod /tmp/d c 1 5 && dd if=/tmp/d of=/dev/null bs=1 count=1",
        "mknod /dev/d c 1 5 && dd if=/dev/d of=/dev/null bs=1 count=1",
        "mknod /dev/shm/d c 1 5 && dd if=/dev/shm/d of=/dev/null bs=1 count=1",
        "ls /proc/1/root/proc/2/root/var/lib",
        "cat /sys/firmware/*",
    ]);
    refused(&node, node.shell("main", &commands)).await;
}

#[tokio::test]
async fn devices_work() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let script = "dd if=/dev/zero of=/dev/null bs=1k count=1 2>/dev/null && echo zero; \
        dd if=/dev/urandom bs=1k count=1 2>/dev/null | wc -c; echo x > /dev/full || echo full; echo y > /dev/shm/f; ls /dev/mqueue; \
        ls /dev | sort";
    let (_, output) = node.run(&id, node.shell("main", &script.replace(" | sort", ""))).await;
    let lines: Vec<_> = output.lines().filter(|line| !line.contains("No space")).collect();
    let want = [
        "zero", "1024", "full", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    assert_eq!(lines, want);
    // Shared memory is the pod's.
    let (_, output) = node.run(&id, node.container("other", &["cat", "/dev/shm/f"])).await;
    assert_eq!(output, "y\n");
}

#[tokio::test]
async fn a_read_only_root_is_read_only() {
    let node = Node::new().await;
    let mut spec = node.shell(
        "main",
        &script(&[
            "touch /file",
            "touch /tmp/file",
            "echo x >> /etc/hosts",
            "touch /etc/passwd",
        ]),
    );
    spec.security.read_only_root = true;
    refused(&node, spec).await;
    let mut writes = node.shell("shm", "touch /dev/shm/file && cat /etc/hostname");
    writes.security.read_only_root = true;
    let id = node.sandbox("p1").await.id;
    assert_eq!(node.run(&id, writes).await.1, "host-p1\n");
}

#[tokio::test]
async fn privileged_containers_can_do_what_others_cannot() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut spec = node.shell(
        "main",
        "mount -t tmpfs none /tmp && echo mounted; ls /dev/kmsg; unshare -m true && echo unshared",
    );
    spec.security.privileged = true;
    let (_, output) = node.run(&id, spec).await;
    assert_eq!(output, "mounted\n/dev/kmsg\nunshared\n");
}

#[tokio::test]
async fn an_image_cannot_lead_mounts_astray() {
    use causeway_agent::image::ImageStore;

    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    for (name, link, target, works) in [
        ("proc", "proc", "/tmp", false),
        ("etc", "etc/hosts", "../../../../../../../nowhere/hosts", true),
        ("dev", "dev", "../../../..", false),
    ] {
        let layout = node.dir.path().join(format!("layout-{name}"));
        let evil = crate::support::layer(&[(link, 0, target.as_bytes())]);
        let layers = [crate::support::busybox_layer(), evil];
        crate::support::write_layout(&layout, &format!("evil:{name}"), &layers, &serde_json::json!({}));
        let image = ImageStore::open(&node.state_dir())
            .unwrap()
            .import(&layout, None)
            .unwrap()
            .remove(0);
        let mut spec = node.container(name, &["cat", "/etc/hosts"]);
        spec.rootfs = image.rootfs;
        let started = node.runtime.start_container(&id, spec).await;
        assert_eq!(started.is_ok(), works, "{name}: {started:?}");
        if works {
            node.ended(&id, name).await;
            assert!(
                node.output(&id, name, 0).contains("host-p1"),
                "{}",
                node.output(&id, name, 0)
            );
        }
    }
}

#[tokio::test]
async fn the_holder_is_small_and_single_threaded() {
    let node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    node.start(&sandbox.id, "main", "seq 1 100000; exec sleep 1000").await;
    node.wait_output(&sandbox.id, "main", "100000").await;
    let status = fs::read_to_string(format!("/proc/{}/status", sandbox.holder)).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        (field("Name:"), field("Threads:")),
        ("causeway-pod".to_owned(), "1".to_owned())
    );
    let private: u64 = field("RssAnon:").trim_end_matches(" kB").parse().unwrap();
    assert!(private < 4096, "{private} kB");
    // Its executable cannot be written through it, even by root.
    let open = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/exe", sandbox.holder));
    assert!(open.is_err());
}
