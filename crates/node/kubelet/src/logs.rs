//! Container logs in CRI format: `TIME STREAM P|F TEXT` (`kuberuntime/logs/logs.go`).

use crate::pod::container::{Node, log_directory};
use crate::pod::spec::Pod;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// At most `limit` bytes from the end of a small file; empty when it cannot be read. Links are not followed.
pub(crate) fn tail_of_file(path: &Path, limit: u64) -> String {
    let regular = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !regular {
        return String::new();
    }
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'l> {
    /// RFC 3339 with nanoseconds, as written.
    pub time: &'l str,
    /// `stdout` or `stderr`.
    pub stream: &'l str,
    /// Whether the line goes on in the next.
    pub partial: bool,
    /// The text, without the newline that ends a full line.
    pub text: &'l [u8],
}

/// Reads one line (without its newline).
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    matches!(stream, "stdout" | "stderr").then_some(Line { time, stream, partial: tag.first() == Some(&b'P'), text })
}

/// The last `lines` lines of a log, at most `limit` bytes: a container's last words when it left no message.
pub(crate) fn last_lines(path: &Path, lines: usize, limit: usize) -> String {
    // Generous for the framing around each line.
    let raw = tail_of_file(path, (limit as u64) * 4 + 8192);
    let parsed: Vec<String> = raw
        .lines()
        .filter_map(|line| parse(line.as_bytes()).map(|line| String::from_utf8_lossy(line.text).into_owned()))
        .collect();
    let text = parsed[parsed.len().saturating_sub(lines)..].join("\n");
    let cut = text.len().saturating_sub(limit);
    let cut = (cut..=text.len()).find(|position| text.is_char_boundary(*position)).unwrap_or(text.len());
    text[cut..].to_owned()
}

/// What of a log is wanted (`PodLogOptions`).
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Go on as the log grows.
    pub follow: bool,
    /// Show times.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<usize>,
    /// Only lines at or after this time.
    pub since: Option<jiff::Timestamp>,
    /// At most so many bytes.
    pub limit_bytes: Option<usize>,
    /// `stdout`, `stderr`, or both when empty.
    pub stream: String,
}

impl LogOptions {
    /// Writes a line if it is wanted; partial lines without a newline.
    pub fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        if !self.stream.is_empty()
            && !self.stream.eq_ignore_ascii_case("all")
            && !self.stream.eq_ignore_ascii_case(line.stream)
        {
            return;
        }
        if let Some(since) = self.since
            && line.time.parse::<jiff::Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        if self.timestamps {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
    }
}

/// Where the last `lines` lines of a log begin. Reads from the end in blocks, never the whole file.
pub fn tail_start(file: &mut std::fs::File, lines: usize) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 << 10;
    let length = file.metadata()?.len();
    let mut end = length;
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (offset, byte) in block.iter().enumerate().rev() {
            let position = start + offset as u64;
            // The newline that ends the file ends the last line and begins none.
            if *byte == b'\n' && position + 1 < length {
                seen += 1;
                if seen == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

fn link_name(pod: &Pod, container: &str, id: &str) -> String {
    format!("{}_{}_{container}-{id}.log", pod.name(), pod.namespace())
}

/// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, where log shippers look.
pub(crate) fn link(pod: &Pod, container: &str, id: &str, log_path: &str, node: &Node) {
    let Some(links) = &node.log_links else { return };
    let link = links.join(link_name(pod, container, id));
    let target = Path::new(&log_directory(pod, &node.log_root)).join(log_path);
    let made = std::fs::create_dir_all(links).and_then(|()| std::os::unix::fs::symlink(target, &link));
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::warn!(link = %link.display(), %error, "log not linked");
    }
}

/// Removes the log directories of pods that nobody wants (`NAMESPACE_NAME_UID`), and links to logs that are gone
/// (`evictPodLogsDirectories`): a kubelet that ended between a pod's end and this leaves them. Blocking.
pub(crate) fn remove_orphaned(node: &Node, wanted: impl Fn(&str) -> bool) -> std::io::Result<()> {
    let entries = |path: &Path| match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect::<std::io::Result<Vec<_>>>(),
    };
    for entry in entries(Path::new(&node.log_root))? {
        let name = entry.file_name();
        let parts: Vec<&str> = name.to_str().unwrap_or_default().split('_').collect();
        if let [_, _, uid] = parts[..]
            && entry.file_type()?.is_dir()
            && !wanted(uid)
        {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    for link in node.log_links.as_deref().map(entries).transpose()?.unwrap_or_default() {
        let ours = std::fs::read_link(link.path()).is_ok_and(|target| target.starts_with(&node.log_root));
        if ours && !link.path().exists() {
            std::fs::remove_file(link.path())?;
        }
    }
    Ok(())
}

/// Removes the logs of one container, rotated ones too, and the link to them (`removeContainerLog`).
pub(crate) fn remove_container(pod: &Pod, container: &str, id: &str, log: &Path, node: &Node) {
    let mut gone: Vec<std::path::PathBuf> =
        node.log_links.iter().map(|links| links.join(link_name(pod, container, id))).collect();
    // Only what the kubelet has put below the pod's own directory.
    if log.starts_with(log_directory(pod, &node.log_root)) {
        gone.extend(crate::rotation::files(log).unwrap_or_default());
        gone.push(log.to_owned());
    }
    for path in gone {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "log not removed");
        }
    }
}

/// Removes the pod's logs and the links to them.
pub(crate) fn remove(pod: &Pod, node: &Node) {
    let prefix = format!("{}_{}_", pod.name(), pod.namespace());
    let directory = log_directory(pod, &node.log_root);
    for entry in node.log_links.iter().flat_map(std::fs::read_dir).flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix)
            && std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(&directory));
        if ours && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(link = %entry.path().display(), %error, "log link not removed");
        }
    }
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory, %error, "logs not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_read_and_write() {
        let line = parse(b"2026-01-01T00:00:00.5Z stdout P half ").unwrap();
        assert_eq!((line.partial, line.text), (true, &b"half "[..]));
        assert!(parse(b"garbage").is_none());
        let mut out = Vec::new();
        LogOptions { timestamps: true, ..LogOptions::default() }.write(&parse(b"T stderr F x").unwrap(), &mut out);
        assert_eq!(out, b"T x\n");
    }

    #[test]
    fn the_tail_is_found_from_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        for number in 0..10_000 {
            writeln!(file, "T stdout F line {number}").unwrap();
        }
        let start = tail_start(&mut file, 2).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "T stdout F line 9998\nT stdout F line 9999\n");
        assert_eq!(tail_start(&mut file, 20_000).unwrap(), 0);
    }
}
