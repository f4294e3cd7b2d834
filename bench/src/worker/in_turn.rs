//! Targets against each other: what disturbs one disturbs the other.

use std::{io, os::fd::OwnedFd};

use super::{Job, KEEP, MESSAGE_BYTES, Outcome, Record, Target, counted, histogram, socket};
use crate::clock::now_ns;

/// Requests on each connection before times are recorded.
const WARM_UP: usize = 50;

/// One connection to each target; requests go over them in turn, in one order and then in the other, so that none is always the
/// first.
pub(super) fn requests(job: &Job) -> Outcome {
    let (mut record, begun) = (Record::new(), now_ns());
    let mut connections = Vec::new();
    for target in &job.targets {
        match open(target) {
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
            match ask(connection, &mut answer) {
                Ok(nanoseconds) => {
                    if record.answer(&answer, target) && turn >= WARM_UP {
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

fn ask(socket: &OwnedFd, answer: &mut [u8]) -> io::Result<u64> {
    let mut request = [0; MESSAGE_BYTES];
    request[0] = KEEP;
    let begun = now_ns();
    socket::send(socket, &request)?;
    socket::receive_all(socket, answer)?;
    Ok(now_ns() - begun)
}
