//! Executed plugins: found in the plugin directories, configuration on standard input, result on standard output.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::types::{CniError, code};

/// How long a plugin may take before it is killed.
pub const PLUGIN_TIMEOUT: Duration = Duration::from_secs(120);
/// A result larger than this is a mistake.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// The executable of a plugin; the first directory that has it wins.
pub fn find(kind: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runnable = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    dirs.iter().map(|dir| dir.join(kind)).find(|path| runnable(path))
}

/// Runs a plugin. Its environment is ours plus `env`, as libcni does it (plugins need `PATH`).
pub fn run(path: &Path, env: &[(&str, String)], stdin: &[u8], timeout: Duration) -> Result<Option<Value>, CniError> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("?");
    let failed = |what: &str, e: std::io::Error| CniError::new(code::IO_FAILURE, format!("{what} plugin {name}: {e}"));
    let mut child = Process::new(path)
        .envs(env.iter().map(|(k, v)| (*k, v.as_str())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("starting", e))?;
    let mut to = child.stdin.take().expect("piped");
    let from = child.stdout.take().expect("piped");
    let errors = child.stderr.take().expect("piped");
    // The threads end when the plugin and whatever it started have closed their ends, at the latest after the kill.
    let (done, outcome) = mpsc::channel();
    let stderr_done = done.clone();
    let input = stdin.to_vec();
    std::thread::spawn(move || {
        // A plugin that does not read its input closes the pipe: its own answer says what is wrong.
        let _unread = to.write_all(&input);
        drop(to);
        let mut bytes = Vec::new();
        let read = from.take(OUTPUT_LIMIT).read_to_end(&mut bytes).map(|_| bytes);
        // Nobody waits any more after a timeout.
        let _late = done.send((1, read));
    });
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = errors.take(64 << 10).read_to_end(&mut bytes).map(|_| bytes);
        let _late = stderr_done.send((2, read));
    });
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let deadline = std::time::Instant::now() + timeout;
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        match outcome.recv_timeout(left) {
            Ok((1, read)) => stdout = read.map_err(|e| failed("reading from", e))?,
            Ok((_, read)) => stderr = read.map_err(|e| failed("reading from", e))?,
            Err(_) => {
                child.kill().map_err(|e| failed("killing", e))?;
                child.wait().map_err(|e| failed("waiting for", e))?;
                let msg = format!("plugin {name} did not finish within {} s and was killed", timeout.as_secs());
                return Err(CniError::new(code::TRY_AGAIN_LATER, msg));
            }
        }
    }
    let status = child.wait().map_err(|e| failed("waiting for", e))?;
    if status.success() {
        if stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        return serde_json::from_slice(&stdout)
            .map(Some)
            .map_err(|e| CniError::new(code::DECODING_FAILURE, format!("result of plugin {name} is not JSON: {e}")));
    }
    // Upstream: invoke/raw_exec.go `pluginErr`.
    match serde_json::from_slice::<CniError>(&stdout) {
        Ok(error) => Err(error),
        Err(_) if stdout.is_empty() && stderr.is_empty() => {
            Err(CniError::new(code::INTERNAL, format!("netplugin failed with no error message: {status}")))
        }
        Err(_) => {
            let text = if stdout.is_empty() { &stderr } else { &stdout };
            Err(CniError::new(code::INTERNAL, format!("netplugin failed: {:?}", String::from_utf8_lossy(text))))
        }
    }
}
