//! Arithmetic on what was measured, and what the kernel counts for a process.

use std::time::Duration;

/// The value below which `share` of the sorted values lie: the one at `length * share`, rounded down.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

/// Sorts and returns the middle and the 99th percentile.
pub fn median_and_p99(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (percentile(values, 0.5), percentile(values, 0.99))
}

/// Microseconds of CPU that each of `count` cost, from two readings of [`cpu_time`].
pub fn micros_each(before: Duration, after: Duration, count: usize) -> f64 {
    after.saturating_sub(before).as_secs_f64() * 1e6 / count.max(1) as f64
}

/// User and system time in clock ticks from `/proc/PID/stat`. The second field, the program's name, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident kibibytes from `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// The parent from `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn read(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// CPU time that the processes have used so far. A process that is gone counts nothing.
pub fn cpu_time(pids: &[u32]) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let ticks: u64 = pids.iter().filter_map(|pid| ticks(&read(*pid, "stat")?)).sum();
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// Resident memory of the processes, in MiB.
pub fn mebibytes(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| resident(&read(*pid, "status")?)).sum::<u64>() as f64 / 1024.0
}

/// The processes whose arguments name `directory`, and all that descend from them: a server, the shims of its pods
/// (which are told their directory) and what runs in the pods.
pub fn processes_of(directory: &std::path::Path) -> Vec<u32> {
    let text = directory.to_string_lossy().into_owned();
    let pids: Vec<u32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .collect();
    let mut found: Vec<u32> = pids
        .iter()
        .copied()
        .filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| names(&line, &text)))
        .collect();
    let parents: Vec<(u32, u32)> = pids.iter().filter_map(|pid| Some((*pid, parent(&read(*pid, "stat")?)?))).collect();
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn names(command_line: &[u8], directory: &str) -> bool {
    command_line.split(|byte| *byte == 0).any(|argument| String::from_utf8_lossy(argument).contains(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(median_and_p99(&mut values), (51.0, 100.0));
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn cpu_of_each_request() {
        let each = micros_each(Duration::from_millis(500), Duration::from_millis(900), 4000);
        assert!((each - 100.0).abs() < 1e-9);
        assert_eq!(micros_each(Duration::from_secs(2), Duration::from_secs(1), 10), 0.0);
    }

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        let stat = "77 (a b) c) S 4 77 77 0 -1 4194560 11 0 0 0 130 20 0 0 20 0 9 0 1 2 3";
        assert_eq!(ticks(stat), Some(150));
        assert_eq!(parent(stat), Some(4));
        assert_eq!(ticks("nonsense"), None);
        assert_eq!(resident("Name:\tx\nVmHWM:\t   900 kB\nVmRSS:\t    2048 kB\n"), Some(2048));
        let own = [std::process::id()];
        assert!(mebibytes(&own) > 0.5);
        // At least one tick must be seen once enough work was done.
        let before = cpu_time(&own);
        let mut sum = 0u64;
        while cpu_time(&own) == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn a_process_belongs_to_the_directory_that_it_names() {
        assert!(names(b"skiff\0server\0--data-dir\0/tmp/x/data\0", "/tmp/x"));
        assert!(!names(b"skiff\0server\0--data-dir\0/tmp/y\0", "/tmp/x"));
    }
}
