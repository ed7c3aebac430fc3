//! The parent's side of a program: making the child, and what is kept while it runs.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use skiff_linux::cgroup::{Cgroup, DeviceKind, DeviceRule};
use skiff_linux::process::{self, Child, Namespaces};
use skiff_linux::{caps, fdpass};
use skiff_shim::protocol::{ContainerSpec, PidMode, Program};

use crate::logfile::{LineBuffer, LogFile};
use crate::sandbox::Sandbox;
use crate::{Step, program, rootfs, step, user};

/// What a child tells before it becomes the program; the end of the stream without [`Report::Failed`] is success.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// A devpts, or the master of a terminal, comes along.
    Descriptor,
    Ready {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        warnings: Vec<String>,
    },
    Failed(String),
}

/// A child that is on its way to its program.
pub(crate) struct Starting {
    pub(crate) child: Child,
    pub(crate) reports: UnixStream,
    pub(crate) received: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A container whose program runs or is about to.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) spec: Box<ContainerSpec>,
    pub(crate) cgroup: Cgroup,
    pub(crate) process: Child,
    /// Its devpts, for terminals of execs.
    pub(crate) devpts: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    /// For a terminal only the first is there.
    pub(crate) outputs: [Option<Output>; 2],
    pub(crate) terminal: bool,
    pub(crate) log: Option<LogFile>,
}

/// A stream of a container that the shim reads.
pub(crate) struct Output {
    pub(crate) fd: OwnedFd,
    pub(crate) lines: LineBuffer,
}

