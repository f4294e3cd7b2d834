//! Listening: on TCP addresses and Unix sockets, with health and reflection.

use std::{
    fmt, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use causeway_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{object_service_server::ObjectServiceServer, version_service_server::VersionServiceServer},
};
use futures::future::join_all;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::server::HealthReporter;

use super::{ObjectApi, version::VersionApi};

const SOCKET_MODE: u32 = 0o660;
/// Largest request: as etcd would take, and some.
const MAX_REQUEST_BYTES: usize = 8 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where to listen: `HOST:PORT` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host name or IP address, and port.
    Tcp(String),
    /// Path of a socket.
    Unix(PathBuf),
}

/// Text that is no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST:PORT or unix:/path, such as 127.0.0.1:6550 or unix:/run/causeway/control.sock")]
pub struct NotAnAddress;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(NotAnAddress)
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(text.to_owned())),
            _ => Err(NotAnAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{address} is in use by another process: stop that process, or choose another address with {flag}")]
    InUse {
        /// The address.
        address: String,
        /// The option that sets it.
        flag: &'static str,
    },
    /// Something that is no socket has the name of the socket.
    #[error("{} exists and is not a socket: remove it, or choose another path with --listen", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A bound address.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A socket, whose file goes with it.
    Unix(UnixListener, SocketFile),
}

/// Removes a socket's file when dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; nothing can be done about other errors.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds a TCP address; `flag` is the option that names it.
pub async fn bind_tcp(address: &str, flag: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse {
            address: address.to_owned(),
            flag,
        },
        _ => ListenError::Bind {
            address: address.to_owned(),
            source,
        },
    })
}

/// Binds an address; a socket that nobody listens on any more is replaced.
pub async fn bind(address: &Address) -> Result<Listener, ListenError> {
    match address {
        Address::Tcp(text) => bind_tcp(text, "--listen").await.map(Listener::Tcp),
        Address::Unix(path) => {
            let failed = |source| ListenError::Bind {
                address: address.to_string(),
                source,
            };
            remove_stale(path, address).await?;
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            let file = SocketFile(path.clone());
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
            Ok(Listener::Unix(listener, file))
        }
    }
}

async fn remove_stale(path: &Path, address: &Address) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind {
        address: address.to_string(),
        source,
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(ListenError::InUse {
            address: address.to_string(),
            flag: "--listen",
        });
    }
    std::fs::remove_file(path).map_err(failed)
}

impl Listener {
    /// The address it got, with the port that the system chose for port 0.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".into(), |address| address.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }
}

/// Serves on all listeners until `stop`, then ends within `grace`: calls under way are answered, what is left is cut.
/// Watches must be ended by stopping the registry.
pub async fn serve(
    listeners: Vec<Listener>,
    api: ObjectApi,
    stop: CancellationToken,
    grace: Duration,
    health: HealthReporter,
) -> Result<(), tonic::transport::Error> {
    let routes = routes(api, health);
    let servers = listeners
        .into_iter()
        .map(|listener| serve_one(listener, routes.clone(), stop.clone()));
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        results = join_all(servers) => results.into_iter().collect(),
        () = cut => {
            tracing::warn!(?grace, "cut the connections that did not end in time");
            Ok(())
        }
    }
}

fn routes(api: ObjectApi, health: HealthReporter) -> Routes {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection()
        .build_v1()
        .expect("descriptors made by the build are well-formed");
    let v1alpha = reflection()
        .build_v1alpha()
        .expect("descriptors made by the build are well-formed");
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    Routes::new(ObjectServiceServer::new(api).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(VersionServiceServer::new(VersionApi))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(v1)
        .add_service(v1alpha)
}

async fn serve_one(listener: Listener, routes: Routes, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes);
    match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await
        }
        Listener::Unix(listener, _file) => {
            server
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
                .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        assert_eq!("127.0.0.1:6550".parse(), Ok(Address::Tcp("127.0.0.1:6550".into())));
        assert_eq!("[::1]:6550".parse(), Ok(Address::Tcp("[::1]:6550".into())));
        assert_eq!("unix:/run/x.sock".parse(), Ok(Address::Unix("/run/x.sock".into())));
        assert_eq!("unix:///run/x.sock".parse(), Ok(Address::Unix("/run/x.sock".into())));
        for text in [
            "",
            "6550",
            ":6550",
            "localhost",
            "localhost:http",
            "localhost:70000",
            "unix:x.sock",
        ] {
            assert_eq!(text.parse::<Address>(), Err(NotAnAddress), "{text}");
        }
    }
}
