//! Containers start, run, answer and end, and everybody is told.

use std::time::{Duration, Instant};

use causeway_agent::runtime::{ExecSpec, ExitReason, Mount, RuntimeError, UserSpec};

use crate::support::{Node, PATIENCE, pid, sandbox_spec, wait_for};

fn command(argv: &[&str]) -> ExecSpec {
    let argv = argv.iter().map(ToString::to_string).collect();
    ExecSpec {
        argv,
        timeout: Some(PATIENCE),
        output_limit_bytes: 1 << 20,
    }
}

#[tokio::test]
async fn a_container_runs_and_its_end_and_output_are_kept() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let (state, output) = node
        .run(&id, node.shell("main", "echo one; echo two >&2; exit 3"))
        .await;
    let exit = state.exit().unwrap();
    assert_eq!((exit.exit_code, exit.signal, exit.reason), (3, 0, ExitReason::Error));
    assert!(exit.finished_at >= exit.started_at);
    assert_eq!(output.lines().collect::<Vec<_>>().len(), 2);
    let log = std::fs::read_to_string(node.runtime.log_path(&id, "main", 0)).unwrap();
    assert!(
        log.contains(" stdout F one\n") && log.contains(" stderr F two\n"),
        "{log}"
    );
    let (state, _) = node.run(&id, node.container("good", &["true"])).await;
    assert_eq!(state.exit().unwrap().reason, ExitReason::Completed);
}

#[tokio::test]
async fn changes_are_told_at_once() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "read x < /tmp/never 2>/dev/null; exec sleep 1000")
        .await;
    let mut changes = node.runtime.changes();
    // Told by a watcher that was connected before: drain what is still coming from the start.
    let running = node.state(&id, "main").await;
    let killed = Instant::now();
    // SAFETY: the process is a container this test started and has not been reaped by its holder.
    unsafe { libc::kill(i32::try_from(pid(&running)).unwrap(), libc::SIGKILL) };
    loop {
        let told = tokio::time::timeout(PATIENCE, changes.recv())
            .await
            .expect("a change")
            .unwrap();
        assert_eq!(told, id);
        if node.state(&id, "main").await.exit().is_some() {
            break;
        }
    }
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn making_and_starting_twice_is_making_and_starting_once() {
    let node = Node::new().await;
    let first = node.sandbox("p1").await;
    let second = node.sandbox("p1").await;
    assert_eq!(
        (first.created, second.created, first.holder),
        (true, false, second.holder)
    );
    let spec = node.shell("main", "exec sleep 1000");
    let (one, two) = tokio::join!(
        node.runtime.start_container(&first.id, spec.clone()),
        node.runtime.start_container(&first.id, spec.clone())
    );
    assert_eq!(pid(&one.unwrap()), pid(&two.unwrap()));
    let error = node
        .runtime
        .start_container(&first.id, causeway_agent::runtime::ContainerSpec { attempt: 1, ..spec });
    let error = error.await.unwrap_err().to_string();
    assert!(error.contains("an earlier attempt still runs"), "{error}");
}

#[tokio::test]
async fn stopping_asks_first_and_kills_after_the_grace_period() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let polite = node.shell("polite", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
    let rude = node.shell("rude", "trap '' TERM; echo up; while :; do sleep 0.05; done");
    for spec in [polite, rude] {
        let name = spec.name.clone();
        node.runtime.start_container(&id, spec).await.unwrap();
        node.wait_output(&id, &name, "up").await;
    }
    let state = node.runtime.stop_container(&id, "polite", PATIENCE).await.unwrap();
    assert_eq!(state.exit().unwrap().exit_code, 7);
    let asked = Instant::now();
    let state = node
        .runtime
        .stop_container(&id, "rude", Duration::from_millis(400))
        .await
        .unwrap();
    assert_eq!(
        (state.exit().unwrap().exit_code, state.exit().unwrap().signal),
        (137, libc::SIGKILL)
    );
    assert!(asked.elapsed() >= Duration::from_millis(400), "{:?}", asked.elapsed());
    // Stopping what has ended answers how it ended.
    let again = node.runtime.stop_container(&id, "rude", Duration::ZERO).await.unwrap();
    assert_eq!(again, state);
}

#[tokio::test]
async fn a_shorter_grace_period_overrides_a_longer_one() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "rude", "trap '' TERM; echo up; while :; do sleep 0.05; done")
        .await;
    node.wait_output(&id, "rude", "up").await;
    let long = node.runtime.stop_container(&id, "rude", Duration::from_hours(1));
    let short = async {
        // The long one is on its way once this one is answered in order behind it; either order must end in time.
        node.runtime
            .stop_container(&id, "rude", Duration::from_millis(50))
            .await
    };
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(long, short) })
        .await
        .unwrap();
    assert_eq!(both.0.unwrap(), both.1.unwrap());
}

