//! What runtime and shim say to each other: frames of a four-byte big-endian length and JSON, on `shim.sock` in the
//! sandbox's directory. One request per connection; [`Request::Exec`], [`Request::Attach`] and [`Request::Subscribe`]
//! keep theirs open.
//!
//! A runtime may meet a shim of an older build: fields are only added, with defaults, and [`VERSION`] moves when that
//! is not enough.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of this protocol; told by [`Response::Containers`].
pub const VERSION: u32 = 1;
/// Name of the socket in the sandbox's directory.
pub const SOCKET: &str = "shim.sock";
/// Name of the [`SandboxSpec`] file in the sandbox's directory.
pub const SANDBOX_SPEC: &str = "shim.json";
/// Name of the [`Exit`] file in a container's directory.
pub const EXIT: &str = "exit.json";
/// Directory of namespace pins in the sandbox's directory.
pub const PINS: &str = "ns";
/// Directory of the pod's `/dev/shm` in the sandbox's directory.
pub const SHM: &str = "shm";
/// Largest frame either side takes.
pub const MAX_FRAME: usize = 8 << 20;

/// What a shim is started with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// No network namespace of its own.
    pub host_network: bool,
    /// No IPC namespace of its own.
    pub host_ipc: bool,
    /// One PID namespace for all containers, with a small init.
    pub shared_pid: bool,
    /// Host name, set in a UTS namespace of its own; `None` with `host_network`.
    pub hostname: Option<String>,
    /// Cgroup of the init of a shared PID namespace.
    pub cgroup: PathBuf,
}

/// Which processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own.
    #[default]
    Container,
    /// The pod's.
    Pod,
    /// The host's.
    Host,
    /// Those of another container of the pod.
    Target(String),
}

/// How mounts travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Not.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A host directory or file shown in the container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Volume {
    /// On the host; links are followed. Of an image volume: what is written over its layers, which is nothing.
    pub source: PathBuf,
    /// Of an image volume: the layers, topmost first.
    #[serde(default)]
    pub layers: Vec<PathBuf>,
    /// In the container.
    pub target: PathBuf,
    /// Not writable.
    pub readonly: bool,
    /// With everything mounted below it.
    pub recursive_readonly: bool,
    /// How mounts travel.
    pub propagation: MountPropagation,
}

/// A device node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Device {
    /// In the container.
    pub path: PathBuf,
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Some of `rwm`.
    pub access: String,
}

/// Limits, as `skiff_linux::cgroup::Limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes of memory plus swap.
    pub memory_swap: Option<i64>,
    /// CPU list.
    pub cpuset_cpus: Option<String>,
    /// Node list.
    pub cpuset_mems: Option<String>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Page size to bytes.
    pub hugepages: std::collections::BTreeMap<String, u64>,
    /// v2 files.
    pub unified: std::collections::BTreeMap<String, String>,
}

impl From<&Limits> for skiff_linux::cgroup::Limits {
    fn from(limits: &Limits) -> Self {
        let limits = limits.clone();
        Self {
            cpu_shares: limits.cpu_shares,
            cpu_quota: limits.cpu_quota,
            cpu_period: limits.cpu_period,
            memory: limits.memory,
            memory_swap: limits.memory_swap,
            cpuset_cpus: limits.cpuset_cpus,
            cpuset_mems: limits.cpuset_mems,
            pids: limits.pids,
            hugepages: limits.hugepages,
            unified: limits.unified,
        }
    }
}

/// Who runs a program, unresolved: names are looked up in the container's own files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// `user`, `user:group`, numbers or names; empty is root.
    pub user: String,
    /// Overrides the group.
    pub group: Option<u32>,
    /// More groups.
    pub groups: Vec<u32>,
    /// Without those that the image's `/etc/group` adds.
    pub strict_groups: bool,
}

/// Everything about the program itself; an exec has one of its own, with the container's confinement.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory; made if missing, for a container.
    pub cwd: PathBuf,
    /// On a pseudo-terminal.
    pub tty: bool,
    /// Who.
    pub user: User,
    /// Bounding, permitted and effective capabilities, one bit each.
    pub capabilities: u64,
    /// Those that a user other than root keeps.
    pub ambient: u64,
    /// Set-user-id programs gain nothing.
    pub no_new_privs: bool,
    /// File with the compiled seccomp filter; `None` is unconfined.
    pub seccomp: Option<PathBuf>,
    /// Asked-for OOM score.
    pub oom_score_adj: Option<i32>,
}

