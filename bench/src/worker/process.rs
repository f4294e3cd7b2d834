//! Workers as seen from the benchmark.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{Job, Outcome};
use crate::site::{Cgroup, Pod};

/// Serves as `worker` in the arguments of such a process.
pub const ARGUMENT: &str = "worker";

/// A process in a pod.
#[derive(Debug)]
pub struct Worker {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Starts a client in a pod, inside a cgroup or outside of any of ours.
pub fn client(pod: &Pod, cgroup: Option<&Cgroup>) -> Result<Worker> {
    Worker::start("the client", &["client".to_owned()], pod, cgroup, 0)
}

/// Starts a server in a pod, on the address of the pod.
pub fn server(pod: &Pod, cgroup: Option<&Cgroup>, number: u8) -> Result<Worker> {
    let arguments = ["server".to_owned(), number.to_string(), pod.address.to_string()];
    Worker::start(
        &format!("server {number}"),
        &arguments,
        pod,
        cgroup,
        usize::from(number),
    )
}

/// Arguments of a server, as [`server`] gives them.
pub fn parse_server(arguments: &[String]) -> Result<(u8, Ipv4Addr)> {
    let [number, address] = arguments else {
        bail!("a server takes its number and its address");
    };
    Ok((
        number.parse().context("not a number")?,
        address.parse().context("not an address")?,
    ))
}

impl Worker {
    /// `number` decides on which processor: the first for clients, the others in turn for servers, so that a round is like
    /// the next.
    fn start(what: &str, arguments: &[String], pod: &Pod, cgroup: Option<&Cgroup>, number: usize) -> Result<Self> {
        let processor = processors()?;
        let processor = match (number, processor.len()) {
            (0, _) | (_, 1) => processor[0],
            (number, count) => processor[1 + (number - 1) % (count - 1)],
        };
        let mut only = CpuSet::new();
        only.set(processor)
            .context("a processor beyond those known to the C library")?;
        let mut command = Command::new(std::env::current_exe().context("cannot find this executable")?);
        command
            .arg(ARGUMENT)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        pod.netns.enter(&mut command)?;
        let entrance = cgroup.map(Cgroup::entrance).transpose()?;
        let prepare = move || {
            if let Some(entrance) = &entrance {
                nix::unistd::write(entrance, b"0")?;
            }
            sched_setaffinity(Pid::from_raw(0), &only)?;
            // SAFETY: plain system calls without pointers, async-signal-safe. Signals from the terminal are the
            // benchmark's to handle; with its death these processes die.
            unsafe {
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            Ok(())
        };
        // SAFETY: `prepare` makes only async-signal-safe system calls on values made before the fork; it does not allocate.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut worker = Self {
            what: what.to_owned(),
            child,
            input,
            output: BufReader::new(output.context("a worker without output")?),
        };
        worker.expect("ready")?;
        Ok(worker)
    }

    /// Does a job.
    pub fn ask(&mut self, job: &Job) -> Result<Outcome> {
        self.begin(job)?;
        self.outcome()
    }

    /// Begins a watch, and returns when it looks.
    pub fn begin_watch(&mut self, job: &Job) -> Result<()> {
        self.begin(job)?;
        self.expect("begun")
    }

    fn begin(&mut self, job: &Job) -> Result<()> {
        let line = serde_json::to_string(job).context("cannot write a job")?;
        let input = self.input.as_mut().context("a worker without input")?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .with_context(|| format!("{} is gone", self.what))
    }

    /// What came of the job that was begun.
    pub fn outcome(&mut self) -> Result<Outcome> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.what))
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let line = self.line()?;
        if line.trim() != word {
            bail!("{} said {line:?} instead of {word:?}", self.what);
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self
            .output
            .read_line(&mut line)
            .with_context(|| format!("cannot read from {}", self.what))?;
        if length == 0 {
            bail!("{} ended (see above for its reason)", self.what);
        }
        Ok(line)
    }

    /// Processor time that the process has used, softirqs that ran on top of it included (/proc/PID/schedstat).
    pub fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
        nanoseconds
            .map(Duration::from_nanos)
            .with_context(|| format!("{path} says {text:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is the end of a worker.
        self.input = None;
        let patience = Instant::now() + Duration::from_secs(2);
        while Instant::now() < patience {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers of the processors this process may run on.
pub fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot tell the processors")?;
    let numbers: Vec<usize> = (0..CpuSet::count())
        .filter(|number| allowed.is_set(*number).unwrap_or(false))
        .collect();
    if numbers.is_empty() {
        bail!("no processor to run on");
    }
    Ok(numbers)
}