#[tokio::test]
async fn commands_run_inside_a_running_container() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "echo mine > /tmp/file; echo up; exec sleep 1000")
        .await;
    node.wait_output(&id, "main", "up").await;
    let run = |argv: &'static [&'static str]| node.runtime.exec(&id, "main", command(argv));
    let result = run(&["sh", "-c", "cat /tmp/file; echo err >&2; echo $FROM_IMAGE; exit 4"])
        .await
        .unwrap();
    assert_eq!(
        (result.exit_code, result.stdout.as_str(), result.stderr.as_str()),
        (4, "mine\nyes\n", "err\n")
    );
    // Its processes see each other.
    let seen = run(&["cat", "/proc/1/comm"]).await.unwrap();
    assert_eq!(seen.stdout, "sleep\n");
    let error = run(&["/no/such"]).await.unwrap_err().to_string();
    assert_eq!(error, "exec /no/such: no such file or directory in image busybox:test");
    let slow = ExecSpec {
        timeout: Some(Duration::from_secs(2)),
        ..command(&["sh", "-c", "echo a; sleep 1000; echo b"])
    };
    let result = node.runtime.exec(&id, "main", slow).await.unwrap();
    assert_eq!(
        (result.timed_out, result.stdout.as_str(), result.signal),
        (true, "a\n", libc::SIGKILL)
    );
    let bounded = ExecSpec {
        output_limit_bytes: 10,
        ..command(&["seq", "100000"])
    };
    assert_eq!(
        node.runtime.exec(&id, "main", bounded).await.unwrap().stdout,
        "1\n2\n3\n4\n5\n"
    );
    let absent = node.runtime.exec(&id, "other", command(&["true"])).await.unwrap_err();
    assert!(matches!(absent, RuntimeError::NoContainer { .. }));
    node.runtime.stop_container(&id, "main", Duration::ZERO).await.unwrap();
    let ended = node.runtime.exec(&id, "main", command(&["true"])).await.unwrap_err();
    assert!(matches!(ended, RuntimeError::NotRunning { .. }));
}

#[tokio::test]
async fn a_command_nobody_waits_for_any_more_is_killed() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "exec sleep 1000").await;
    let spec = ExecSpec {
        timeout: None,
        ..command(&["sleep", "2000"])
    };
    let count = || async {
        let ps = node
            .runtime
            .exec(&id, "main", command(&["ps", "-o", "args"]))
            .await
            .unwrap();
        ps.stdout.matches("sleep 2000").count()
    };
    let abandoned = tokio::time::timeout(Duration::from_millis(500), node.runtime.exec(&id, "main", spec)).await;
    assert!(abandoned.is_err());
    wait_for("the command's end", || async { (count().await == 0).then_some(()) }).await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_said_and_recorded() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let mut unknown_user = node.container("user", &["true"]);
    unknown_user.user = UserSpec {
        image: "nobody".to_owned(),
        ..UserSpec::default()
    };
    let mut cap = node.container("cap", &["true"]);
    cap.security.add_capabilities = vec!["FLY".to_owned()];
    let not_a_program = node.container("data", &["/data/kept"]);
    for (spec, want) in [
        (
            node.container("absent", &["/foo"]),
            "exec /foo: no such file or directory in image busybox:test",
        ),
        (
            node.container("path", &["foo", "bar"]),
            "exec foo: no such file or directory in image busybox:test",
        ),
        (
            node.container("nothing", &[]),
            "neither the pod nor image busybox:test says what to run",
        ),
        (
            not_a_program,
            "exec /data/kept: permission denied in image busybox:test",
        ),
        (unknown_user, "user \"nobody\" is not in the image's /etc/passwd"),
        (cap, "there is no capability \"FLY\""),
    ] {
        let name = spec.name.clone();
        let error = node.runtime.start_container(&id, spec.clone()).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Start { .. }), "{name}: {error:?}");
        assert_eq!(error.to_string(), want);
        let state = node.state(&id, &name).await;
        let exit = state.exit().unwrap();
        assert_eq!(
            (exit.reason, exit.exit_code, exit.message.as_str()),
            (ExitReason::StartError, 128, want)
        );
        // Asking again gives the same answer.
        assert_eq!(
            node.runtime.start_container(&id, spec).await.unwrap_err().to_string(),
            want
        );
    }
}