/// A container to start. No `Debug`: environments hold secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name towards the runtime.
    pub id: String,
    /// Its directory on the host: `upper`, `work`, `rootfs` are in it, `exit.json` will be.
    pub dir: PathBuf,
    /// Image layers, topmost first.
    pub layers: Vec<PathBuf>,
    /// The root file system is not writable.
    pub readonly_rootfs: bool,
    /// Nothing masked, every device, cgroups and /sys writable.
    pub privileged: bool,
    /// The program.
    pub program: Program,
    /// PID namespace.
    pub pid: PidMode,
    /// Cgroup, from the root of the hierarchy.
    pub cgroup: PathBuf,
    /// Limits.
    pub limits: Limits,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Devices beside the standard ones.
    pub devices: Vec<Device>,
    /// Paths hidden.
    pub masked: Vec<PathBuf>,
    /// Paths shown read-only.
    pub readonly: Vec<PathBuf>,
    /// Where the CRI log goes; none if `None`.
    pub log: Option<PathBuf>,
    /// Keeps stdin open for attach.
    pub stdin: bool,
    /// Closes it when the first attached client leaves.
    pub stdin_once: bool,
}

/// A program in a running container. No `Debug`: environments hold secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct ExecSpec {
    /// In which container.
    pub container: String,
    /// What.
    pub program: Program,
}

/// What the runtime asks.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// What runs? Answered by [`Response::Containers`].
    List,
    /// Start a container: [`Response::Started`] once its program runs.
    Start(Box<ContainerSpec>),
    /// Start a program in a container. Without a terminal three descriptors come along: its stdin, stdout, stderr.
    /// [`Response::Started`], with the terminal's descriptor if there is one, then [`Response::Exited`]. A following
    /// [`Request::Signal`] on the same connection goes to this program.
    Exec(Box<ExecSpec>),
    /// Take part in a container's stdio. Descriptors: for `stdin` one to read from, for `stdout` and `stderr` one each
    /// to write to. [`Response::Done`] at once, [`Response::Exited`] at the end.
    Attach {
        /// Whose.
        container: String,
        /// A descriptor to read from comes along.
        stdin: bool,
        /// One to write to.
        stdout: bool,
        /// Another one.
        stderr: bool,
    },
    /// Signal a container's program.
    Signal {
        /// Whose.
        container: String,
        /// Number.
        signal: i32,
    },
    /// Set the size of a container's terminal.
    Resize {
        /// Whose.
        container: String,
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// Open the log file anew, after it was renamed.
    ReopenLog {
        /// Whose.
        container: String,
    },
    /// Set kernel parameters of the pod's namespaces.
    Sysctls(Vec<(String, String)>),
    /// Be told of every exit: [`Response::Exited`] as they happen.
    Subscribe,
    /// End; refused while a container runs.
    Shutdown,
}

/// A running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its name.
    pub id: String,
    /// Its first process.
    pub pid: i32,
}

/// How a container ended. Also the content of [`EXIT`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Which.
    pub id: String,
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal, or 0.
    pub signal: i32,
    /// The kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub finished_at: i64,
}

/// What the shim answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Done, nothing to tell.
    Done,
    /// Not done, and why.
    Failed(String),
    /// There is no such container here, or it has ended.
    NotRunning(String),
    /// Answer to [`Request::List`].
    Containers {
        /// [`VERSION`] of the shim.
        version: u32,
        /// Those that run.
        running: Vec<Running>,
    },
    /// The program runs.
    Started {
        /// Its process.
        pid: i32,
        /// Resolved user.
        uid: u32,
        /// Resolved group.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
        /// What had to be weakened, for the log.
        warnings: Vec<String>,
    },
    /// It ended.
    Exited(Exit),
}

/// Puts a message into a frame.
pub fn frame(message: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(message).expect("these messages have only string keys");
    let mut out = Vec::with_capacity(text.len() + 4);
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text);
    out
}

/// A frame that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes")]
    TooLong(usize),
    /// Not a message of this protocol.
    #[error("a frame that is no message")]
    Content(#[from] serde_json::Error),
}

/// Takes the first whole message from `buffer`, or nothing if it is not all there yet.
pub fn unframe<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*head) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    let Some(body) = buffer.get(4..4 + len) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..4 + len);
    Ok(Some(message))
}
