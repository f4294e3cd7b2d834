//! The process: listening, stopping, and a store that is away.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use causeway_proto::{Kind, v1};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

mod api;

use api::{Client, PATIENCE, Verbs, next, pods_from, version_now, within};

const POLL: Duration = Duration::from_millis(20);

/// A child process that does not outlive its test.
struct Process {
    child: Child,
    log: std::path::PathBuf,
}

impl Process {
    fn spawn(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::create(log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("an executable");
        Self {
            child,
            log: log.to_owned(),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the process lives");
    }

    /// What a log line of the JSON log says about itself, once one with this message has come.
    async fn logged(&self, message: &str) -> serde_json::Value {
        let found = async {
            loop {
                let lines = self.log();
                let parsed = lines
                    .lines()
                    .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                if let Some(line) = parsed.into_iter().find(|line| line["fields"]["message"] == message) {
                    return line["fields"].clone();
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(fields) => fields,
            Err(elapsed) => panic!("never logged {message:?} ({elapsed}):\n{}", self.log()),
        }
    }

    async fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "still runs:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pod that the scheduler leaves alone.
fn pod(name: &str) -> v1::Pod {
    let mut pod = api::pod(name);
    pod.spec.as_mut().expect("a specification").scheduler_name = "another".into();
    pod
}

fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("causeway-process-")
        .tempdir()
        .expect("a temporary directory")
}

fn control(directory: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-control"));
    command
        .args(["--log-format", "json", "--data-dir"])
        .arg(directory.join("data"))
        .args(args);
    Process::spawn(&mut command, &directory.join("control.log"))
}

fn channel(target: &str) -> Channel {
    Endpoint::from_shared(target.to_owned()).expect("a URI").connect_lazy()
}

fn client(target: &str) -> Client {
    Client::new(channel(target))
}

async fn health(target: &str) -> Option<ServingStatus> {
    let answer = HealthClient::new(channel(target))
        .check(HealthCheckRequest::default())
        .await;
    answer.ok().map(|answer| answer.into_inner().status())
}

async fn until_health(target: &str, wanted: ServingStatus) {
    within("health", async {
        while health(target).await != Some(wanted) {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
}

async fn http_get(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a connection");
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .expect("text");
    answer
}

#[tokio::test]
async fn it_serves_the_api_health_reflection_and_metrics() {
    let directory = directory();
    let socket = directory.path().join("run/control.sock");
    let unix = format!("unix:{}", socket.display());
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &unix,
        "--metrics-listen",
        "127.0.0.1:0",
    ];
    let process = control(directory.path(), &args);
    let tcp = process.logged("listening").await["address"]
        .as_str()
        .expect("text")
        .to_owned();
    let tcp = format!("http://{tcp}");
    let unix = format!("unix://{}", socket.display());
    until_health(&tcp, ServingStatus::Serving).await;
    assert_eq!(health(&unix).await, Some(ServingStatus::Serving));
    assert_eq!(
        fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777,
        0o660
    );

    client(&tcp).make(pod("web")).await.expect("a pod over TCP");
    client(&unix)
        .read::<v1::Pod>("web")
        .await
        .expect("the same pod over the socket");
    client(&unix).read::<v1::Pod>("absent").await.expect_err("no such pod");
    let version = causeway_proto::client::Client::connect(&tcp)
        .expect("an address")
        .server_version()
        .await
        .expect("an answer");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));

    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut reflection = ServerReflectionClient::new(channel(&tcp));
    let answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection");
    let answer = answers
        .into_inner()
        .message()
        .await
        .expect("no error")
        .expect("an answer");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(
        names.contains(&"causeway.v1.ObjectService") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );

    let metrics = process.logged("serving /metrics, /healthz and /readyz").await["address"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(http_get(&metrics, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(http_get(&metrics, "/readyz").await.starts_with("HTTP/1.1 200"));
    let text = http_get(&metrics, "/metrics").await;
    for line in [
        "# HELP causeway_api_requests ",
        "causeway_api_requests_total{verb=\"create\",kind=\"Pod\",code=\"OK\"} 1",
        "causeway_api_requests_total{verb=\"get\",kind=\"Pod\",code=\"NOT_FOUND\"} 1",
        "causeway_api_request_duration_seconds_bucket{",
        "causeway_objects{kind=\"Pod\"} 1",
        "causeway_cache_revision{kind=\"Pod\"} ",
        "causeway_api_watchers{kind=\"Pod\"} 0",
        "causeway_store_request_duration_seconds_count{operation=\"transact\"} ",
        "causeway_store_errors_total{operation=\"transact\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_signal_ends_it_within_a_bound_with_a_watch_open() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = directory();
        let socket = directory.path().join("control.sock");
        let target = format!("unix://{}", socket.display());
        let mut process = control(directory.path(), &["--listen", &format!("unix:{}", socket.display())]);
        process.logged("ready").await;
        let mut watch = client(&target).follow(pods_from("")).await.expect("a watch");
        assert_eq!(next(&mut watch).await, "BOOKMARK");
        process.signal(signal);
        let status = within("the end of the watch", watch.message())
            .await
            .expect_err("an end with a reason");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let asked = Instant::now();
        assert!(process.exited().await.success(), "{}", process.log());
        assert!(asked.elapsed() < Duration::from_secs(8));
        assert!(!socket.exists(), "its socket goes with it");
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_kill() {
    let directory = directory();
    let listen = format!("unix:{}", directory.path().join("control.sock").display());
    let target = format!("unix://{}", directory.path().join("control.sock").display());
    let process = control(directory.path(), &["--listen", &listen]);
    process.logged("ready").await;
    let made = client(&target).make(pod("web")).await.expect("a pod");
    let vip = client(&target)
        .make(api::service("web", ""))
        .await
        .expect("a service")
        .spec
        .expect("a spec")
        .cluster_ip;
    drop(process);
    assert!(
        directory.path().join("control.sock").exists(),
        "killed, it leaves its socket"
    );

    let process = control(directory.path(), &["--listen", &listen]);
    process.logged("ready").await;
    assert_eq!(client(&target).read::<v1::Pod>("web").await.expect("the pod"), made);
    let status = client(&target)
        .make(api::service("thief", &vip))
        .await
        .expect_err("the address is taken");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let directory = directory();
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = busy.local_addr().expect("an address").to_string();
    let mut process = control(directory.path(), &["--listen", &address]);
    assert_eq!(process.exited().await.code(), Some(1));
    let expected = format!(
        "causeway-control: {address} is in use by another process: stop that process, or choose another address with --listen\n"
    );
    assert_eq!(process.log(), expected);

    let mut process = control(
        directory.path(),
        &["--listen", "127.0.0.1:0", "--metrics-listen", &address],
    );
    assert_eq!(process.exited().await.code(), Some(1));
    assert!(
        process.log().contains("choose another address with --metrics-listen"),
        "{}",
        process.log()
    );

    let socket = directory.path().join("busy.sock");
    let _busy = UnixListener::bind(&socket).expect("a socket");
    let mut process = control(directory.path(), &["--listen", &format!("unix:{}", socket.display())]);
    assert_eq!(process.exited().await.code(), Some(1));
    assert!(
        process.log().contains("busy.sock is in use by another process"),
        "{}",
        process.log()
    );

    let file = directory.path().join("precious");
    fs::write(&file, "data").expect("a file");
    let mut process = control(directory.path(), &["--listen", &format!("unix:{}", file.display())]);
    assert_eq!(process.exited().await.code(), Some(1));
    assert!(
        process.log().contains("precious exists and is not a socket"),
        "{}",
        process.log()
    );
    assert_eq!(fs::read_to_string(&file).expect("the file"), "data");
}

#[tokio::test]
async fn a_read_only_directory_is_one_clear_line() {
    let directory = directory();
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a directory");
    // A mount namespace of its own, so that nothing has to be unmounted.
    let script = "mount -t tmpfs -o ro causeway-test \"$1\" && exec \"$2\" --data-dir \"$1\" --listen 127.0.0.1:0";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&data)
        .arg(env!("CARGO_BIN_EXE_causeway-control"));
    let mut process = Process::spawn(&mut command, &directory.path().join("control.log"));
    assert_eq!(process.exited().await.code(), Some(1), "{}", process.log());
    let log = process.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    let expected = format!(
        "causeway-control: cannot open the store: store directory {} is read-only",
        data.display()
    );
    assert!(log.starts_with(&expected), "{log}");
}

/// An etcd server on ports that were free a moment ago.
struct Etcd {
    directory: TempDir,
    client_url: String,
    peer_url: String,
}

impl Etcd {
    fn prepare() -> Self {
        let url = || {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            format!("http://{}", free.local_addr().expect("an address"))
        };
        Self {
            directory: directory(),
            client_url: url(),
            peer_url: url(),
        }
    }

    fn start(&self) -> Process {
        let mut command = Command::new("etcd");
        command
            .args(["--name", "causeway", "--data-dir"])
            .arg(self.directory.path().join("etcd"));
        command.args([
            "--listen-client-urls",
            &self.client_url,
            "--advertise-client-urls",
            &self.client_url,
        ]);
        command.args([
            "--listen-peer-urls",
            &self.peer_url,
            "--initial-advertise-peer-urls",
            &self.peer_url,
        ]);
        command.args(["--initial-cluster", &format!("causeway={}", self.peer_url)]);
        Process::spawn(&mut command, &self.directory.path().join("etcd.log"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_an_absent_etcd() {
    let etcd = Etcd::prepare();
    let directory = directory();
    let target = format!("unix://{}", directory.path().join("control.sock").display());
    let listen = format!("unix:{}", directory.path().join("control.sock").display());
    let process = control(
        directory.path(),
        &[
            "--listen",
            &listen,
            "--store",
            "etcd",
            "--etcd-endpoints",
            &etcd.client_url,
        ],
    );

    let waiting = process.logged("not ready, trying again until the store answers").await;
    assert!(
        waiting["reason"].as_str().expect("text").contains(&etcd.client_url),
        "{waiting}"
    );
    assert_eq!(health(&target).await, Some(ServingStatus::NotServing));

    let server = etcd.start();
    until_health(&target, ServingStatus::Serving).await;
    let mut objects = client(&target);
    let start = version_now(&mut objects).await;
    let mut watch = objects.follow(pods_from(&start)).await.expect("a watch");
    objects.make(pod("before-the-gap")).await.expect("a pod");
    assert_eq!(next(&mut watch).await, "ADDED before-the-gap");

    drop(server);
    until_health(&target, ServingStatus::NotServing).await;
    objects.read::<v1::Pod>("before-the-gap").await.expect("reads go on");
    assert_eq!(objects.page(api::all_pods()).await.expect("lists go on").items.len(), 1);
    let status = objects.make(pod("lost")).await.expect_err("nothing can be stored");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(&etcd.client_url),
        "the store is named: {}",
        status.message()
    );

    let _server = etcd.start();
    until_health(&target, ServingStatus::Serving).await;
    objects.make(pod("after-the-gap")).await.expect("a pod");
    assert_eq!(
        next(&mut watch).await,
        "ADDED after-the-gap",
        "the watch went on by itself"
    );
    objects
        .remove(Kind::Pod, "before-the-gap", None)
        .await
        .expect("the pod");
    assert_eq!(next(&mut watch).await, "DELETED before-the-gap");
}