fn tell(reports: &UnixStream, report: &Report, fds: &[BorrowedFd<'_>]) -> Step<()> {
    let frame = skiff_shim::protocol::frame(report);
    let sent = step("reporting", fdpass::send(reports, &frame, fds))?;
    step("reporting", (&mut &*reports).write_all(&frame[sent..]))
}

fn nonblocking(fd: &OwnedFd) -> Step<()> {
    let flags = step("reading flags", rustix::fs::fcntl_getfl(fd).map_err(Into::into))?;
    step("setting flags", rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(Into::into))
}

fn pipe() -> Step<(OwnedFd, OwnedFd)> {
    let (reader, writer) = step("making a pipe", std::io::pipe())?;
    Ok((reader.into(), writer.into()))
}

fn null() -> Step<OwnedFd> {
    Ok(step("opening /dev/null", File::options().read(true).write(true).open("/dev/null"))?.into())
}

/// Devices every container may use, beside those it was given; as runc's default list.
fn device_rules(spec: &ContainerSpec) -> Vec<DeviceRule> {
    if spec.privileged {
        return vec![DeviceRule::EVERYTHING];
    }
    let mut rules = vec![DeviceRule { read: false, write: false, ..DeviceRule::EVERYTHING }];
    rules.extend([3, 5, 7, 8, 9].map(|minor| DeviceRule::char(1, Some(minor))));
    rules.extend([DeviceRule::char(5, Some(0)), DeviceRule::char(5, Some(2)), DeviceRule::char(136, None)]);
    rules.extend(spec.devices.iter().map(|device| DeviceRule {
        kind: if device.block { DeviceKind::Block } else { DeviceKind::Char },
        major: Some(device.major),
        minor: Some(device.minor),
        read: device.access.contains('r'),
        write: device.access.contains('w'),
        mknod: device.access.contains('m'),
    }));
    rules
}

/// Makes the container's cgroup and its first process, which then builds the rest by itself.
pub(crate) fn start(
    sandbox: &Sandbox,
    spec: Box<ContainerSpec>,
    target: Option<BorrowedFd<'_>>,
) -> Step<(Container, Starting)> {
    let cgroup = step("naming the cgroup", sandbox.hierarchy.at(&spec.cgroup).map_err(std::io::Error::other))?;
    let cgroup_step = |what: &str, result: skiff_linux::cgroup::Result<()>| {
        result.map_err(|error| {
            let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{what}: {error}: {reason}")
        })
    };
    cgroup_step("making the cgroup", cgroup.create())?;
    cgroup_step("setting limits", cgroup.limit(&(&spec.limits).into()))?;
    cgroup_step("limiting devices", cgroup.allow_devices(&device_rules(&spec)))?;
    let log = spec.log.as_deref().map(|path| step(&format!("opening log {}", path.display()), LogFile::open(path)));
    let log = log.transpose()?;

    let tty = spec.program.tty;
    let (stdin_reader, stdin_writer) =
        if spec.stdin && !tty { pipe().map(|(r, w)| (r, Some(w)))? } else { (null()?, None) };
    let (out_reader, out_writer) = pipe()?;
    let (err_reader, err_writer) = pipe()?;
    let (reports, child_reports) = step("making a socket pair", UnixStream::pair())?;

    let mut namespaces = Namespaces::MOUNT;
    match spec.pid {
        PidMode::Container => namespaces = namespaces.and(Namespaces::PID),
        PidMode::Host => {}
        PidMode::Pod => {
            let init = sandbox.init.as_ref().ok_or("the sandbox has no shared pid namespace")?;
            step("entering the pod's pid namespace", process::enter(&init.pidfd, Namespaces::PID))?;
        }
        PidMode::Target(_) => {
            let target = target.ok_or("the target container does not run")?;
            step("entering the target's pid namespace", process::enter(target, Namespaces::PID))?;
        }
    }
    let child = process::spawn(namespaces, || {
        let stdio = [stdin_reader.as_fd(), out_writer.as_fd(), err_writer.as_fd()];
        let reason = become_container(sandbox, &spec, &cgroup, stdio, &child_reports);
        // If even this fails the parent sees a child that ended.
        let _ = tell(&child_reports, &Report::Failed(reason), &[]);
        127
    });
    leave_pid_namespace(sandbox, &spec.pid)?;
    let child = step("clone3", child)?;
    step("preparing reports", reports.set_nonblocking(true))?;

    let outputs = if tty {
        [None, None]
    } else {
        nonblocking(&out_reader)?;
        nonblocking(&err_reader)?;
        if let Some(writer) = &stdin_writer {
            nonblocking(writer)?;
        }
        let output = |fd, stream| Some(Output { fd, lines: LineBuffer::new(stream) });
        [output(out_reader, "stdout"), output(err_reader, "stderr")]
    };
    let process = Child { pid: child.pid, pidfd: step("copying a pidfd", child.pidfd.try_clone())? };
    let id = spec.id.clone();
    let container =
        Container { id, spec, cgroup, process, devpts: None, stdin: stdin_writer, outputs, terminal: tty, log };
    Ok((container, Starting { child, reports, received: Vec::new(), descriptors: Vec::new() }))
}

/// Children are made in the PID namespace last entered; ours again.
fn leave_pid_namespace(sandbox: &Sandbox, mode: &PidMode) -> Step<()> {
    match mode {
        PidMode::Container | PidMode::Host => Ok(()),
        _ => step("returning to own pid namespace", process::enter(&sandbox.own_pid_namespace, Namespaces::PID)),
    }
}

/// The child: from a copy of the shim to the container's program. Returns only a reason.
fn become_container(
    sandbox: &Sandbox,
    spec: &ContainerSpec,
    cgroup: &Cgroup,
    stdio: [BorrowedFd<'_>; 3],
    reports: &UnixStream,
) -> String {
    let prepare = || -> Step<(user::Identity, Option<Vec<u8>>)> {
        step("hiding from tracers", process::set_undumpable())?;
        step("joining the cgroup", cgroup.join().map_err(std::io::Error::other))?;
        let mut warnings = Vec::new();
        program::set_oom_score(spec.program.oom_score_adj, &mut warnings);
        let filter = program::read_filter(&spec.program)?;
        sandbox.enter()?;
        // After joining: the namespace's root is where its maker is.
        step("making a cgroup namespace", process::unshare(Namespaces::CGROUP))?;
        let rootfs = rootfs::build(spec, &sandbox.shm)?;
        let identity = user::resolve(rootfs.root.as_fd(), &spec.program.user)?;
        warn_of_missing(&spec.program, &mut warnings);
        if !spec.program.cwd.as_os_str().is_empty() && spec.program.cwd != Path::new("/") {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            // A directory that cannot be made cannot be entered either, which is reported then.
            let _ = skiff_linux::path::mkdir_all_in_root(&rootfs.root, &spec.program.cwd, mode);
        }
        tell(reports, &Report::Descriptor, &[rootfs.devpts.as_fd()])?;
        let terminal = if spec.program.tty {
            let (master, slave) = step("making a terminal", rootfs::terminal(rootfs.devpts.as_fd()))?;
            step(
                "owning the terminal",
                rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(identity.uid)), None).map_err(Into::into),
            )?;
            tell(reports, &Report::Descriptor, &[master.as_fd()])?;
            Some(slave)
        } else {
            None
        };
        step("pivot_root", skiff_linux::mount::pivot_into(&rootfs.root))?;
        match &terminal {
            Some(slave) => program::install_stdio([slave.as_fd(); 3], true)?,
            None => {
                own_stdio(&stdio, &identity)?;
                program::install_stdio(stdio, false)?;
            }
        }
        let (uid, gid) = (identity.uid, identity.gid);
        tell(reports, &Report::Ready { uid, gid, groups: identity.groups.clone(), warnings }, &[])?;
        Ok((identity, filter))
    };
    match prepare() {
        Ok((identity, filter)) => program::run(&spec.program, &identity, filter.as_deref()),
        Err(reason) => reason,
    }
}

