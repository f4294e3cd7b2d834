//! Many connections at a time, on one thread: the processor is the limit, not the waiting.

use std::{io, os::fd::OwnedFd};

use super::{
    Job, KEEP, MESSAGE_BYTES, Outcome, Record, Target,
    epoll::{Epoll, READ, WRITE},
    socket,
};
use crate::clock::now_ns;

/// Short connections under way.
const SHORT: usize = 16;
/// Open connections that ask again and again.
const KEPT: usize = 8;
/// No event for so long is an error.
const PATIENCE_MILLISECONDS: i32 = socket::PATIENCE_SECONDS as i32 * 1_000;

/// A connection under way.
struct Slot<'a> {
    socket: OwnedFd,
    target: &'a Target,
    state: State,
    answer: [u8; MESSAGE_BYTES],
    got: usize,
    asked_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Waiting,
}

/// What happened to a connection.
enum Step {
    GoesOn,
    Answered,
    Over,
}

/// Connections with one request each.
pub(super) fn short(job: &Job) -> io::Result<Outcome> {
    let (mut record, begun) = (Record::new(), now_ns());
    let end = begun + job.milliseconds * 1_000_000;
    let mut epoll = Epoll::new()?;
    let mut targets = job.targets.iter().cycle();
    let mut slots: Vec<Option<Slot<'_>>> = (0..SHORT)
        .map(|token| open(&epoll, token, targets.next()?, &mut record))
        .collect();
    let mut ready = Vec::new();
    while slots.iter().any(Option::is_some) && record.outcome.errors < 10 {
        epoll.wait(PATIENCE_MILLISECONDS, &mut ready)?;
        give_up_if_nothing(&ready, &slots, &mut record);
        for token in ready.iter().map(|token| *token as usize) {
            let Some(slot) = slots[token].as_mut() else { continue };
            match slot.advance(&epoll, token, KEEP) {
                Ok(Step::GoesOn) => continue,
                Ok(Step::Answered) => drop(record.answer(&slot.answer, slot.target)),
                Ok(Step::Over) => record.error(slot.target, &io::ErrorKind::UnexpectedEof.into()),
                Err(error) => record.error(slot.target, &error),
            }
            slots[token] = None;
            if now_ns() < end {
                slots[token] = targets
                    .next()
                    .and_then(|target| open(&epoll, token, target, &mut record));
            }
        }
    }
    Ok(record.finish(begun))
}

/// Requests on connections that stay.
pub(super) fn keep_alive(job: &Job) -> io::Result<Outcome> {
    let mut record = Record::new();
    let mut epoll = Epoll::new()?;
    let mut targets = job.targets.iter().cycle();
    let mut slots: Vec<Option<Slot<'_>>> = (0..KEPT)
        .map(|token| open(&epoll, token, targets.next()?, &mut record))
        .collect();
    let begun = now_ns();
    let end = begun + job.milliseconds * 1_000_000;
    let mut ready = Vec::new();
    while slots.iter().any(Option::is_some) && record.outcome.errors < 10 {
        epoll.wait(PATIENCE_MILLISECONDS, &mut ready)?;
        give_up_if_nothing(&ready, &slots, &mut record);
        for token in ready.iter().map(|token| *token as usize) {
            let Some(slot) = slots[token].as_mut() else { continue };
            match slot.advance(&epoll, token, KEEP) {
                Ok(Step::GoesOn) => {}
                Ok(Step::Answered) => {
                    let now = now_ns();
                    if record.answer(&slot.answer, slot.target) {
                        record.time(now - slot.asked_ns);
                    }
                    if now >= end {
                        slots[token] = None;
                    } else if let Err(error) = slot.ask(KEEP) {
                        record.error(slot.target, &error);
                        slots[token] = None;
                    }
                }
                Ok(Step::Over) => {
                    record.error(slot.target, &io::ErrorKind::UnexpectedEof.into());
                    slots[token] = None;
                }
                Err(error) => {
                    record.error(slot.target, &error);
                    slots[token] = None;
                }
            }
        }
    }
    Ok(record.finish(begun))
}

fn give_up_if_nothing(ready: &[u64], slots: &[Option<Slot<'_>>], record: &mut Record) {
    if ready.is_empty() {
        for slot in slots.iter().flatten() {
            record.error(slot.target, &io::ErrorKind::TimedOut.into());
        }
        // Enough for the loop to end, whatever the number of connections.
        record.outcome.errors = record.outcome.errors.max(10);
    }
}

fn open<'a>(epoll: &Epoll, token: usize, target: &'a Target, record: &mut Record) -> Option<Slot<'a>> {
    let opened = socket::open(libc::SOCK_STREAM | libc::SOCK_NONBLOCK).and_then(|socket| {
        socket::reset_on_close(&socket)?;
        match socket::connect(&socket, target.address) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        epoll.add(&socket, WRITE, token as u64)?;
        Ok(socket)
    });
    match opened {
        Ok(socket) => {
            record.outcome.opened += 1;
            Some(Slot {
                socket,
                target,
                state: State::Connecting,
                answer: [0; MESSAGE_BYTES],
                got: 0,
                asked_ns: 0,
            })
        }
        Err(error) => {
            record.error(target, &error);
            None
        }
    }
}

impl Slot<'_> {
    fn ask(&mut self, kind: u8) -> io::Result<()> {
        let mut request = [0; MESSAGE_BYTES];
        request[0] = kind;
        self.got = 0;
        self.asked_ns = now_ns();
        socket::send(&self.socket, &request).map(drop)
    }

    /// Something has happened on the socket.
    fn advance(&mut self, epoll: &Epoll, token: usize, kind: u8) -> io::Result<Step> {
        if self.state == State::Connecting {
            socket::connect_error(&self.socket)?;
            self.state = State::Waiting;
            epoll.change(&self.socket, READ, token as u64)?;
            self.ask(kind)?;
            return Ok(Step::GoesOn);
        }
        let mut buffer = [0; MESSAGE_BYTES];
        let received = socket::receive(&self.socket, &mut buffer)?;
        if received == 0 {
            return Ok(Step::Over);
        }
        if self.got + received > MESSAGE_BYTES {
            return Err(io::Error::other("more than an answer"));
        }
        self.answer[self.got..self.got + received].copy_from_slice(&buffer[..received]);
        self.got += received;
        Ok(if self.got == MESSAGE_BYTES {
            Step::Answered
        } else {
            Step::GoesOn
        })
    }
}
