//! A container's log as the CRI defines it: `TIME STREAM TAG TEXT`, tag `F` for a whole line and `P` for a part of one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest line kept whole; containerd's `max_container_log_line_size`.
const MAX_LINE: usize = 16 * 1024;

pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // A link in place of the file is not followed: the directory is readable by log shippers, not trusted.
        let file = File::options().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    fn write(&mut self, text: &[u8]) {
        // A full disk must not stop the container; what cannot be written is lost, and the shim's own log says so.
        if let Err(error) = self.file.write_all(text) {
            crate::complain(format_args!("writing {}: {error}", self.path.display()));
        }
    }
}

/// One stream's unfinished line.
pub(crate) struct LineBuffer {
    stream: &'static str,
    pending: Vec<u8>,
}

impl LineBuffer {
    pub(crate) fn new(stream: &'static str) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Adds output; what makes whole lines goes to the log in one write.
    pub(crate) fn push(&mut self, mut data: &[u8], log: &mut LogFile) {
        let now = timestamp();
        let mut out = Vec::with_capacity(data.len() + 64);
        while !data.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = &data[..data.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.entry(&mut out, &now, b'F', &data[..end]);
                data = &data[end + 1..];
            } else if window.len() == room && data.get(room) == Some(&b'\n') {
                self.entry(&mut out, &now, b'F', window);
                data = &data[room + 1..];
            } else if window.len() == room {
                self.entry(&mut out, &now, b'P', window);
                data = &data[room..];
            } else {
                self.pending.extend_from_slice(window);
                data = &[];
            }
        }
        if !out.is_empty() {
            log.write(&out);
        }
    }

    /// The stream ended: a last line without newline is a part, as containerd writes it.
    pub(crate) fn finish(&mut self, log: &mut LogFile) {
        if !self.pending.is_empty() {
            let mut out = Vec::new();
            self.entry(&mut out, &timestamp(), b'P', &[]);
            log.write(&out);
        }
    }

    fn entry(&mut self, out: &mut Vec<u8>, now: &str, tag: u8, rest: &[u8]) {
        out.extend_from_slice(now.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.append(&mut self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
    }
}

/// Now, as `2016-10-06T00:17:09.669794202Z`.
fn timestamp() -> String {
    let now = crate::now();
    let (seconds, nanos) = (now.div_euclid(1_000_000_000), now.rem_euclid(1_000_000_000));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Days since 1970 as a date. Years are counted from 1 March, so that the leap day is the last one; 400 years are
/// always 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parts_and_the_end() {
        let path = std::env::temp_dir().join(format!("skiff-log-{}", std::process::id()));
        let mut log = LogFile::open(&path).unwrap();
        let mut out = LineBuffer::new("stdout");
        out.push(b"one\ntw", &mut log);
        out.push(b"o\n\n", &mut log);
        out.push(&[b'x'; MAX_LINE], &mut log);
        out.push(b"y\nend", &mut log);
        out.finish(&mut log);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<(&str, &str)> =
            text.lines().map(|line| line.split_once(' ').unwrap().1.split_at("stdout X ".len())).collect();
        let long = "x".repeat(MAX_LINE);
        assert_eq!(
            lines,
            [
                ("stdout F ", "one"),
                ("stdout F ", "two"),
                ("stdout F ", ""),
                ("stdout P ", long.as_str()),
                ("stdout F ", "y"),
                ("stdout P ", "end"),
            ]
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(civil(-1), (1969, 12, 31));
    }
}
