//! The shim's one loop: requests, output, exits. Nothing in it waits except `poll`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags};
use skiff_linux::cgroup::Cgroup;
use skiff_linux::fdpass;
use skiff_linux::process::{self, Ended};
use skiff_shim::protocol::{self, EXIT, Exit, PidMode, Request, Response, Running, SOCKET};

use crate::container::{self, Container, Progress, Starting};
use crate::sandbox::Sandbox;
use crate::{Step, complain, now, step};

/// Most connections at once; further ones wait in the socket's queue.
const MAX_CONNECTIONS: usize = 128;
/// An attached client that is this far behind holds up its container's output...
const MAX_BEHIND: usize = 64 * 1024;
/// ... for so long, in nanoseconds; then it is let go.
const PATIENCE: i64 = 10_000_000_000;

/// One connection of the runtime.
struct Connection {
    socket: UnixStream,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
    output: Vec<u8>,
    /// Sent with the first byte of `output`.
    terminal: Option<OwnedFd>,
    role: Role,
    closed: bool,
}

enum Role {
    Idle,
    /// Waits for a container to start.
    Starting(String),
    /// Belongs to a program in a container, by its process.
    Exec(i32),
    Attached(String),
    Subscriber,
}

/// A program of an exec.
struct Exec {
    pidfd: OwnedFd,
    starting: Option<Starting>,
    connection: u64,
    terminal: Option<OwnedFd>,
}

/// Somebody who takes part in a container's stdio.
struct Client {
    container: String,
    connection: u64,
    stdin: Option<OwnedFd>,
    /// stdout, stderr.
    outputs: [Option<OwnedFd>; 2],
    behind: [Vec<u8>; 2],
    /// Since when it has been behind.
    since: Option<i64>,
}

pub(crate) struct Server {
    sandbox: Sandbox,
    listener: UnixListener,
    signals: OwnedFd,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    containers: BTreeMap<String, Container>,
    starting: BTreeMap<String, Starting>,
    execs: BTreeMap<i32, Exec>,
    clients: Vec<Client>,
    /// Bytes from clients that a container has not yet read.
    stdin_behind: BTreeMap<String, Vec<u8>>,
    /// Cgroups of ended containers that are still busy.
    leftover: Vec<Cgroup>,
    ending: bool,
}

/// What a polled descriptor is.
#[derive(Clone)]
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Process,
    Report(String),
    ExecReport(i32),
    Output(String, usize),
    ClientInput(usize),
    ClientOutput(usize, usize),
    ContainerInput(String),
}

impl Server {
    pub(crate) fn new(sandbox: Sandbox) -> std::io::Result<Self> {
        let listener = UnixListener::bind(SOCKET)?;
        listener.set_nonblocking(true)?;
        // SIGPIPE becomes an error of the write; the others must not end the parent of somebody's containers.
        let signals = [libc::SIGCHLD, libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM];
        Ok(Self {
            sandbox,
            listener,
            signals: process::signal_fd(&signals)?,
            connections: BTreeMap::new(),
            next: 0,
            containers: BTreeMap::new(),
            starting: BTreeMap::new(),
            execs: BTreeMap::new(),
            clients: Vec::new(),
            stdin_behind: BTreeMap::new(),
            leftover: Vec::new(),
            ending: false,
        })
    }

    /// Takes back what was made for a pod that nobody waits for.
    pub(crate) fn abandon(self) {
        self.sandbox.undo();
    }

