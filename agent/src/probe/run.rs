//! Doing a probe once.

use std::{net::IpAddr, time::Duration};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    prober::ExecRunner,
    spec::{ProbeAction, ProbeSpec},
};

/// Who is asking.
const USER_AGENT: &str = concat!("causeway-probe/", env!("CARGO_PKG_VERSION"));

/// Bytes of a command's output that are shown.
const SHOWN_OUTPUT: usize = 256;

/// Why a probe failed, for people.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The probe itself makes no sense.
    #[error("the probe is not valid: {0}")]
    Invalid(String),
    /// No answer that is HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// An answer that is not good.
    #[error("HTTP status {0}")]
    Status(StatusCode),
    /// The command failed.
    #[error("command exited with {code}{}", output_suffix(.output))]
    Exit {
        /// Its exit code.
        code: i32,
        /// The start of its output.
        output: String,
    },
    /// The command could not be run.
    #[error("{0}")]
    Exec(String),
    /// No connection for gRPC, or no health service.
    #[error("gRPC: {0}")]
    Grpc(String),
    /// The service is not serving.
    #[error("gRPC health status {0}")]
    NotServing(&'static str),
}

fn output_suffix(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(": {output}")
    }
}

/// Probes once, for at most the probe's timeout. Answers what was seen.
pub async fn probe(
    spec: &ProbeSpec,
    address: IpAddr,
    container: &str,
    exec: &dyn ExecRunner,
) -> Result<String, ProbeError> {
    let attempt = async {
        let at = |host: &Option<String>| host.clone().unwrap_or_else(|| address.to_string());
        match &spec.action {
            ProbeAction::Http {
                host,
                port,
                path,
                headers,
            } => http(&at(host), *port, path, headers).await,
            ProbeAction::Tcp { host, port } => {
                connect(&at(host), *port).await?;
                Ok("connected".to_owned())
            }
            ProbeAction::Exec { command } => run(exec, container, command, spec.timeout).await,
            ProbeAction::Grpc { port, service } => grpc(&authority(&address.to_string(), *port), service).await,
        }
    };
    tokio::time::timeout(spec.timeout, attempt)
        .await
        .unwrap_or(Err(ProbeError::Timeout(spec.timeout)))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, ProbeError> {
    let connected = TcpStream::connect((host, port)).await;
    connected.map_err(|source| ProbeError::Connect {
        address: authority(host, port),
        source,
    })
}

/// `host:port`, with brackets where they belong.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

async fn http(host: &str, port: u16, path: &str, extra: &[(String, String)]) -> Result<String, ProbeError> {
    let request = request(&authority(host, port), path, extra)?;
    let stream = connect(host, port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    // The connection is driven only as long as the answer is awaited; dropping it closes it.
    let response = tokio::select! {
        response = &mut answer => response,
        // With its last step it may have brought the answer.
        _ = connection => answer.await,
    };
    let status = response?.status();
    if (200..400).contains(&status.as_u16()) {
        Ok(format!("HTTP status {status}"))
    } else {
        Err(ProbeError::Status(status))
    }
}

fn request(authority: &str, path: &str, extra: &[(String, String)]) -> Result<Request<Empty<Bytes>>, ProbeError> {
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let uri: Uri = path
        .parse()
        .map_err(|error| ProbeError::Invalid(format!("path \"{path}\": {error}")))?;
    let mut headers = HeaderMap::new();
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|error| ProbeError::Invalid(format!("header value \"{text}\": {error}")))
    };
    headers.insert(header::HOST, value(authority)?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, text) in extra {
        let name: HeaderName = name
            .parse()
            .map_err(|error| ProbeError::Invalid(format!("header name \"{name}\": {error}")))?;
        if [header::HOST, header::USER_AGENT, header::ACCEPT].contains(&name) {
            headers.insert(name, value(text)?);
        } else {
            headers.append(name, value(text)?);
        }
    }
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn run(
    exec: &dyn ExecRunner,
    container: &str,
    command: &[String],
    timeout: Duration,
) -> Result<String, ProbeError> {
    let (code, output) = exec.exec(container, command, timeout).await.map_err(ProbeError::Exec)?;
    let output = output.trim().chars().take(SHOWN_OUTPUT).collect();
    if code == 0 {
        Ok(output)
    } else {
        Err(ProbeError::Exit { code, output })
    }
}

async fn grpc(authority: &str, service: &str) -> Result<String, ProbeError> {
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| ProbeError::Invalid(error.to_string()))?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| ProbeError::Grpc(with_causes(&error)))?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await;
    let status = answer.map_err(|status| ProbeError::Grpc(format!("{:?}: {}", status.code(), status.message())))?;
    match status.into_inner().status() {
        ServingStatus::Serving => Ok("SERVING".to_owned()),
        other => Err(ProbeError::NotServing(other.as_str_name())),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
