//! Serves the health-check node ports of services, as Kubernetes' proxies do: 200 when the service has a ready backend on this node,
//! else 503, with the number.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{bpf::ReadinessHandle, reconcile::service_health::HealthCheck};

/// Tells load balancers that weigh nodes how many backends there are.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
const NO_SNIFFING: (HeaderName, &str) = (HeaderName::from_static("x-content-type-options"), "nosniff");

/// The open ports. Dropping it closes them.
#[derive(Debug)]
pub struct HealthPorts {
    readiness: ReadinessHandle,
    open: BTreeMap<u16, Open>,
}

#[derive(Debug)]
struct Open {
    check: watch::Sender<Arc<HealthCheck>>,
    /// One task; ends with this.
    _server: JoinSet<()>,
}

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("health-check node port {port} of service {service} cannot be listened on")]
pub struct HealthPortError {
    /// The port.
    pub port: u16,
    /// "namespace/name".
    pub service: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl HealthPorts {
    /// None open yet.
    pub fn new(readiness: ReadinessHandle) -> Self {
        Self {
            readiness,
            open: BTreeMap::new(),
        }
    }

    /// Makes these the open ports. What cannot be opened is told, and tried again the next time.
    pub async fn apply(&mut self, wanted: BTreeMap<u16, HealthCheck>) -> Vec<HealthPortError> {
        self.open.retain(|port, _| wanted.contains_key(port));
        let mut errors = Vec::new();
        for (port, check) in wanted {
            if let Some(open) = self.open.get(&port) {
                open.check.send_replace(Arc::new(check));
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    self.open.insert(port, self.serve(listener, check));
                }
                Err(source) => {
                    let service = format!("{}/{}", check.namespace, check.name);
                    errors.push(HealthPortError { port, service, source });
                }
            }
        }
        errors
    }

    fn serve(&self, listener: TcpListener, check: HealthCheck) -> Open {
        let (check, current) = watch::channel(Arc::new(check));
        let router = Router::new()
            .fallback(answer)
            .with_state((current, self.readiness.clone()));
        let mut server = JoinSet::new();
        server.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "a health-check node port is no longer served");
            }
        });
        Open { check, _server: server }
    }
}

/// At every address of the node, of both families where there are two.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    }
}

async fn answer(State((check, readiness)): State<(watch::Receiver<Arc<HealthCheck>>, ReadinessHandle)>) -> Response {
    let check = Arc::clone(&check.borrow());
    let ready = check.ready(|pod, listed| readiness.known(pod, listed));
    let status = if ready > 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Names of services and namespaces need no escapes in JSON.
    let body = format!(
        "{{\"service\":{{\"namespace\":\"{}\",\"name\":\"{}\"}},\"localEndpoints\":{ready}}}\n",
        check.namespace, check.name
    );
    let headers = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (NO_SNIFFING.0, NO_SNIFFING.1.to_owned()),
        (WEIGHT, ready.to_string()),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use causeway_maps::MappedArray;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::bpf::Readiness;

    fn pod() -> IpAddr {
        "10.244.1.2".parse().unwrap()
    }

    fn check(ready: bool) -> HealthCheck {
        let listed = Readiness {
            ready,
            terminating: false,
        };
        HealthCheck {
            namespace: "default".into(),
            name: "web".into(),
            pods: BTreeMap::from([(pod(), listed)]),
            ready_always: false,
        }
    }

    async fn get(port: u16) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// A port that was free a moment ago. Another may take it meanwhile, so opening it is tried with several.
    async fn open(ports: &mut HealthPorts, check: HealthCheck) -> u16 {
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
                .await
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if ports.apply(BTreeMap::from([(port, check.clone())])).await.is_empty() {
                return port;
            }
        }
        panic!("no free port in 20 tries");
    }

    #[tokio::test]
    async fn a_port_answers_for_the_backends_of_this_node() {
        let readiness = ReadinessHandle::new(MappedArray::anonymous(1).unwrap());
        let mut ports = HealthPorts::new(readiness.clone());
        let port = open(&mut ports, check(true)).await;
        let answer = get(port).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 1\r\n"), "{answer}");
        assert!(
            answer.ends_with("{\"service\":{\"namespace\":\"default\",\"name\":\"web\"},\"localEndpoints\":1}\n"),
            "{answer}"
        );
        // A probe's verdict counts at once, before any list says so.
        readiness.set_ready(pod(), false);
        assert!(get(port).await.starts_with("HTTP/1.1 503 "));
        readiness.set_ready(pod(), true);
        readiness.set_terminating(pod());
        assert!(get(port).await.starts_with("HTTP/1.1 503 "));
        readiness.forget(pod());
        assert!(get(port).await.starts_with("HTTP/1.1 200 "));
        ports.apply(BTreeMap::from([(port, check(false))])).await;
        assert!(get(port).await.starts_with("HTTP/1.1 503 "));
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_and_a_port_no_longer_wanted_is_closed() {
        let readiness = ReadinessHandle::new(MappedArray::anonymous(1).unwrap());
        let mut ports = HealthPorts::new(readiness.clone());
        let port = open(&mut ports, check(true)).await;
        let mut others = HealthPorts::new(readiness);
        let errors = others.apply(BTreeMap::from([(port, check(true))])).await;
        assert_eq!(
            errors[0].to_string(),
            format!("health-check node port {port} of service default/web cannot be listened on")
        );
        assert!(ports.apply(BTreeMap::new()).await.is_empty());
        // The task's end closes the socket.
        tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the port is closed");
    }
}
