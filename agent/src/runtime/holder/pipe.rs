//! Pipes the holder reads from without waiting.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::{pipe2, read},
};

/// The reading end of a pipe, until its last writer is gone.
#[derive(Debug)]
pub(super) struct Pipe(Option<OwnedFd>);

impl Pipe {
    /// A pipe: the end to read, which never blocks, and the end to write.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self(Some(reader)), writer))
    }

    /// The descriptor to wait for; `None` once closed.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Hands what is there to `take`; false once the pipe is closed. Reads a bounded amount, so that one busy pipe does not
    /// starve the others.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> bool {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..16 {
            let Some(fd) = &self.0 else { return false };
            match read(fd, &mut buffer) {
                Ok(0) => self.0 = None,
                Ok(length) => take(&buffer[..length]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => self.0 = None,
            }
        }
        self.0.is_some()
    }

    /// Reads all there is, after the last writer is dead, and closes.
    pub fn drain(&mut self, mut take: impl FnMut(&[u8])) {
        // A pipe holds at most 1 MiB (fs.pipe-max-size); a writer outside our reach must not keep us here.
        for _ in 0..8 {
            if !self.read(&mut take) {
                break;
            }
        }
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    #[test]
    fn what_is_written_comes_out_and_the_end_is_noticed() {
        let (mut pipe, writer) = Pipe::new().unwrap();
        let mut got = Vec::new();
        assert!(pipe.read(|bytes| got.extend_from_slice(bytes)));
        let mut writer = File::from(writer);
        writer.write_all(b"abc").unwrap();
        assert!(pipe.read(|bytes| got.extend_from_slice(bytes)));
        writer.write_all(b"def").unwrap();
        drop(writer);
        pipe.drain(|bytes| got.extend_from_slice(bytes));
        assert_eq!((got, pipe.fd().is_none()), (b"abcdef".to_vec(), true));
    }
}
