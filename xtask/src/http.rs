//! The least HTTP client that can ask a pod something from inside a network namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns;

/// Status code and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// Sends one request without a body from the namespace called `from`, on a connection of its own.
pub fn request(from: &str, method: &str, to: SocketAddr, path: &str, timeout: Duration) -> Result<Answer> {
    netns::run_in(from, || exchange(method, to, path, timeout))
        .with_context(|| format!("{method} http://{to}{path} from {from}"))
}

fn exchange(method: &str, to: SocketAddr, path: &str, timeout: Duration) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, timeout).context("cannot connect")?;
    stream.set_read_timeout(Some(timeout)).context("cannot set a timeout")?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )
    .context("cannot send")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("cannot receive")?;
    parse(&text).context("malformed answer")
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_found() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nno\r\n\r\n").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 503,
                body: "no\r\n\r\n".to_owned()
            }
        );
        assert_eq!(parse("HTTP/1.1 200 OK\r\n"), None);
    }
}
