//! Targets against each other: what disturbs one disturbs the other.

use std::{io, os::fd::OwnedFd};

use super::{BLOCK_BYTES, BLOCKS, Job, KEEP, MESSAGE_BYTES, Outcome, Record, Target, counted, histogram, socket};
use crate::clock::now_ns;

/// Requests on each connection before times are recorded.
const WARM_UP: usize = 50;
/// Blocks on each connection before times are recorded.
const WARM_UP_BLOCKS: usize = 1;
/// As much of a block as one send takes.
const CHUNK_BYTES: usize = 128 * 1024;

/// Requests.
pub(super) fn requests(job: &Job) -> Outcome {
    in_turn(job, WARM_UP, |_| Ok(()), |socket, answer| ask(socket, KEEP, answer))
}

/// Blocks of bytes, each until its answer says that it has arrived.
pub(super) fn blocks(job: &Job) -> Outcome {
    let chunk = vec![0; CHUNK_BYTES];
    in_turn(
        job,
        WARM_UP_BLOCKS,
        |socket| {
            socket::fix_buffers(socket, BLOCK_BYTES)?;
            ask(socket, BLOCKS, &mut [0; MESSAGE_BYTES])
        },
        |socket, answer| {
            let mut left = BLOCK_BYTES;
            while left > 0 {
                left -= socket::send(socket, &chunk[..left.min(CHUNK_BYTES)])?;
            }
            socket::receive_all(socket, answer)
        },
    )
}

fn ask(socket: &OwnedFd, kind: u8, answer: &mut [u8; MESSAGE_BYTES]) -> io::Result<()> {
    let mut request = [0; MESSAGE_BYTES];
    request[0] = kind;
    socket::send(socket, &request)?;
    socket::receive_all(socket, answer)
}

/// One connection to each target, greeted; exchanges go over them in turn, in one order and then in the other, so that none is
/// always the first.
fn in_turn(
    job: &Job,
    warm_up: usize,
    greet: impl Fn(&OwnedFd) -> io::Result<()>,
    exchange: impl Fn(&OwnedFd, &mut [u8; MESSAGE_BYTES]) -> io::Result<()>,
) -> Outcome {
    let (mut record, begun) = (Record::new(), now_ns());
    let mut connections = Vec::new();
    for target in &job.targets {
        match open(target).and_then(|connection| greet(&connection).map(|()| connection)) {
            Ok(connection) => {
                record.outcome.opened += 1;
                connections.push((target, connection));
            }
            Err(error) => {
                record.error(target, &error);
                return record.finish(begun);
            }
        }
    }
    let mut times = vec![histogram(); connections.len()];
    let (begun, mut turn) = (now_ns(), 0);
    let end = begun + job.milliseconds * 1_000_000;
    while now_ns() < end && record.outcome.errors == 0 {
        for place in 0..connections.len() {
            let index = if turn % 2 == 0 {
                place
            } else {
                connections.len() - 1 - place
            };
            let (target, connection) = &connections[index];
            let mut answer = [0; MESSAGE_BYTES];
            let begun = now_ns();
            match exchange(connection, &mut answer) {
                Ok(()) => {
                    let nanoseconds = now_ns() - begun;
                    if record.answer(&answer, target) && turn >= warm_up {
                        times[index].saturating_record(nanoseconds);
                    }
                }
                Err(error) => record.error(target, &error),
            }
        }
        turn += 1;
    }
    let mut outcome = record.finish(begun);
    outcome.times_by_target = times.iter().map(counted).collect();
    outcome
}

fn open(target: &Target) -> io::Result<OwnedFd> {
    let socket = socket::open(libc::SOCK_STREAM)?;
    socket::limit_waiting(&socket)?;
    socket::no_delay(&socket)?;
    socket::reset_on_close(&socket)?;
    socket::connect(&socket, target.address)?;
    Ok(socket)
}
