//! From fork to exec: what a container's first process, or a command in a running container, does before its program runs.
//!
//! The holder has one thread, so a forked child may allocate and use the standard library. Whatever fails is told through
//! the report pipe and becomes the caller's error message.

use std::{
    ffi::CString,
    fmt::Display,
    fs,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, execve, fchown, setgroups, setresgid, setresuid, setsid},
};

use super::{caps, rootfs, seccomp, user};
use crate::runtime::{files::AttemptDir, spec::ContainerSpec};

/// Sent just before the program is executed: an empty report means that the child died before.
pub(super) const READY: &str = "ready\n";

/// `PATH` of a container whose image and pod name none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Open files a container may have.
const MAX_FILES: u64 = 1_048_576;

/// Why a program could not be run.
#[derive(Debug)]
pub(super) struct Failure(pub String);

impl Failure {
    pub fn new(what: impl Display, error: Errno) -> Self {
        Self(format!("{what}: {}", describe(error)))
    }
}

/// Names the step at which something failed.
pub(super) trait Step<T> {
    fn step(self, what: impl Display) -> Result<T, Failure>;
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(what, error))
    }
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(code) => Failure::new(what, Errno::from_raw(code)),
            None => Failure(format!("{what}: {error}")),
        })
    }
}

/// The C library's words, in lower case.
fn describe(error: Errno) -> String {
    let text = error.desc();
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().collect::<String>() + chars.as_str())
        .unwrap_or_default()
}

/// What a child is to become.
#[derive(Debug)]
pub(super) struct Program<'a> {
    pub spec: &'a ContainerSpec,
    pub hostname: &'a str,
    pub procs: &'a [PathBuf],
    pub place: Place<'a>,
    /// Standard output, standard error.
    pub output: [OwnedFd; 2],
    pub report: OwnedFd,
}

/// Where it runs.
#[derive(Debug)]
pub(super) enum Place<'a> {
    /// A root of its own: the container's first process, whose mount and PID namespaces exist already.
    New(&'a AttemptDir),
    /// Beside the first process: its mount and cgroup namespaces, to be joined, and the command.
    Beside {
        mnt: BorrowedFd<'a>,
        cgroup: BorrowedFd<'a>,
        argv: &'a [String],
    },
}

/// Runs in the forked child: becomes the program or says why not.
pub(super) fn run(program: &Program<'_>) -> ! {
    // The error type says it: there is no success to return.
    let Err(failure) = prepare(program);
    drop((&fs::File::from(duplicate(&program.report))).write_all(failure.0.as_bytes()));
    // SAFETY: `_exit` ends the process without running anything of the holder's this copy inherited.
    unsafe { libc::_exit(128) }
}

fn duplicate(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap_or_else(|_| {
        // SAFETY: as in `run`; without a descriptor there is nothing left to say.
        unsafe { libc::_exit(128) }
    })
}

fn prepare(program: &Program<'_>) -> Result<std::convert::Infallible, Failure> {
    let spec = program.spec;
    // Group numbers and paths are used as given, not as the holder's umask has it.
    umask(Mode::empty());
    default_signals().step("reset signals")?;
    setsid().step("start a session")?;
    make_unobservable().step("hide from the container")?;
    for file in program.procs {
        fs::write(file, "0").step(format!("enter cgroup file {}", file.display()))?;
    }
    set_oom_score(spec.oom_score_adj).step("set oom_score_adj")?;
    raise_file_limit().step("set the limit of open files")?;
    let argv = match program.place {
        Place::New(dir) => {
            unshare(CloneFlags::CLONE_NEWCGROUP).step("make a cgroup namespace")?;
            rootfs::enter(spec, dir, program.procs.len() == 1)?;
            make_working_directory(&spec.cwd)?;
            rootfs::seal(spec)?;
            &spec.argv[..]
        }
        Place::Beside { mnt, cgroup, argv } => {
            setns(cgroup, CloneFlags::CLONE_NEWCGROUP).step("join the container's cgroup namespace")?;
            setns(mnt, CloneFlags::CLONE_NEWNS).step("join the container's mount namespace")?;
            argv
        }
    };
    let identity = user::resolve(&spec.user, &read("/etc/passwd"), &read("/etc/group")).map_err(Failure)?;
    let environment = environment(spec, program.hostname, &identity.home);
    standard_streams(program, &identity)?;
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    umask(Mode::from_bits_truncate(0o022));
    give_up_privileges(spec, &identity)?;
    // As the user itself: a directory it may not enter is an error here and not a surprise later.
    std::env::set_current_dir(cwd).step(format!("enter working directory {cwd}"))?;
    close_others(&program.report).step("close inherited files")?;
    (&fs::File::from(duplicate(&program.report)))
        .write_all(READY.as_bytes())
        .step("report")?;
    Err(execute(argv, &environment, &spec.image))
}

