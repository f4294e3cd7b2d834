//! Probes against small servers of the test's own.

use std::net::Ipv4Addr;

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Answers every command with what it was made with.
struct Fixed(Result<(i32, String), String>);

impl ExecRunner for Fixed {
    fn exec(&self, _: &str, _: &[String], _: Duration) -> BoxFuture<'static, Result<(i32, String), String>> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

async fn probe_action(action: ProbeAction, exec: &Fixed) -> Result<String, String> {
    let spec = ProbeSpec {
        timeout: Duration::from_millis(500),
        ..ProbeSpec::new(action)
    };
    probe(&spec, HERE, "web", exec).await.map_err(|error| error.to_string())
}

async fn probe_network(action: ProbeAction) -> Result<String, String> {
    probe_action(action, &Fixed(Err("not called".to_owned()))).await
}

/// Serves one connection: takes a request, sends `answer`. The task gives the request.
async fn serve(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        request.truncate(length);
        String::from_utf8(request).unwrap()
    });
    (port, task)
}

fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> ProbeAction {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    ProbeAction::Http {
        host: None,
        port,
        path: path.to_owned(),
        headers,
    }
}

#[tokio::test]
async fn http_is_good_from_200_to_399() {
    for (status, good) in [
        ("200 OK", true),
        ("204 No Content", true),
        ("302 Found", true),
        ("404 Not Found", false),
        ("503 Service Unavailable", false),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").leak();
        let (port, _task) = serve(answer).await;
        let result = probe_network(get(port, "/healthz", &[])).await;
        assert_eq!(result.is_ok(), good, "{status}");
        let text = result.unwrap_or_else(|error| error);
        assert_eq!(text, format!("HTTP status {status}"));
    }
}

#[tokio::test]
async fn http_requests_carry_path_query_and_headers() {
    let (port, task) = serve("HTTP/1.0 200 OK\r\n\r\nbody without length").await;
    probe_network(get(port, "ready?deep=1", &[("Host", "example.test"), ("X-Token", "t")]))
        .await
        .unwrap();
    let request = task.await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /ready?deep=1 http/1.1\r\n"), "{request}");
    for header in [
        "host: example.test\r\n",
        "x-token: t\r\n",
        "connection: close\r\n",
        "user-agent: causeway-probe/",
    ] {
        assert!(request.contains(header), "{request}");
    }
    assert_eq!(request.matches("host:").count(), 1);
}

#[tokio::test]
async fn servers_that_do_not_speak_http_fail() {
    let (port, _task) = serve("SSH-2.0-x\r\n").await;
    let error = probe_network(get(port, "/", &[])).await.unwrap_err();
    assert!(error.starts_with("HTTP: "), "{error}");
    let (port, _task) = serve("").await;
    assert!(probe_network(get(port, "/", &[])).await.is_err());
}

#[tokio::test]
async fn silence_times_out() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = probe_network(get(port, "/", &[])).await.unwrap_err();
    assert_eq!(error, "no answer within 500 ms");
}

#[tokio::test]
async fn tcp_is_good_when_something_listens() {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let action = ProbeAction::Tcp { host: None, port };
    assert_eq!(probe_network(action.clone()).await, Ok("connected".to_owned()));
    drop(listener);
    let error = probe_network(action).await.unwrap_err();
    assert!(
        error.starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")),
        "{error}"
    );
}

#[tokio::test]
async fn exec_is_good_with_code_0() {
    let action = || ProbeAction::Exec {
        command: vec!["check".to_owned()],
    };
    let fixed = |code, output: &str| Fixed(Ok((code, output.to_owned())));
    assert_eq!(probe_action(action(), &fixed(0, "fine\n")).await, Ok("fine".to_owned()));
    assert_eq!(
        probe_action(action(), &fixed(3, "broken\n")).await,
        Err("command exited with 3: broken".to_owned())
    );
    assert_eq!(
        probe_action(action(), &fixed(1, "")).await,
        Err("command exited with 1".to_owned())
    );
    let failed = Fixed(Err("exec check: no such file or directory".to_owned()));
    assert_eq!(
        probe_action(action(), &failed).await,
        Err("exec check: no such file or directory".to_owned())
    );
}

#[tokio::test]
async fn grpc_asks_the_health_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("up", tonic_health::ServingStatus::Serving)
        .await;
    reporter
        .set_service_status("down", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let ask = |service: &str| {
        probe_network(ProbeAction::Grpc {
            port,
            service: service.to_owned(),
        })
    };
    assert_eq!(ask("up").await, Ok("SERVING".to_owned()));
    assert_eq!(ask("").await, Ok("SERVING".to_owned()));
    assert_eq!(ask("down").await, Err("gRPC health status NOT_SERVING".to_owned()));
    assert!(ask("unknown").await.unwrap_err().starts_with("gRPC: NotFound"));
    server.abort();
    let (port, _task) = serve("not gRPC").await;
    assert!(
        probe_network(ProbeAction::Grpc {
            port,
            service: String::new()
        })
        .await
        .is_err()
    );
}

#[test]
fn nonsense_is_named() {
    let error = |path: &str, headers: &[(String, String)]| request("h:1", path, headers).unwrap_err().to_string();
    assert!(error("/a b", &[]).starts_with("the probe is not valid: path \"/a b\""));
    assert!(error("/", &[("a b".into(), "x".into())]).contains("header name \"a b\""));
    assert_eq!(authority("fd00::1", 80), "[fd00::1]:80");
}
