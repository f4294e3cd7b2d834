//! Becoming a holder: away from the agent, into namespaces of its own.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::Write,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, net::UnixListener},
    },
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::waitpid,
    },
    unistd::{ForkResult, fork, sethostname, setsid},
};

use super::{
    child::{Failure, Step, set_oom_score},
    protocol::{Greeting, HolderConfig},
    rootfs, serve,
};
use crate::runtime::files::{self, PodDir, SOCKET};

/// The holder goes after everything else when memory runs out: it is small, and its death kills the pod.
const OOM_SCORE_ADJ: i32 = -998;

/// Runs the holder of the sandbox in `dir`. The process that was started ends at once; its grandchild is the holder.
pub(super) fn run(dir: &Path, sealed: bool) -> ! {
    if !sealed {
        let failure = seal(dir);
        fail(&failure);
    }
    // SAFETY: nothing but the standard streams is ours yet: what else is open came from the agent by accident.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0) };
    if let Err(failure) = detach() {
        fail(&failure);
    }
    match set_up(dir) {
        Ok(holder) => {
            greet(&Greeting::Ready(std::process::id()));
            match leave_streams() {
                Ok(()) => holder.run(),
                Err(failure) => fail(&failure),
            }
        }
        Err(failure) => fail(&failure),
    }
}

/// Executes this executable again through a read-only mount of it. A container's program may have been chosen so that the kernel
/// runs *this* file inside the container (`#!/proc/self/exe`); through such a mount it cannot be overwritten from there.
fn seal(dir: &Path) -> Failure {
    let execute = || -> Result<std::convert::Infallible, Failure> {
        let exe = fs::read_link("/proc/self/exe").step("find the executable")?;
        let tree = rootfs::clone_tree(&exe).step(format!("open {}", exe.display()))?;
        rootfs::set_attributes(&tree, libc::MOUNT_ATTR_RDONLY).step("protect the executable")?;
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Failure("a NUL byte in a path".to_owned()));
        let arguments = [
            text(super::ARGV0.as_bytes())?,
            text(dir.as_os_str().as_bytes())?,
            text(super::SEALED.as_bytes())?,
        ];
        let none: [CString; 0] = [];
        nix::unistd::execveat(&tree, c"", &arguments, &none, nix::fcntl::AtFlags::AT_EMPTY_PATH)
            .step(format!("execute {}", exe.display()))
    };
    let Err(failure) = execute();
    failure
}

fn fail(failure: &Failure) -> ! {
    greet(&Greeting::Failed(failure.0.clone()));
    std::process::exit(1)
}

/// Tells whoever started it. Nobody listening is no reason to give up: a restarted agent will find the holder.
fn greet(greeting: &Greeting) {
    let text = serde_json::to_vec(greeting).unwrap_or_default();
    drop(
        std::io::stdout()
            .write_all(&text)
            .and_then(|()| std::io::stdout().flush()),
    );
}

/// Leaves the agent's session and its parenthood, so that neither its end nor a signal to its group is felt.
fn detach() -> Result<(), Failure> {
    for generation in 0..2 {
        // SAFETY: this process has one thread.
        if let ForkResult::Parent { child } = unsafe { fork() }.step("fork")? {
            if generation == 0 {
                // It ends at once. Nobody else would reap it where process 1 does not.
                let _ = waitpid(child, None);
            }
            // SAFETY: `_exit` runs nothing; the child goes on with everything that was set up.
            unsafe { libc::_exit(0) }
        }
        let _ = setsid();
    }
    Ok(())
}

fn set_up(dir: &Path) -> Result<serve::Holder, Failure> {
    std::env::set_current_dir(dir).step(format!("enter {}", dir.display()))?;
    let here = PodDir(std::path::PathBuf::from("."));
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(here.lock())
        .step("open holder.lock")?;
    if !files::lock(&lock).step("lock holder.lock")? {
        return Err(Failure("this sandbox has a holder already".to_owned()));
    }
    let config: Option<HolderConfig> = files::read_json(&here.holder_config()).step("read holder.json")?;
    let config = config.ok_or_else(|| Failure("holder.json is gone".to_owned()))?;
    // From here on, removing the sandbox kills this process with the cgroup; before, the missing cgroup ends it here.
    for file in &config.procs {
        fs::write(file, "0").step(format!("enter cgroup file {}", file.display()))?;
    }
    let _ = nix::sys::prctl::set_name(&CString::new(super::ARGV0).unwrap_or_default());
    nix::sys::prctl::set_child_subreaper(true).step("become a subreaper")?;
    set_oom_score(OOM_SCORE_ADJ).step("set oom_score_adj")?;
    // Before any namespace changes: signals wait for the loop from now on.
    let signals = signals()?;
    let own_network = !config.spec.host_network;
    let mut namespaces = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
    if own_network {
        namespaces |= CloneFlags::CLONE_NEWNET;
    }
    unshare(namespaces).step("make namespaces")?;
    sethostname(&config.spec.hostname).step(format!("set host name \"{}\"", config.spec.hostname))?;
    // What the node unmounts is to go here as well; nothing mounted here is to be seen there.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .step("separate mounts")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(
        Some("shm"),
        &here.shm(),
        Some("tmpfs"),
        flags,
        Some("mode=1777,size=65536k"),
    )
    .step("mount the pod's shared memory")?;
    if own_network {
        loopback_up().step("bring up the loopback device")?;
    }
    let socket = Path::new(SOCKET);
    match fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).step("remove an old socket"),
        _ => {}
    }
    let listener = UnixListener::bind(socket).step("listen")?;
    listener.set_nonblocking(true).step("listen")?;
    Ok(serve::Holder::new(config, listener, signals, lock))
}

fn signals() -> Result<SignalFd, Failure> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().step("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).step("make a signal file")
}

/// `lo` with its addresses is there in a new network namespace, but down.
fn loopback_up() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which `request` is and which lives through the call.
    nix::Error::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

/// Lets go of the agent's pipe. Panics go to a file.
fn leave_streams() -> Result<(), Failure> {
    let null = File::open("/dev/null").step("open /dev/null")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open("holder.log")
        .step("open holder.log")?;
    for (file, number) in [(&null, 0), (&log, 1), (&log, 2)] {
        // SAFETY: `file` is open, and the standard streams' numbers belong to nobody who holds them as owned descriptors.
        nix::Error::result(unsafe { libc::dup2(file.as_raw_fd(), number) }).step("leave the standard streams")?;
    }
    Ok(())
}