/// Signals as a new program expects them: nothing blocked, nothing ignored. The C library keeps 32 and 33 to itself and would
/// pass on whether whoever started the agent ignored them: hence the system call.
fn default_signals() -> nix::Result<()> {
    /// The kernel's struct sigaction: handler, flags, restorer, mask. All zero is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        // SAFETY: the kernel reads one struct sigaction with a mask of 8 bytes, which `DEFAULT` is long enough for, and writes
        // no old one. The default action runs no code of ours.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
        Errno::result(result)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Until its program runs this process is a copy of the holder: no process of the container may trace it or use what it
/// has open.
fn make_unobservable() -> nix::Result<()> {
    nix::sys::prctl::set_dumpable(false)
}

/// Sets this process's `oom_score_adj`. An agent without `CAP_SYS_RESOURCE` can only raise it: then it stays where it is.
pub(super) fn set_oom_score(score: i32) -> io::Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    match fs::write(FILE, score.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let now = fs::read_to_string(FILE)?
                .trim()
                .parse::<i32>()
                .map_err(io::Error::other)?;
            if score < now { Ok(()) } else { Err(error) }
        }
        result => result,
    }
}

/// Lets the program have [`MAX_FILES`] open files, or as many as this process may give.
fn raise_file_limit() -> nix::Result<()> {
    let most = match setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES) {
        Err(Errno::EPERM) => getrlimit(Resource::RLIMIT_NOFILE)?.1,
        result => return result,
    };
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
}

fn make_working_directory(cwd: &str) -> Result<(), Failure> {
    if cwd.is_empty() {
        return Ok(());
    }
    umask(Mode::from_bits_truncate(0o022));
    let made = fs::create_dir_all(cwd);
    umask(Mode::empty());
    made.step(format!("make working directory {cwd}"))
}

/// A file of the container's; empty when there is none.
fn read(path: &str) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn environment(spec: &ContainerSpec, hostname: &str, home: &str) -> Vec<(String, String)> {
    let defaults = [("PATH", DEFAULT_PATH), ("HOSTNAME", hostname), ("HOME", home)];
    let absent = defaults
        .iter()
        .filter(|(name, _)| spec.env.iter().all(|(other, _)| other != name));
    let absent = absent.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    absent.chain(spec.env.iter().cloned()).collect()
}

/// Standard input reads nothing; output goes to the holder. The pipes belong to the user, who may open `/dev/stdout` anew.
fn standard_streams(program: &Program<'_>, identity: &user::Identity) -> Result<(), Failure> {
    let null = fs::File::open("/dev/null").step("open /dev/null")?;
    let [out, err] = &program.output;
    for (from, to) in [(null.as_fd(), 0), (out.as_fd(), 1), (err.as_fd(), 2)] {
        if to > 0 {
            fchown(
                from,
                Some(Uid::from_raw(identity.uid)),
                Some(Gid::from_raw(identity.gid)),
            )
            .step("hand over output")?;
        }
        // SAFETY: both numbers are valid descriptor numbers; 0 to 2 belong to nobody in this process who would miss them.
        Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) }).step("connect the standard streams")?;
    }
    Ok(())
}

