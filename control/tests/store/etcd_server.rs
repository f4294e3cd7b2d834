//! A real etcd on loopback, stopped when dropped.

use std::{
    io,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub struct EtcdServer {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

fn free_ports() -> (u16, u16) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().expect("local address").port());
    (ports[0], ports[1])
}

impl EtcdServer {
    /// Starts a server with an empty store.
    pub fn start() -> Self {
        // Another process may take a port between looking and using.
        for _ in 0..5 {
            let mut server = Self::stopped();
            if server.resume() {
                return server;
            }
        }
        panic!("etcd does not start");
    }

    /// A server to be, with its address.
    pub fn stopped() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("causeway-etcd-")
            .tempdir()
            .expect("temporary directory");
        let (client_port, peer_port) = free_ports();
        Self {
            directory,
            client_port,
            peer_port,
            child: None,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Starts it with what it had stored; false if it ended at once.
    pub fn resume(&mut self) -> bool {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::create(self.directory.path().join("log")).expect("log file");
        let child = Command::new("etcd")
            .args(["--name", "test", "--logger", "zap", "--log-level", "error"])
            .args([
                "--listen-client-urls",
                &self.endpoint(),
                "--advertise-client-urls",
                &self.endpoint(),
            ])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("etcd is not installed: this test needs the program `etcd` in PATH (Debian: etcd-server)")
            }
            Err(error) => panic!("cannot start etcd: {error}"),
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if child.try_wait().expect("wait for etcd").is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", self.client_port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("etcd does not answer; its log: {}", log_of(self.directory.path()));
    }

    /// Stops it with SIGKILL; its store stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill etcd");
            child.wait().expect("reap etcd");
        }
    }
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}