/// Lets a program of another user reopen its streams (`/dev/stdout`), as runc does.
fn own_stdio(stdio: &[BorrowedFd<'_>; 3], identity: &user::Identity) -> Step<()> {
    for fd in stdio {
        let stat = step("examining stdio", rustix::fs::fstat(fd).map_err(Into::into))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_fifo() {
            let uid = Some(rustix::fs::Uid::from_raw(identity.uid));
            step("owning stdio", rustix::fs::fchown(fd, uid, None).map_err(Into::into))?;
        }
    }
    Ok(())
}

fn warn_of_missing(program: &Program, warnings: &mut Vec<String>) {
    if let Ok(available) = caps::Caps::of_this_process() {
        let missing = program.capabilities & !available.0;
        if missing != 0 {
            warnings.push(format!("capabilities {missing:#x} are not to be had here and were left out"));
        }
    }
}

/// Starts a program in a running container. `stdio` is what the runtime passed; a terminal is made here instead, and
/// its master handed back.
pub(crate) fn exec(
    sandbox: &Sandbox,
    container: &Container,
    program: &Program,
    stdio: &[OwnedFd],
) -> Step<(Starting, Option<OwnedFd>)> {
    let (terminal, slave);
    let stdio = if program.tty {
        let devpts = container.devpts.as_ref().ok_or("the container has no devpts yet")?;
        let (master, peer) = step("making a terminal", rootfs::terminal(devpts.as_fd()))?;
        (terminal, slave) = (Some(master), peer);
        [slave.as_fd(); 3]
    } else {
        terminal = None;
        let [stdin, stdout, stderr] = stdio else {
            return Err("an exec without a terminal needs three descriptors".into());
        };
        [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
    };
    let (reports, child_reports) = step("making a socket pair", UnixStream::pair())?;
    let pidfd = container.process.pidfd.as_fd();
    // Children are made in the container's PID namespace, whatever it is; then back.
    step("entering the container's pid namespace", process::enter(pidfd, Namespaces::PID))?;
    let child = process::spawn(Namespaces::default(), || {
        let reason = become_exec(container, program, stdio, &child_reports);
        let _ = tell(&child_reports, &Report::Failed(reason), &[]);
        127
    });
    step("returning to own pid namespace", process::enter(&sandbox.own_pid_namespace, Namespaces::PID))?;
    let child = step("clone3", child)?;
    step("preparing reports", reports.set_nonblocking(true))?;
    Ok((Starting { child, reports, received: Vec::new(), descriptors: Vec::new() }, terminal))
}

fn become_exec(container: &Container, program: &Program, stdio: [BorrowedFd<'_>; 3], reports: &UnixStream) -> String {
    let prepare = || -> Step<(user::Identity, Option<Vec<u8>>)> {
        step("hiding from tracers", process::set_undumpable())?;
        step("joining the cgroup", container.cgroup.join().map_err(std::io::Error::other))?;
        let mut warnings = Vec::new();
        program::set_oom_score(program.oom_score_adj, &mut warnings);
        let filter = program::read_filter(program)?;
        let all =
            Namespaces::MOUNT.and(Namespaces::NET).and(Namespaces::IPC).and(Namespaces::UTS).and(Namespaces::CGROUP);
        step("entering the container", process::enter(&container.process.pidfd, all))?;
        let root = step("opening the root", File::open("/"))?;
        let identity = user::resolve(root.as_fd(), &program.user)?;
        if program.tty {
            let uid = Some(rustix::fs::Uid::from_raw(identity.uid));
            step("owning the terminal", rustix::fs::fchown(stdio[0], uid, None).map_err(Into::into))?;
        }
        program::install_stdio(stdio, program.tty)?;
        let (uid, gid) = (identity.uid, identity.gid);
        tell(reports, &Report::Ready { uid, gid, groups: identity.groups.clone(), warnings }, &[])?;
        Ok((identity, filter))
    };
    match prepare() {
        Ok((identity, filter)) => program::run(program, &identity, filter.as_deref()),
        Err(reason) => reason,
    }
}

/// Where a starting child stands.
pub(crate) enum Progress {
    Waiting,
    Running { uid: u32, gid: u32, groups: Vec<u32>, warnings: Vec<String> },
    Failed(String),
}

impl Starting {
    /// Takes in what the child has told so far.
    pub(crate) fn advance(&mut self) -> Progress {
        let mut buffer = [0u8; 4096];
        loop {
            match fdpass::receive(&self.reports, &mut buffer, &mut self.descriptors) {
                Ok(0) => return self.conclude(),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Failed(format!("reading the child's reports: {error}")),
            }
        }
    }

    /// The stream ended: the program runs, unless the child said otherwise or nothing.
    fn conclude(&mut self) -> Progress {
        let mut outcome = Progress::Failed("the child ended before it could say why".to_owned());
        loop {
            match skiff_shim::protocol::unframe::<Report>(&mut self.received) {
                Ok(Some(Report::Descriptor)) => {}
                Ok(Some(Report::Ready { uid, gid, groups, warnings })) => {
                    outcome = Progress::Running { uid, gid, groups, warnings };
                }
                Ok(Some(Report::Failed(reason))) => return Progress::Failed(reason),
                Ok(None) => return outcome,
                Err(error) => return Progress::Failed(error.to_string()),
            }
        }
    }
}

impl Container {
    /// What came along with the reports: the devpts, and the master of a terminal.
    pub(crate) fn adopt(&mut self, descriptors: Vec<OwnedFd>) -> Step<()> {
        let mut descriptors = descriptors.into_iter();
        self.devpts = descriptors.next();
        if let Some(master) = descriptors.next() {
            if self.spec.stdin {
                self.stdin = Some(step("copying the terminal", master.try_clone())?);
            }
            self.outputs[0] = Some(Output { fd: master, lines: LineBuffer::new("stdout") });
        }
        Ok(())
    }

    /// Reads what one output has; whole lines go to the log, and the bytes to `sink`. `false` at its end.
    pub(crate) fn pump(&mut self, index: usize, sink: &mut dyn FnMut(&[u8])) -> bool {
        let Some(output) = &mut self.outputs[index] else { return false };
        let mut buffer = [0u8; 32 * 1024];
        let read = match rustix::io::read(&output.fd, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
            // A terminal whose last program closed it answers EIO.
            Ok(0) | Err(_) => {
                if let Some(log) = &mut self.log {
                    output.lines.finish(log);
                }
                self.outputs[index] = None;
                return false;
            }
            Ok(read) => read,
        };
        if let Some(log) = &mut self.log {
            output.lines.push(&buffer[..read], log);
        }
        sink(&buffer[..read]);
        true
    }
}