fn give_up_privileges(spec: &ContainerSpec, identity: &user::Identity) -> Result<(), Failure> {
    let security = &spec.security;
    let caps = if security.privileged {
        caps::Caps::ALL
    } else {
        caps::effective(&security.add_capabilities, &security.drop_capabilities).map_err(Failure)?
    };
    let filters = if security.privileged {
        Vec::new()
    } else {
        seccomp::filters(caps).map_err(Failure)?
    };
    let sealed = !security.allow_privilege_escalation && !security.privileged;
    let install = || {
        filters
            .iter()
            .try_for_each(seccomp::install)
            .step("install the seccomp filter")
    };

    caps::bound(caps).step("limit capabilities")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let groups: Vec<_> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).step("set groups")?;
    setresgid(gid, gid, gid).step(format!("become group {gid}"))?;
    if sealed {
        nix::sys::prctl::set_no_new_privs().step("set no_new_privs")?;
    } else {
        // Without no_new_privs a filter takes CAP_SYS_ADMIN, which is about to go.
        install()?;
    }
    setresuid(uid, uid, uid).step(format!("become user {uid}"))?;
    if uid.is_root() {
        caps::set(caps).step("set capabilities")?;
    }
    // Changing users clears it, so it comes last: a container does not outlive its holder.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step("tie to the holder")?;
    if sealed { install() } else { Ok(()) }
}

/// Marks every descriptor but the standard streams to be closed by exec, the report's as well: its closing is the good news.
fn close_others(_report: &OwnedFd) -> nix::Result<()> {
    // SAFETY: only sets the close-on-exec flag of descriptors; nothing is closed under its owner's feet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Replaces this process by the program; returns only when that failed.
fn execute(argv: &[String], environment: &[(String, String)], image: &str) -> Failure {
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        return Failure(format!("neither the pod nor image {image} says what to run"));
    };
    let texts = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let variables = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let (Ok(arguments), Ok(variables)) = (texts(argv.to_vec()), texts(variables)) else {
        return Failure(format!("exec {name}: a NUL byte in the arguments or the environment"));
    };
    let path = environment
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_PATH, |(_, path)| path);
    let mut error = Errno::ENOENT;
    for candidate in candidates(name, path) {
        let Ok(file) = CString::new(candidate.into_os_string().into_encoded_bytes()) else {
            continue;
        };
        let Err(problem) = execve(&file, &arguments, &variables);
        // A file that is there but cannot be executed says more than all those that are not.
        if !matches!(problem, Errno::ENOENT | Errno::ENOTDIR) {
            error = problem;
        }
    }
    Failure(format!("exec {name}: {} in image {image}", describe(error)))
}

/// Files that `name` may mean.
fn candidates(name: &str, path: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_the_containers_path() {
        assert_eq!(candidates("/bin/x", "/a:/b"), [Path::new("/bin/x")]);
        assert_eq!(candidates("./x", "/a"), [Path::new("./x")]);
        assert_eq!(candidates("x", "/a:/b"), [Path::new("/a/x"), Path::new("/b/x")]);
    }

    #[test]
    fn defaults_fill_the_environment_without_overriding() {
        let spec = ContainerSpec {
            env: vec![("HOME".into(), "/x".into())],
            ..ContainerSpec::default()
        };
        let got = environment(&spec, "web-1", "/root");
        let find = |name: &str| {
            got.iter()
                .filter(|(other, _)| other == name)
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (find("HOME"), find("HOSTNAME"), find("PATH")),
            (vec!["/x"], vec!["web-1"], vec![DEFAULT_PATH])
        );
    }

    #[test]
    fn errors_read_as_sentences() {
        assert_eq!(
            Failure::new("exec /foo", Errno::ENOENT).0,
            "exec /foo: no such file or directory"
        );
    }
}