    pub(crate) fn run(mut self) -> std::io::Result<()> {
        loop {
            let ready = self.wait()?;
            for (source, flags) in ready {
                self.serve(&source, flags);
            }
            self.reap();
            self.forget_slow_clients();
            self.remove_leftovers();
            for id in self.connections.keys().copied().collect::<Vec<_>>() {
                self.flush(id);
            }
            self.drop_closed();
            if self.ending && self.connections.values().all(|connection| connection.output.is_empty()) {
                return Ok(());
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> std::io::Result<Vec<(Source, PollFlags)>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if self.connections.len() < MAX_CONNECTIONS {
            sources.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        for (id, connection) in &self.connections {
            let wants = if connection.output.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            sources.push((Source::Connection(*id), connection.socket.as_fd(), wants));
        }
        for (id, starting) in &self.starting {
            sources.push((Source::Report(id.clone()), starting.reports.as_fd(), PollFlags::IN));
        }
        for (pid, exec) in &self.execs {
            sources.push((Source::Process, exec.pidfd.as_fd(), PollFlags::IN));
            if let Some(starting) = &exec.starting {
                sources.push((Source::ExecReport(*pid), starting.reports.as_fd(), PollFlags::IN));
            }
        }
        for (id, container) in &self.containers {
            sources.push((Source::Process, container.process.pidfd.as_fd(), PollFlags::IN));
            // A client that is behind holds up the output that it is behind with.
            let held = self.clients.iter().any(|client| client.container == *id && client.since.is_some());
            for (index, output) in container.outputs.iter().enumerate().filter(|_| !held) {
                if let Some(output) = output {
                    sources.push((Source::Output(id.clone(), index), output.fd.as_fd(), PollFlags::IN));
                }
            }
            if let (Some(stdin), true) = (&container.stdin, self.stdin_behind.contains_key(id)) {
                sources.push((Source::ContainerInput(id.clone()), stdin.as_fd(), PollFlags::OUT));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            if let (Some(stdin), false) = (&client.stdin, self.stdin_behind.contains_key(&client.container)) {
                sources.push((Source::ClientInput(index), stdin.as_fd(), PollFlags::IN));
            }
            for (stream, output) in client.outputs.iter().enumerate() {
                if let (Some(output), false) = (output, client.behind[stream].is_empty()) {
                    sources.push((Source::ClientOutput(index, stream), output.as_fd(), PollFlags::OUT));
                }
            }
        }
        let mut polled: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let busy = !self.leftover.is_empty() || self.clients.iter().any(|client| client.since.is_some());
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        match rustix::event::poll(&mut polled, busy.then_some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(sources
            .iter()
            .zip(&polled)
            .filter(|(_, polled)| !polled.revents().is_empty())
            .map(|((source, _, _), polled)| (source.clone(), polled.revents()))
            .collect())
    }

    fn serve(&mut self, source: &Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                let mut info = [0u8; size_of::<libc::signalfd_siginfo>() * 8];
                // Emptied only: children are looked for after every round.
                while rustix::io::read(&self.signals, &mut info).is_ok_and(|read| read > 0) {}
            }
            Source::Process => {}
            Source::Connection(id) => {
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.receive(*id);
                }
            }
            Source::Report(id) => self.advance(id),
            Source::ExecReport(pid) => self.advance_exec(*pid),
            Source::Output(id, index) => self.pump(id, *index),
            Source::ClientInput(index) => self.client_input(*index),
            Source::ClientOutput(index, stream) => self.client_output(*index, *stream),
            Source::ContainerInput(id) => self.feed(id, &[]),
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((socket, _)) => {
                if let Err(error) = socket.set_nonblocking(true) {
                    return complain(format_args!("accepting: {error}"));
                }
                self.next += 1;
                let connection = Connection {
                    socket,
                    input: Vec::new(),
                    fds: Vec::new(),
                    output: Vec::new(),
                    terminal: None,
                    role: Role::Idle,
                    closed: false,
                };
                self.connections.insert(self.next, connection);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => complain(format_args!("accepting: {error}")),
        }
    }

    fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut buffer = [0u8; 16 * 1024];
        match fdpass::receive(&connection.socket, &mut buffer, &mut connection.fds) {
            Ok(0) => connection.closed = true,
            Ok(read) => connection.input.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => connection.closed = true,
        }
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return };
            match protocol::unframe::<Request>(&mut connection.input) {
                Ok(Some(request)) => {
                    let fds = std::mem::take(&mut connection.fds);
                    if let Some(response) = self.answer(id, request, fds) {
                        self.reply(id, &response);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    complain(format_args!("{error}"));
                    connection.closed = true;
                    return;
                }
            }
        }
    }

    fn reply(&mut self, id: u64, response: &Response) {
        // Whoever asked may have gone away: then nobody is to be told.
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.output.extend(protocol::frame(response));
        }
    }

