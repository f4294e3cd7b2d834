//! The client's main loop, and the tasks that do one thing at a time.

use std::io::{self, BufRead as _};

use anyhow::{Context as _, Result};

use super::{CLOSE, Job, KEEP, MESSAGE_BYTES, Outcome, Record, Target, Task, connections, in_turn, socket, streams};
use crate::clock::now_ns;

/// So many answers in a row by the server sought end a watch.
const WATCH_SETTLED: u32 = 20;
/// So many answers before a watch says that it has begun.
const WATCH_WARM: u64 = 20;

/// Does jobs until standard input ends.
pub fn run() -> Result<()> {
    let mut output = io::stdout();
    say(&mut output, "ready")?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read a job")?;
        let job: Job = serde_json::from_str(&line).with_context(|| format!("not a job: {line}"))?;
        let outcome = perform(&job, || say(&mut output, "begun"))?;
        say(
            &mut output,
            &serde_json::to_string(&outcome).context("cannot write an outcome")?,
        )?;
    }
    Ok(())
}

fn say(output: &mut impl io::Write, line: &str) -> Result<()> {
    writeln!(output, "{line}").context("nobody reads")?;
    output.flush().context("nobody reads")
}

fn perform(job: &Job, begun: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    Ok(match job.task {
        Task::Connect => connect_in_turn(job, KEEP),
        Task::Churn => connect_in_turn(job, CLOSE),
        Task::Connections => connections::short(job).context("cannot wait for connections")?,
        Task::KeepAlive => connections::keep_alive(job).context("cannot wait for answers")?,
        Task::Stream => streams::stream(job),
        Task::Udp => udp(job),
        Task::InTurn => in_turn::requests(job),
        Task::StreamsInTurn => in_turn::blocks(job),
        Task::WatchFor(server) => watch(job, server, begun)?,
    })
}

fn end_of(job: &Job, begun: u64) -> u64 {
    begun + job.milliseconds * 1_000_000
}

fn connect_in_turn(job: &Job, kind: u8) -> Outcome {
    let (mut record, begun) = (Record::new(), now_ns());
    let end = end_of(job, begun);
    let mut targets = job.targets.iter().cycle();
    while let Some(target) = targets.next().filter(|_| now_ns() < end) {
        let mut answer = [0; MESSAGE_BYTES];
        match short_connection(target, kind, &mut answer) {
            Ok(nanoseconds) => {
                record.outcome.opened += 1;
                if record.answer(&answer, target) {
                    record.time(nanoseconds);
                }
            }
            Err(error) => record.error(target, &error),
        }
        if record.outcome.errors > 10 {
            break;
        }
    }
    record.finish(begun)
}

/// Connects, asks, and resets, or waits until the server has closed; answers the time that `connect` took.
fn short_connection(target: &Target, kind: u8, answer: &mut [u8]) -> io::Result<u64> {
    let socket = socket::open(libc::SOCK_STREAM)?;
    socket::limit_waiting(&socket)?;
    if kind == KEEP {
        socket::reset_on_close(&socket)?;
    }
    let begun = now_ns();
    socket::connect(&socket, target.address)?;
    let took = now_ns() - begun;
    let mut request = [0; MESSAGE_BYTES];
    request[0] = kind;
    socket::send(&socket, &request)?;
    socket::receive_all(&socket, answer)?;
    if kind == CLOSE && socket::receive(&socket, &mut [0])? > 0 {
        return Err(io::Error::other("more than an answer"));
    }
    Ok(took)
}

fn udp(job: &Job) -> Outcome {
    let (mut record, begun) = (Record::new(), now_ns());
    let end = end_of(job, begun);
    let mut targets = job.targets.iter().cycle();
    while let Some(target) = targets.next().filter(|_| now_ns() < end) {
        let mut answer = [0; MESSAGE_BYTES];
        match exchange(target, &mut answer) {
            Ok((nanoseconds, received)) => {
                record.outcome.opened += 1;
                if record.answer(&answer[..received], target) {
                    record.time(nanoseconds);
                }
            }
            Err(error) => record.error(target, &error),
        }
        if record.outcome.errors > 10 {
            break;
        }
    }
    record.finish(begun)
}

/// Asks from a new socket, as a resolver does; answers the time from the making of the socket to the answer.
fn exchange(target: &Target, answer: &mut [u8]) -> io::Result<(u64, usize)> {
    let begun = now_ns();
    let socket = socket::open(libc::SOCK_DGRAM)?;
    socket::limit_waiting(&socket)?;
    socket::connect(&socket, target.address)?;
    socket::send(&socket, &[0; MESSAGE_BYTES])?;
    let received = socket::receive(&socket, answer)?;
    Ok((now_ns() - begun, received))
}

fn watch(job: &Job, sought: u8, begun_watching: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    let (mut record, begun) = (Record::new(), now_ns());
    let end = end_of(job, begun);
    let (mut in_a_row, mut say_begun) = (0, Some(begun_watching));
    let mut targets = job.targets.iter().cycle();
    while let Some(target) = targets.next().filter(|_| now_ns() < end && in_a_row < WATCH_SETTLED) {
        let mut answer = [0; MESSAGE_BYTES];
        let start = now_ns();
        match short_connection(target, KEEP, &mut answer) {
            Ok(_) => {
                record.outcome.opened += 1;
                record.answer(&answer, target);
                if answer[1] == sought {
                    in_a_row += 1;
                    record.outcome.changed_at_ns.get_or_insert(start);
                } else {
                    (in_a_row, record.outcome.changed_at_ns) = (0, None);
                }
            }
            Err(error) => record.error(target, &error),
        }
        if record.outcome.done >= WATCH_WARM
            && let Some(say_begun) = say_begun.take()
        {
            say_begun()?;
        }
    }
    if let Some(say_begun) = say_begun {
        say_begun()?;
    }
    if in_a_row < WATCH_SETTLED {
        record.outcome.changed_at_ns = None;
    }
    Ok(record.finish(begun))
}
