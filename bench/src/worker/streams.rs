//! Bytes through one connection.

use std::io;

use super::{Job, MESSAGE_BYTES, Outcome, Record, SWALLOW, Target, socket};
use crate::clock::now_ns;

/// As much as one send takes.
const CHUNK_BYTES: usize = 128 * 1024;

/// Sends until the time is over; bytes count when the other end has taken them all.
pub(super) fn stream(job: &Job) -> Outcome {
    let (mut record, begun) = (Record::new(), now_ns());
    let Some(target) = job.targets.first() else {
        return record.finish(begun);
    };
    if let Err(error) = send_until(target, begun + job.milliseconds * 1_000_000, &mut record) {
        record.error(target, &error);
    }
    record.finish(begun)
}

fn send_until(target: &Target, end: u64, record: &mut Record) -> io::Result<()> {
    let socket = socket::open(libc::SOCK_STREAM)?;
    socket::limit_waiting(&socket)?;
    socket::connect(&socket, target.address)?;
    record.outcome.opened += 1;
    let mut message = [0; MESSAGE_BYTES];
    message[0] = SWALLOW;
    socket::send(&socket, &message)?;
    socket::receive_all(&socket, &mut message)?;
    record.answer(&message, target);
    let chunk = vec![0; CHUNK_BYTES];
    while now_ns() < end {
        record.outcome.bytes += socket::send(&socket, &chunk)? as u64;
    }
    socket::finish_sending(&socket)?;
    match socket::receive(&socket, &mut message)? {
        0 => Ok(()),
        _ => Err(io::Error::other("an answer to nothing")),
    }
}