    fn flush(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while !connection.output.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = connection.terminal.iter().map(AsFd::as_fd).collect();
            match fdpass::send(&connection.socket, &connection.output, &fds) {
                Ok(sent) => {
                    drop(fds);
                    connection.terminal = None;
                    connection.output.drain(..sent);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    // Exits are also on disk: a subscriber that does not listen is let go and reads them there.
                    connection.closed |= connection.output.len() > 1 << 20;
                    return;
                }
                Err(_) => {
                    connection.closed = true;
                    return;
                }
            }
        }
    }

    fn drop_closed(&mut self) {
        let closed: Vec<u64> = self.connections.iter().filter(|(_, c)| c.closed).map(|(id, _)| *id).collect();
        for id in closed {
            self.connections.remove(&id);
            for index in
                (0..self.clients.len()).rev().filter(|index| self.clients[*index].connection == id).collect::<Vec<_>>()
            {
                self.detach(index);
            }
        }
    }

    fn answer(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) -> Option<Response> {
        let result = match request {
            Request::List => Ok(Some(Response::Containers {
                version: protocol::VERSION,
                running: self.containers.values().map(|c| Running { id: c.id.clone(), pid: c.process.pid }).collect(),
            })),
            Request::Start(spec) => self.start(id, spec).map(|()| None),
            Request::Exec(spec) => {
                let Some(container) = self.containers.get(&spec.container) else {
                    return Some(Response::NotRunning(spec.container.clone()));
                };
                container::exec(&self.sandbox, container, &spec.program, &fds).and_then(|(starting, terminal)| {
                    let pid = starting.child.pid;
                    let pidfd = step("copying a pidfd", starting.child.pidfd.try_clone())?;
                    self.execs.insert(pid, Exec { pidfd, starting: Some(starting), connection: id, terminal });
                    self.set_role(id, Role::Exec(pid));
                    Ok(None)
                })
            }
            Request::Attach { container, stdin, stdout, stderr } => {
                self.attach(id, container, [stdin, stdout, stderr], fds).map(Some)
            }
            Request::Signal { container, signal } => self.signal(id, &container, signal).map(Some),
            Request::Resize { container, columns, rows } => match self.containers.get(&container) {
                None => return Some(Response::NotRunning(container)),
                Some(container) => match (&container.outputs[0], container.terminal) {
                    (Some(output), true) => step("resizing", process::resize_terminal(&output.fd, columns, rows))
                        .map(|()| Some(Response::Done)),
                    _ => Err("the container has no terminal".to_owned()),
                },
            },
            Request::ReopenLog { container } => match self.containers.get_mut(&container) {
                None => return Some(Response::NotRunning(container)),
                Some(container) => match &mut container.log {
                    Some(log) => step("reopening the log", log.reopen()).map(|()| Some(Response::Done)),
                    None => Ok(Some(Response::Done)),
                },
            },
            Request::Sysctls(sysctls) => self.sandbox.set_sysctls(&sysctls).map(|()| Some(Response::Done)),
            Request::Subscribe => {
                self.set_role(id, Role::Subscriber);
                Ok(Some(Response::Done))
            }
            Request::Shutdown if !self.containers.is_empty() => Err("containers are running".to_owned()),
            Request::Shutdown => {
                if let Some(init) = &self.sandbox.init
                    && let Err(error) = process::signal(init.pidfd.as_fd(), libc::SIGKILL)
                {
                    complain(format_args!("ending the pod's init: {error}"));
                }
                self.ending = true;
                Ok(Some(Response::Done))
            }
        };
        result.unwrap_or_else(|reason| Some(Response::Failed(reason)))
    }

    fn set_role(&mut self, id: u64, role: Role) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.role = role;
        }
    }

    fn start(&mut self, connection: u64, spec: Box<protocol::ContainerSpec>) -> Step<()> {
        if self.containers.contains_key(&spec.id) {
            return Err("the container is already started".to_owned());
        }
        let target = match &spec.pid {
            PidMode::Target(id) => self.containers.get(id).map(|target| target.process.pidfd.as_fd()),
            _ => None,
        };
        let id = spec.id.clone();
        let cgroup = self.sandbox.hierarchy.at(&spec.cgroup).ok();
        match container::start(&self.sandbox, spec, target) {
            Ok((container, starting)) => {
                self.containers.insert(id.clone(), container);
                self.starting.insert(id.clone(), starting);
                self.set_role(connection, Role::Starting(id));
                Ok(())
            }
            Err(reason) => {
                self.leftover.extend(cgroup);
                Err(reason)
            }
        }
    }

    fn starter(&self, container: &str) -> Option<u64> {
        let is_starter = |role: &Role| matches!(role, Role::Starting(id) if id == container);
        self.connections.iter().find(|(_, connection)| is_starter(&connection.role)).map(|(id, _)| *id)
    }

    /// A starting container told something.
    fn advance(&mut self, id: &str) {
        let (Some(starting), Some(container)) = (self.starting.get_mut(id), self.containers.get_mut(id)) else {
            return;
        };
        let response = match starting.advance() {
            Progress::Waiting => return,
            Progress::Running { uid, gid, groups, warnings } => {
                match container.adopt(std::mem::take(&mut starting.descriptors)) {
                    Ok(()) => Response::Started { pid: container.process.pid, uid, gid, groups, warnings },
                    Err(reason) => Response::Failed(reason),
                }
            }
            Progress::Failed(reason) => Response::Failed(reason),
        };
        self.starting.remove(id);
        let failed = matches!(response, Response::Failed(_));
        if let Some(starter) = self.starter(id) {
            self.reply(starter, &response);
            self.set_role(starter, Role::Idle);
        }
        if failed && let Some(container) = self.containers.remove(id) {
            // It never was a container: no exit is recorded. The child ends by itself; this makes sure.
            if let Err(error) = process::signal(container.process.pidfd.as_fd(), libc::SIGKILL) {
                complain(format_args!("ending {id}: {error}"));
            }
            self.leftover.push(container.cgroup);
        }
    }

    fn advance_exec(&mut self, pid: i32) {
        let Some(exec) = self.execs.get_mut(&pid) else { return };
        let Some(starting) = &mut exec.starting else { return };
        let response = match starting.advance() {
            Progress::Waiting => return,
            Progress::Running { uid, gid, groups, warnings } => Response::Started { pid, uid, gid, groups, warnings },
            Progress::Failed(reason) => Response::Failed(reason),
        };
        exec.starting = None;
        let (connection, terminal) = (exec.connection, exec.terminal.take());
        if matches!(response, Response::Failed(_)) {
            self.execs.remove(&pid);
            self.set_role(connection, Role::Idle);
        } else if let Some(connection) = self.connections.get_mut(&connection) {
            connection.terminal = terminal;
        }
        self.reply(connection, &response);
    }

    fn signal(&self, connection: u64, container: &str, signal: i32) -> Step<Response> {
        if let Some(Role::Exec(pid)) = self.connections.get(&connection).map(|connection| &connection.role) {
            if let Some(exec) = self.execs.get(pid) {
                step("signalling", process::signal(exec.pidfd.as_fd(), signal))?;
            }
            return Ok(Response::Done);
        }
        match self.containers.get(container) {
            Some(container) if step("signalling", process::signal(container.process.pidfd.as_fd(), signal))? => {
                Ok(Response::Done)
            }
            _ => Ok(Response::NotRunning(container.to_owned())),
        }
    }

    fn attach(&mut self, connection: u64, container: String, wants: [bool; 3], fds: Vec<OwnedFd>) -> Step<Response> {
        let Some(target) = self.containers.get(&container) else { return Ok(Response::NotRunning(container)) };
        if fds.len() != wants.iter().filter(|want| **want).count() {
            return Err("not the announced number of descriptors".to_owned());
        }
        if wants[0] && target.stdin.is_none() {
            return Err("the container's stdin is not open".to_owned());
        }
        for fd in &fds {
            let flags = step("reading flags", rustix::fs::fcntl_getfl(fd).map_err(Into::into))?;
            step(
                "setting flags",
                rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(Into::into),
            )?;
        }
        let mut fds = fds.into_iter();
        let [stdin, stdout, stderr] = wants.map(|want| if want { fds.next() } else { None });
        self.set_role(connection, Role::Attached(container.clone()));
        self.clients.push(Client {
            container,
            connection,
            stdin,
            outputs: [stdout, stderr],
            behind: [Vec::new(), Vec::new()],
            since: None,
        });
        Ok(Response::Done)
    }

    /// A client leaves; with `stdin_once` the container's stdin ends with it.
    fn detach(&mut self, index: usize) {
        let client = self.clients.remove(index);
        self.end_stdin(&client);
    }

    fn end_stdin(&mut self, client: &Client) {
        if client.stdin.is_some()
            && let Some(container) = self.containers.get_mut(&client.container)
            && container.spec.stdin_once
            && !container.terminal
        {
            container.stdin = None;
            self.stdin_behind.remove(&client.container);
        }
    }

    fn client_input(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let Some(stdin) = &client.stdin else { return };
        let mut buffer = [0u8; 16 * 1024];
        match rustix::io::read(stdin, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => {
                let stdin = client.stdin.take();
                let gone = Client {
                    container: client.container.clone(),
                    connection: client.connection,
                    stdin,
                    outputs: [None, None],
                    behind: [Vec::new(), Vec::new()],
                    since: None,
                };
                self.end_stdin(&gone);
            }
            Ok(read) => {
                let container = client.container.clone();
                self.feed(&container, &buffer[..read]);
            }
        }
    }

    /// Writes to a container's stdin what it takes; the rest waits, and with it the clients.
    fn feed(&mut self, id: &str, data: &[u8]) {
        let mut pending = self.stdin_behind.remove(id).unwrap_or_default();
        pending.extend_from_slice(data);
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(stdin) = &container.stdin else { return };
        while !pending.is_empty() {
            match rustix::io::write(stdin, &pending) {
                Ok(written) => drop(pending.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // The program closed its stdin.
                Err(_) => {
                    container.stdin = None;
                    return;
                }
            }
        }
        if !pending.is_empty() {
            self.stdin_behind.insert(id.to_owned(), pending);
        }
    }

    fn pump(&mut self, id: &str, index: usize) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let clients = &mut self.clients;
        container.pump(index, &mut |data| {
            for client in clients.iter_mut().filter(|client| client.container == id) {
                client.give(index, data);
            }
        });
    }

    fn client_output(&mut self, index: usize, stream: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.give(stream, &[]);
        }
    }

    fn forget_slow_clients(&mut self) {
        let limit = now() - PATIENCE;
        for index in (0..self.clients.len()).rev() {
            if self.clients[index].since.is_some_and(|since| since < limit) {
                if let Some(connection) = self.connections.get_mut(&self.clients[index].connection) {
                    connection.closed = true;
                }
                self.detach(index);
            }
        }
    }

    fn remove_leftovers(&mut self) {
        self.leftover.retain(|cgroup| {
            let removed = cgroup.kill().and_then(|_| cgroup.remove());
            !removed.unwrap_or_else(|error| {
                complain(format_args!("removing a cgroup: {error}"));
                true
            })
        });
    }

    /// Takes every ended child: programs of containers, of execs, orphans.
    fn reap(&mut self) {
        loop {
            match process::reap() {
                Ok(None) => return,
                Ok(Some(ended)) => self.ended(ended),
                Err(error) => return complain(format_args!("reaping: {error}")),
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        if let Some(pid) = self.execs.contains_key(&ended.pid).then_some(ended.pid) {
            // It may have ended before its report was read.
            self.advance_exec(pid);
            if let Some(exec) = self.execs.remove(&pid) {
                let exit = Exit {
                    id: String::new(),
                    code: ended.code,
                    signal: ended.signal,
                    oom_killed: false,
                    finished_at: now(),
                };
                self.reply(exec.connection, &Response::Exited(exit));
            }
            return;
        }
        let Some(id) = self.containers.values().find(|c| c.process.pid == ended.pid).map(|c| c.id.clone()) else {
            return;
        };
        if self.starting.contains_key(&id) {
            self.advance(&id);
        }
        let Some(mut container) = self.containers.remove(&id) else { return };
        // Without a PID namespace of its own its other processes are still there.
        if container.spec.pid != PidMode::Container
            && let Err(error) = container.cgroup.kill()
        {
            complain(format_args!("ending processes of {id}: {error}"));
        }
        self.drain(&mut container);
        let oom_killed = container.cgroup.oom_kills().unwrap_or(0) > 0;
        let exit = Exit { id: id.clone(), code: ended.code, signal: ended.signal, oom_killed, finished_at: now() };
        // On disk before anybody is told: who is not there to hear it reads it later.
        if let Err(error) = record(&container, &exit) {
            complain(format_args!("recording the exit of {id}: {error}"));
        }
        self.leftover.push(container.cgroup);
        self.stdin_behind.remove(&id);
        let told: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| match &connection.role {
                Role::Subscriber => true,
                Role::Attached(container) => *container == id,
                _ => false,
            })
            .map(|(connection, _)| *connection)
            .collect();
        for connection in told {
            self.reply(connection, &Response::Exited(exit.clone()));
        }
        self.clients.retain(|client| client.container != id);
    }

    /// The last output, so that the log is whole before the exit is told. What another process that inherited the
    /// stream may still write is not waited for.
    fn drain(&mut self, container: &mut Container) {
        let id = container.id.clone();
        for index in 0..2 {
            let mut read = 1;
            while read > 0 && container.outputs[index].is_some() {
                read = 0;
                let clients = &mut self.clients;
                container.pump(index, &mut |data| {
                    read = data.len();
                    for client in clients.iter_mut().filter(|client| client.container == id) {
                        client.give(index, data);
                    }
                });
            }
            if let (Some(output), Some(log)) = (&mut container.outputs[index], &mut container.log) {
                output.lines.finish(log);
            }
        }
    }
}

impl Client {
    /// Hands over output; what is not taken waits, up to a bound, and the container with it.
    fn give(&mut self, stream: usize, data: &[u8]) {
        let Some(output) = &self.outputs[stream] else { return };
        let pending = &mut self.behind[stream];
        pending.extend_from_slice(data);
        while !pending.is_empty() {
            match rustix::io::write(output, pending) {
                Ok(written) => drop(pending.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    pending.clear();
                    self.outputs[stream] = None;
                    break;
                }
            }
        }
        let behind = self.behind.iter().any(|pending| pending.len() > MAX_BEHIND);
        self.since = behind.then(|| self.since.unwrap_or_else(now));
    }
}

fn record(container: &Container, exit: &Exit) -> std::io::Result<()> {
    let (path, temporary) = (container.spec.dir.join(EXIT), container.spec.dir.join("exit.json.new"));
    File::create(&temporary)?.write_all(&serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, path)
}