#[tokio::test]
async fn files_user_and_environment_are_as_asked() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    let shared = node.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the node\n").unwrap();
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; grep -c 10.1.2.3 /etc/hosts; pwd; id -u; id -g; id -G; \
        echo $HOME $HOSTNAME $A; cat /shared/file; echo x > /shared/file || echo refused; test -e /proc/self/fd/3 || echo closed; \
        cat | wc -c; ls /dev/null /dev/pts/ptmx /dev/shm -d; echo out > /dev/stdout";
    let mut spec = node.shell("main", script);
    spec.user = UserSpec {
        image: "web".to_owned(),
        ..UserSpec::default()
    };
    spec.cwd = "/work/deep".to_owned();
    spec.env.push(("A".to_owned(), "b c".to_owned()));
    spec.mounts = vec![Mount {
        source: shared,
        destination: "/shared".into(),
        read_only: true,
    }];
    let (state, output) = node.run(&id, spec).await;
    let want = "host-p1\nhost-p1\nnameserver 10.96.0.10\n1\n/work/deep\n1000\n1001\n1001 1002\n/home/web host-p1 b c\n\
        from the node\nrefused\nclosed\n0\n/dev/null\n/dev/pts/ptmx\n/dev/shm\nout\n";
    let got: Vec<_> = output.lines().filter(|line| !line.contains("Read-only")).collect();
    assert_eq!(got, want.lines().collect::<Vec<_>>());
    assert_eq!(state.exit().unwrap().exit_code, 0);
}

#[tokio::test]
async fn hosts_follow_the_sandboxs_addresses() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    node.start(&id, "main", "exec sleep 1000").await;
    let mut spec = sandbox_spec("p1");
    spec.addresses = vec!["10.9.9.9".parse().unwrap()];
    node.runtime.create_sandbox(spec).await.unwrap();
    let hosts = node
        .runtime
        .exec(&id, "main", command(&["cat", "/etc/hosts"]))
        .await
        .unwrap()
        .stdout;
    assert!(
        hosts.contains("10.9.9.9\thost-p1") && !hosts.contains("10.1.2.3"),
        "{hosts}"
    );
}

#[tokio::test]
async fn much_output_is_rotated_and_none_lost_in_the_pipe() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    // About 640 KiB of records at 64 KiB a file, 3 files.
    let (_, _) = node.run(&id, node.shell("main", "seq 1 12000; echo -n end")).await;
    let log = node.runtime.log_path(&id, "main", 0);
    let rotated = |n: u32| std::fs::read_to_string(format!("{}.{n}", log.display()));
    let last = std::fs::read_to_string(&log).unwrap();
    assert!(last.ends_with(" stdout P end\n"), "{}", &last[last.len() - 60..]);
    let text = [rotated(2).unwrap(), rotated(1).unwrap(), last].concat();
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split(" F ").nth(1)?.parse().ok())
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers.last() == Some(&12_000));
    assert!(rotated(3).is_err());
}

#[tokio::test]
async fn old_attempts_are_cleared_away() {
    let node = Node::new().await;
    let id = node.sandbox("p1").await.id;
    for attempt in 0..3 {
        let mut spec = node.shell("main", "touch /tmp/mark; exit 1");
        spec.attempt = attempt;
        node.run(&id, spec).await;
    }
    let state = node.runtime.sandbox(&id).await.unwrap().unwrap();
    let kept: Vec<_> = state.containers.iter().map(|container| container.attempt).collect();
    assert_eq!(kept, [1, 2]);
    let dir = node.state_dir().join("pods/p1");
    assert!(!dir.join("containers/main/1/upper").exists() && dir.join("containers/main/2/upper/tmp/mark").exists());
    assert!(!dir.join("logs/main/0.log").exists() && dir.join("logs/main/1.log").exists());
}

#[tokio::test]
async fn the_holder_can_be_talked_to_by_hand() {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::net::UnixStream,
    };

    let node = Node::new().await;
    let sandbox = node.sandbox("p1").await;
    node.run(&sandbox.id, node.container("main", &["true"])).await;
    let socket = UnixStream::connect(node.state_dir().join("pods/p1/holder.sock")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
    let mut ask = |request: &str| {
        writeln!(&socket, "{request}").unwrap();
        lines.next().unwrap().unwrap()
    };
    let state = ask("\"state\"");
    assert!(
        state.contains(r#""name":"main","attempt":0"#) && state.contains(r#""exit_code":0"#),
        "{state}"
    );
    assert!(ask("nonsense").contains("not a request"));
    assert_eq!(ask(r#"{"signal":{"container":"main","signal":15}}"#), "\"notRunning\"");
    assert_eq!(ask("\"shutdown\""), "\"done\"");
    node.holder_ended(&sandbox.id).await;
}
