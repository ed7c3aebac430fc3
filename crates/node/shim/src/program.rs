//! The child's side, second half: become the user, give up what is not granted, run the program.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, OFlags};
use skiff_linux::caps::{self, Caps};
use skiff_linux::path::open_in_root;
use skiff_linux::{process, seccomp};
use skiff_shim::protocol::Program;

use crate::user::Identity;
use crate::{Step, step};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Sets the asked-for OOM score; going below the lowest score this process ever had needs a capability, without it the
/// score stays and the caller is told.
pub(crate) fn set_oom_score(score: Option<i32>, warnings: &mut Vec<String>) {
    let Some(score) = score else { return };
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        let now = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        warnings.push(format!("oom_score_adj {score} cannot be set ({error}); it stays at {}", now.trim()));
    }
}

/// Reads the filter while the host's files are still in sight.
pub(crate) fn read_filter(program: &Program) -> Step<Option<Vec<u8>>> {
    program.seccomp.as_deref().map(|path| step("reading the seccomp filter", std::fs::read(path))).transpose()
}

/// Runs the program; returns only the reason why it could not. The caller's root is the container's; only 0 to 2 will
/// stay open.
pub(crate) fn run(program: &Program, identity: &Identity, filter: Option<&[u8]>) -> String {
    match try_run(program, identity, filter) {
        Ok(never) => match never {},
        Err(reason) => reason,
    }
}

fn try_run(program: &Program, identity: &Identity, filter: Option<&[u8]>) -> Step<std::convert::Infallible> {
    let available = step("reading capabilities", Caps::of_this_process())?;
    let granted = Caps(program.capabilities).intersect(available);
    let ambient = Caps(program.ambient).intersect(granted);

    // Everything above 2 goes at exec, whether we know of it or not.
    step("closing descriptors", process::close_on_exec_from(3))?;
    process::reset_signals();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    // Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it comes before the privileges go; with it, as
    // late as possible, so that the filter need not allow what we do here.
    if let (Some(filter), false) = (filter, program.no_new_privs) {
        step("installing the seccomp filter", seccomp::install(filter))?;
    }
    step("limiting the bounding set", caps::bound(granted))?;
    step("keeping capabilities", caps::keep_across_setuid())?;
    step("changing the user", process::become_user(identity.uid, identity.gid, &identity.groups))?;
    step("setting capabilities", caps::limit(granted, ambient))?;
    enter_directory(&program.cwd)?;

    let mut env = program.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    let name = program.argv.first().map(String::as_str).unwrap_or_default();
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH).to_owned();
    let file = find(name, &path)?;
    let strings = |list: &[String]| {
        list.iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    };
    let (argv, env) = (strings(&program.argv)?, strings(&env)?);
    let file = CString::new(file.into_os_string().into_encoded_bytes()).map_err(|error| error.to_string())?;

    if program.no_new_privs {
        step("setting no_new_privs", rustix::thread::set_no_new_privs(true).map_err(Into::into))?;
        if let Some(filter) = filter {
            step("installing the seccomp filter", seccomp::install(filter))?;
        }
    }
    let error = process::exec(&file, &argv, &env);
    Err(format!("exec: {name:?}: {}", plain(&error)))
}

/// Enters the working directory without following magic links: `/proc/self/fd/N` would be a way out of the root.
fn enter_directory(cwd: &Path) -> Step<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    let failed =
        |error: std::io::Error| format!("chdir to cwd ({:?}) set in config.json failed: {}", cwd, plain(&error));
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let directory = open_in_root(root.as_fd(), cwd, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
    rustix::process::fchdir(directory).map_err(|error| failed(error.into()))?;
    // The kernel names a directory outside the root so.
    let here = rustix::process::getcwd(Vec::new()).map_err(|error| failed(error.into()))?;
    if here.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(failed(std::io::Error::from_raw_os_error(libc::EACCES)))
    }
}

/// The file for a command, as Go's `exec.LookPath` finds and reports it.
fn find(name: &str, path: &str) -> Step<PathBuf> {
    let runnable = |file: &Path| -> std::io::Result<()> {
        if rustix::fs::stat(file).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())? {
            return Err(std::io::Error::from_raw_os_error(libc::EISDIR));
        }
        Ok(rustix::fs::accessat(rustix::fs::CWD, file, Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    if name.contains('/') {
        return match runnable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("exec: {name:?}: stat {name}: no such file or directory"))
            }
            Err(error) => Err(format!("exec: {name:?}: {}", plain(&error))),
        };
    }
    let mut denied = false;
    for directory in path.split(':').filter(|_| !name.is_empty()) {
        let file = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match runnable(&file) {
            Ok(()) => return Ok(file),
            Err(error) => denied |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    Err(if denied {
        format!("exec: {name:?}: permission denied")
    } else {
        format!("exec: {name:?}: executable file not found in $PATH")
    })
}

/// The kernel's words as Go spells them, which is what people search for.
fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".to_owned(),
        Some(libc::EACCES | libc::EPERM) => "permission denied".to_owned(),
        Some(libc::EISDIR) => "is a directory".to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::ELOOP) => "too many levels of symbolic links".to_owned(),
        _ => error.to_string(),
    }
}

/// Puts the program's stdio in place: a terminal, which becomes the controlling one, or three descriptors.
pub(crate) fn install_stdio(stdio: [BorrowedFd<'_>; 3], tty: bool) -> Step<()> {
    step("starting a session", rustix::process::setsid().map(drop).map_err(Into::into))?;
    if tty {
        step("taking the terminal", process::take_terminal(stdio[0]))?;
    }
    for (number, fd) in stdio.iter().enumerate() {
        step("installing stdio", process::install_fd(*fd, number as i32))?;
    }
    Ok(())
}
