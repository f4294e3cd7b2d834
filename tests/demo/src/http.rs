//! As much HTTP/1.1 (RFC 9112) as both sides here need: request and status lines, `Content-Length` bodies, `Connection`.

use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result};

/// Longest head (start line and headers) that is read, in bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// Longest body that is read, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// An `http://` URL whose host is an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Where to connect.
    pub address: SocketAddr,
    /// Value of the `Host` header.
    pub host: String,
    /// Path and query, starting with `/`.
    pub path: String,
}

impl Url {
    /// Parses `http://ADDRESS[:PORT][/PATH]`; the port defaults to 80.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix("http://")
            .with_context(|| format!("{text:?} does not start with http://"))?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port {
            host.to_socket_addrs()
        } else {
            format!("{host}:80").to_socket_addrs()
        }
        .with_context(|| format!("bad address in {text:?}"))?
        .next()
        .with_context(|| format!("no address for {text:?}"))?;
        Ok(Self {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// A request as the server sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// Path without the query.
    pub path: String,
    query: String,
    /// Whether the client will send another request on this connection.
    pub keep_alive: bool,
}

impl Request {
    /// Reads one request and its body; `None` when the client closed between requests.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some((start, headers)) = read_head(reader)? else {
            return Ok(None);
        };
        let mut words = start.split_whitespace();
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(invalid("malformed request line"));
        };
        read_body(reader, &headers)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Ok(Some(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            keep_alive: stays_open(version, &headers),
        }))
    }

    /// Value of a query parameter, percent-decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, v)| decode(v))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// Whether the server will take another request on this connection.
    pub keep_alive: bool,
}

impl Response {
    /// An answer with a JSON or plain-text body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            keep_alive: true,
        }
    }

    /// Writes the answer with one system call.
    pub fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Service Unavailable",
        };
        let kind = if self.body.first() == Some(&b'{') {
            "application/json"
        } else {
            "text/plain"
        };
        let mut message = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        if !self.keep_alive {
            message.push_str("Connection: close\r\n");
        }
        message.push_str("\r\n");
        let mut bytes = message.into_bytes();
        bytes.extend_from_slice(&self.body);
        writer.write_all(&bytes)
    }

    /// Reads one answer.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let (start, headers) = read_head(reader)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))?;
        let mut words = start.split_whitespace();
        let (Some(version), Some(Ok(status))) = (words.next(), words.next().map(str::parse)) else {
            return Err(invalid("malformed status line"));
        };
        let keep_alive = stays_open(version, &headers);
        Ok(Self {
            status,
            body: read_body(reader, &headers)?,
            keep_alive,
        })
    }
}

/// Text of a request without a body.
pub fn request(method: &str, url: &Url, keep_alive: bool) -> String {
    let mut text = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", url.path, url.host);
    if !keep_alive {
        let _ = write!(text, "Connection: close\r\n");
    }
    text.push_str("\r\n");
    text
}

type Headers = Vec<(String, String)>;

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(String, Headers)>> {
    let mut head = reader.take(MAX_HEAD_BYTES);
    let mut start = String::new();
    if head.read_line(&mut start)? == 0 {
        return Ok(None);
    }
    let mut headers = Headers::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(invalid("head ends early or is too long"));
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some((start.trim_end().to_owned(), headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &Headers) -> io::Result<Vec<u8>> {
    let length = match header(headers, "content-length") {
        Some(text) => text.parse::<usize>().map_err(|_| invalid("bad Content-Length"))?,
        None => 0,
    };
    if length > MAX_BODY_BYTES {
        return Err(invalid("body too long"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn stays_open(version: &str, headers: &Headers) -> bool {
    match header(headers, "connection") {
        Some(value) if value.eq_ignore_ascii_case("close") => false,
        Some(value) if value.eq_ignore_ascii_case("keep-alive") => true,
        _ => version == "HTTP/1.1",
    }
}

fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        if let Some(value) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(value);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_means_port_80() {
        let url = Url::parse("http://10.96.0.7/a?b=c").unwrap();
        assert_eq!(url.address, "10.96.0.7:80".parse().unwrap());
        assert_eq!(url.path, "/a?b=c");
        assert_eq!(
            Url::parse("http://[::1]:8080").unwrap().address,
            "[::1]:8080".parse().unwrap()
        );
        assert!(Url::parse("https://10.96.0.7/").is_err());
    }

    #[test]
    fn two_requests_on_one_connection_are_told_apart() {
        let mut wire: &[u8] =
            b"POST /ready HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /fetch?url=http%3A%2F%2F10.0.0.1/&count=3 \
            HTTP/1.1\r\nConnection: close\r\n\r\n";
        let first = Request::read(&mut wire).unwrap().unwrap();
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.keep_alive),
            ("POST", "/ready", true)
        );
        let second = Request::read(&mut wire).unwrap().unwrap();
        assert_eq!(second.parameter("url").as_deref(), Some("http://10.0.0.1/"));
        assert_eq!(second.parameter("count").as_deref(), Some("3"));
        assert!(!second.keep_alive);
        assert_eq!(Request::read(&mut wire).unwrap(), None);
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let mut wire: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort";
        assert!(Response::read(&mut wire).is_err());
    }
}
