//! Bytes through one connection.

use std::{io, os::fd::OwnedFd};

use super::{Job, MESSAGE_BYTES, Outcome, Record, SWALLOW, Target, socket};
use crate::clock::now_ns;

/// As much as one send takes.
const CHUNK_BYTES: usize = 128 * 1024;

/// Sends until the time is over, which begins when the connection is there; bytes count when the other end has taken them
/// all.
pub(super) fn stream(job: &Job) -> Outcome {
    let (mut record, mut begun) = (Record::new(), now_ns());
    let Some(target) = job.targets.first() else {
        return record.finish(begun);
    };
    match open(target, &mut record) {
        Ok(socket) => {
            begun = now_ns();
            if let Err(error) = send(&socket, begun + job.milliseconds * 1_000_000, &mut record) {
                record.error(target, &error);
            }
        }
        Err(error) => record.error(target, &error),
    }
    record.finish(begun)
}

/// A connection whose other end has said who it is.
fn open(target: &Target, record: &mut Record) -> io::Result<OwnedFd> {
    let socket = socket::open(libc::SOCK_STREAM)?;
    socket::limit_waiting(&socket)?;
    socket::connect(&socket, target.address)?;
    record.outcome.opened += 1;
    let mut message = [0; MESSAGE_BYTES];
    message[0] = SWALLOW;
    socket::send(&socket, &message)?;
    socket::receive_all(&socket, &mut message)?;
    record.answer(&message, target);
    Ok(socket)
}

fn send(socket: &OwnedFd, end: u64, record: &mut Record) -> io::Result<()> {
    let chunk = vec![0; CHUNK_BYTES];
    while now_ns() < end {
        record.outcome.bytes += socket::send(socket, &chunk)? as u64;
    }
    socket::finish_sending(socket)?;
    match socket::receive(socket, &mut [0; MESSAGE_BYTES])? {
        0 => Ok(()),
        _ => Err(io::Error::other("an answer to nothing")),
    }
}
