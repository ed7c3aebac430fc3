//! Processes: made with `clone3` from a single-threaded parent, watched through the descriptor taken there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Namespaces that a child gets anew; `CLONE_NEW*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(pub u64);

impl Namespaces {
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Process numbers.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Network.
    pub const NET: Self = Self(libc::CLONE_NEWNET as u64);
    /// System V and POSIX message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// The view of cgroups.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP as u64);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A child as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Its number in the parent's namespace.
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Starts a child that runs `body` and ends with its result as exit code.
///
/// The child is a copy of the caller: same memory (copied on write), same descriptors. Parent and child must both be
/// prepared for everything `fork` implies.
///
/// # Errors
/// The kernel's refusal, `EAGAIN` when a pids limit is reached.
///
/// # Panics
/// Not by itself; a panic in `body` aborts the child.
pub fn spawn(namespaces: Namespaces, body: impl FnOnce() -> i32) -> io::Result<Child> {
    assert_single_threaded()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args is valid; every field used is set below.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | namespaces.0;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: needed because neither std nor rustix can make a child in new namespaces. Sound because the process has
    // one thread (checked above): no lock can be held by a thread that the child lacks, so the copy may allocate and
    // run any code; without CLONE_VM it has memory of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = body();
            // SAFETY: ends the child at once; `atexit` functions and buffers belong to the parent.
            unsafe { libc::_exit(code) }
        }
        pid => {
            // SAFETY: the kernel stored a fresh descriptor there, owned by nobody else.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: pid as i32, pidfd })
        }
    }
}

fn assert_single_threaded() -> io::Result<()> {
    // st_nlink of /proc/self/task is 2 + threads.
    let links = rustix::fs::stat("/proc/self/task")?.st_nlink;
    if links == 3 { Ok(()) } else { Err(io::Error::other("only a process with one thread may make containers")) }
}

/// Enters all of `kinds` of the namespaces of the process behind `pidfd`, or the one behind a namespace file.
pub fn enter(namespace: impl AsFd, kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes a valid descriptor and plain flags; touches no memory of the caller.
    let result = unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kinds.0 as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves `kinds` of the caller's namespaces for new ones.
pub fn unshare(kinds: Namespaces) -> io::Result<()> {
    // SAFETY: with CLONE_NEW* bits only, no shared table is taken from other threads.
    let result = unsafe { libc::unshare(kinds.0 as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a process ended, as a shell tells it: exit code, or 128 + signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its number in the parent's namespace.
    pub pid: i32,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

/// Takes one ended child (also one that was re-parented to the caller), if there is any.
pub fn reap() -> io::Result<Option<Ended>> {
    match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => {
            let signal = status.terminating_signal().unwrap_or(0);
            let code = status.exit_status().unwrap_or(128 + signal);
            Ok(Some(Ended { pid: pid.as_raw_nonzero().get(), code, signal }))
        }
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends `signal` to the process behind `pidfd`; `false` if it has already ended.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    // SAFETY: a valid descriptor, a number, no siginfo.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        error => Err(error),
    }
}

/// A descriptor that becomes readable when one of `signals` arrives; they are blocked from now on.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; all pointers live across the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Gives a process about to become somebody's program the signal state a program expects: defaults, nothing blocked.
pub fn reset_signals() {
    // SAFETY: sets dispositions and the mask of the calling thread; SIGKILL and SIGSTOP refuse, which is harmless.
    unsafe {
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Marks every descriptor above 2 close-on-exec, those unknown to us included.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; closes nothing now.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `fd` the process's descriptor `number` (0, 1 or 2), not close-on-exec.
pub fn install_fd(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: the three standard descriptors are owned by nobody in a process that is about to exec.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets real, effective and saved group and user, and the supplementary groups; of this thread, which is the only one.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: numbers and a slice with its own length.
    unsafe {
        if libc::setgroups(groups.len(), groups.as_ptr()) != 0
            || libc::setresgid(gid, gid, gid) != 0
            || libc::setresuid(uid, uid, uid) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Replaces the process. Returns only the reason why it could not.
pub fn exec(path: &std::ffi::CStr, argv: &[std::ffi::CString], env: &[std::ffi::CString]) -> io::Error {
    let pointers = |strings: &[std::ffi::CString]| {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end with a null pointer and outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Makes `terminal` the controlling terminal of the caller, which must lead its session.
pub fn take_terminal(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// The other end of a pseudo-terminal, opened without a path.
pub fn terminal_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    use rustix::pty::OpenptFlags;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?)
}

/// Sets a terminal's size.
pub fn resize_terminal(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Not to be traced or looked into (`/proc/<pid>/fd`) by a container process whose namespaces it has entered.
pub fn set_undumpable() -> io::Result<()> {
    use rustix::process::DumpableBehavior;
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Becomes the parent of every orphan among its descendants.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Raises the loopback link of the caller's network namespace.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid; the name fits with its terminating zero; the kernel reads the flags only.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `body` on a thread of its own that has entered the network namespace and dies with it, so that no pool thread
/// is ever left in a pod's network.
pub fn in_network<T: Send>(namespace: BorrowedFd<'_>, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered =
            std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024).spawn_scoped(scope, || {
                enter(namespace, Namespaces::NET)?;
                body()
            })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
    })
}
