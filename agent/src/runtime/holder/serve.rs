//! The holder's loop: requests, output, exits and deadlines, one after the other.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

use super::{
    container::{Container, Key},
    exec::Exec,
    protocol::{HolderConfig, Reply, Request, Start},
};

/// Longest request line, in bytes. Only the agent can connect; this bounds what a broken one can do.
const MAX_REQUEST: usize = 8 << 20;

/// A connected agent.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    watching: bool,
}

/// Everything the holder knows.
#[derive(Debug)]
pub(super) struct Holder {
    config: HolderConfig,
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    containers: BTreeMap<Key, Container>,
    execs: Vec<Exec>,
    /// Who is told when everything is dead; `Some` means that the holder is ending.
    ending: Option<Vec<u64>>,
    /// Held open: closing it would give up the lock by which the agent knows that this process lives.
    _lock: File,
}

impl Holder {
    /// A holder that serves `listener` and hears of its children through `signals`.
    pub fn new(config: HolderConfig, listener: UnixListener, signals: SignalFd, lock: File) -> Self {
        Self {
            config,
            listener,
            signals,
            connections: BTreeMap::new(),
            next_connection: 0,
            containers: BTreeMap::new(),
            execs: Vec::new(),
            ending: None,
            _lock: lock,
        }
    }

    /// Serves until told to end.
    pub fn run(mut self) -> ! {
        loop {
            self.wait();
            self.accept();
            self.take_signals();
            self.read_pipes();
            self.reap();
            self.keep_deadlines();
            self.converse();
            if self.ended() {
                std::process::exit(0);
            }
        }
    }

