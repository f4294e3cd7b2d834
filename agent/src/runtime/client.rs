//! Talking to a holder.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    files::{PodDir, SOCKET},
    holder::protocol::{Reply, Request},
};

/// A conversation with a holder.
#[derive(Debug)]
pub(super) struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the holder of the sandbox in `dir`.
    pub async fn connect(dir: &PodDir) -> io::Result<Self> {
        // A socket's path may have 107 bytes at most, which a state directory can exceed: go through the open directory.
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&dir.0)?;
        let open = OwnedFd::from(open);
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd())).await?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            lines: BufReader::new(reader).lines(),
            writer,
        })
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        self.writer.write_all(&text).await?;
        self.next().await
    }

    /// The next line from the holder.
    pub async fn next(&mut self) -> io::Result<Reply> {
        let line = self.lines.next_line().await?;
        let line = line.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the holder hung up"))?;
        Ok(serde_json::from_str(&line)?)
    }
}