    /// Waits until there is something to do. What it is, everybody finds out by looking.
    fn wait(&self) {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.listener.as_fd()), readable(self.signals.as_fd())];
        for connection in self.connections.values() {
            let write = if connection.output.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::POLLOUT
            };
            fds.push(PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN | write));
        }
        let pipes = self
            .containers
            .values()
            .flat_map(Container::pipes)
            .chain(self.execs.iter().flat_map(Exec::pipes));
        fds.extend(
            pipes
                .filter_map(super::pipe::Pipe::fd)
                .map(|fd: BorrowedFd<'_>| readable(fd)),
        );
        let deadlines = self.containers.values().filter_map(|container| container.kill_at);
        let next = deadlines
            .chain(self.execs.iter().filter_map(|exec| exec.deadline))
            .min();
        let timeout = next.map_or(PollTimeout::NONE, |next| {
            // Rounded up, or the last millisecond would be spent spinning.
            let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // An error means that nothing is known to be ready; the rounds that follow do not depend on it.
        let _ = poll(&mut fds, timeout);
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let connection = Connection {
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    watching: false,
                };
                self.connections.insert(self.next_connection, connection);
                self.next_connection += 1;
            }
        }
    }

    /// SIGCHLD only wakes; SIGTERM ends; SIGINT and SIGHUP are meant for somebody else.
    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                self.end(None);
            }
        }
    }

    fn read_pipes(&mut self) {
        let mut changed = Vec::new();
        for (key, container) in &mut self.containers {
            if container.read() {
                changed.push(key.clone());
            }
        }
        for key in changed {
            self.announce(&key);
        }
        self.execs.iter_mut().for_each(Exec::read);
    }

    fn reap(&mut self) {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            let pid = status.pid();
            let container = self
                .containers
                .iter_mut()
                .find(|(_, container)| pid.is_some() && container.pid == pid);
            if let Some((key, container)) = container {
                let key = key.clone();
                container.reaped(status);
                self.announce(&key);
            } else if let Some(index) = self.execs.iter().position(|exec| Some(exec.pid) == pid) {
                let exec = self.execs.swap_remove(index);
                let connection = exec.connection;
                let reply = exec.reaped(status);
                self.reply(connection, &reply);
            }
            // Anything else is an orphan whose parent died: reaping it is all it needs.
        }
    }

    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        for container in self.containers.values_mut() {
            if container.kill_at.is_some_and(|at| at <= now) {
                container.kill_at = None;
                container.signal(Signal::SIGKILL);
            }
        }
        self.execs.iter_mut().for_each(|exec| exec.expire(now));
    }

    /// Reads and answers requests, sends what could not be sent before, and forgets who has gone.
    fn converse(&mut self) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let open = connection.receive();
            while let Some(line) = self.connections.get_mut(&id).and_then(Connection::line) {
                match serde_json::from_slice(&line) {
                    Ok(request) => self.handle(id, request),
                    Err(error) => self.reply(id, &Reply::Refused(format!("not a request: {error}"))),
                }
            }
            let sent = self.connections.get_mut(&id).is_some_and(Connection::send);
            if !open || !sent {
                self.connections.remove(&id);
                // Nobody will read how it ends.
                self.execs
                    .iter()
                    .filter(|exec| exec.connection == id)
                    .for_each(Exec::kill);
            }
        }
    }

    fn handle(&mut self, id: u64, request: Request) {
        match request {
            Request::Start(start) => self.start(id, *start),
            Request::Signal { container, signal } => match (self.running(&container), Signal::try_from(signal)) {
                (Ok(key), Ok(signal)) => {
                    self.containers[&key].signal(signal);
                    self.reply(id, &Reply::Done);
                }
                (Err(reply), _) => self.reply(id, &reply),
                (_, Err(_)) => self.reply(id, &Reply::Refused(format!("{signal} is not a signal"))),
            },
            Request::Stop { container, grace } => self.stop(id, &container, grace),
            Request::Exec { container, spec } => {
                let started = self.running(&container).and_then(|key| {
                    let container = &self.containers[&key];
                    let first = container.pid.ok_or(Reply::NotRunning)?;
                    let hostname = &self.config.spec.hostname;
                    Exec::start(&container.spec, hostname, &container.procs, first, &spec, id)
                        .map_err(|error| Reply::Refused(format!("cannot start a command: {error}")))
                });
                match started {
                    Ok(exec) => self.execs.push(exec),
                    Err(reply) => self.reply(id, &reply),
                }
            }
            Request::State => {
                let states = self
                    .containers
                    .values()
                    .map(|container| container.state.clone())
                    .collect();
                self.reply(id, &Reply::State(states));
            }
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.watching = true;
                }
                self.reply(id, &Reply::Changed);
            }
            Request::Shutdown => self.end(Some(id)),
        }
    }

    fn start(&mut self, id: u64, start: Start) {
        let key = (start.spec.name.clone(), start.spec.attempt);
        if let Some(container) = self.containers.get_mut(&key) {
            container.starters.push(id);
            self.settle(&key);
            return;
        }
        let running = self
            .containers
            .iter()
            .any(|((name, _), other)| *name == key.0 && other.pid.is_some());
        if self.ending.is_some() || running {
            let problem = if running {
                "an earlier attempt still runs"
            } else {
                "the sandbox is ending"
            };
            return self.reply(
                id,
                &Reply::Refused(format!("cannot start container \"{}\": {problem}", key.0)),
            );
        }
        // Earlier attempts stay on disk.
        self.containers.retain(|(name, _), _| *name != key.0);
        let limits = (self.config.log_max_bytes, self.config.log_max_files);
        match Container::start(start, &self.config.spec.hostname, limits) {
            Ok(mut container) => {
                container.starters.push(id);
                self.containers.insert(key, container);
            }
            Err(error) => self.reply(
                id,
                &Reply::Refused(format!("cannot start container \"{}\": {error}", key.0)),
            ),
        }
    }

    fn stop(&mut self, id: u64, name: &str, grace: Duration) {
        let Some((key, container)) = self.containers.iter_mut().rfind(|((other, _), _)| other == name) else {
            return self.reply(id, &Reply::NoContainer);
        };
        let key = key.clone();
        container.stoppers.push(id);
        if container.pid.is_some() {
            let at = Instant::now().checked_add(grace);
            // Asked again, it may be killed sooner than the first time, never later.
            let sooner = [container.kill_at, at].into_iter().flatten().min();
            if container.kill_at.is_none() {
                container.signal(Signal::SIGTERM);
            }
            container.kill_at = sooner;
        }
        self.settle(&key);
        self.keep_deadlines();
    }

    fn running(&self, name: &str) -> Result<Key, Reply> {
        let (key, container) = self
            .containers
            .iter()
            .rfind(|((other, _), _)| other == name)
            .ok_or(Reply::NoContainer)?;
        if container.state.running() {
            Ok(key.clone())
        } else {
            Err(Reply::NotRunning)
        }
    }

    /// Tells everybody about a container's new state.
    fn announce(&mut self, key: &Key) {
        self.settle(key);
        for connection in self.connections.values_mut().filter(|connection| connection.watching) {
            // One line unread says as much as ten.
            if connection.output.is_empty() {
                connection.queue(&Reply::Changed);
                connection.send();
            }
        }
    }

    /// Answers who waited for the state the container is in.
    fn settle(&mut self, key: &Key) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        let ended = container.pid.is_none();
        let mut answers = Vec::new();
        if ended || container.state.running() {
            let reply = match container.failure() {
                Some(failure) => Reply::StartFailed(failure.to_owned()),
                None => Reply::Container(Box::new(container.state.clone())),
            };
            answers.extend(
                std::mem::take(&mut container.starters)
                    .into_iter()
                    .map(|id| (id, reply.clone())),
            );
        }
        if ended {
            let reply = Reply::Container(Box::new(container.state.clone()));
            answers.extend(
                std::mem::take(&mut container.stoppers)
                    .into_iter()
                    .map(|id| (id, reply.clone())),
            );
        }
        for (id, reply) in answers {
            self.reply(id, &reply);
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.queue(reply);
            connection.send();
        }
    }

    /// Begins to end: everything is killed; `ended` does the rest.
    fn end(&mut self, id: Option<u64>) {
        self.containers
            .values()
            .for_each(|container| container.signal(Signal::SIGKILL));
        self.ending.get_or_insert_default().extend(id);
    }

    fn ended(&mut self) -> bool {
        if self.ending.is_none() || self.containers.values().any(|container| container.pid.is_some()) {
            return false;
        }
        for id in self.ending.take().unwrap_or_default() {
            self.reply(id, &Reply::Done);
        }
        true
    }
}

impl Connection {
    /// Reads what is there; false when the other end has gone or talks nonsense.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        while self.input.len() <= MAX_REQUEST {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Takes one line of the input.
    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        Some(self.input.drain(..=end).collect())
    }

    fn queue(&mut self, reply: &Reply) {
        let text = serde_json::to_vec(reply).expect("replies are plain data with text keys");
        self.output.extend(text);
        self.output.push(b'\n');
    }

    /// Sends what it can; false when the other end has gone.
    fn send(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}
