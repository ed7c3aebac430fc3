//! Which start of a CronJob is due, and when to look again (`controller/cronjob/utils.go`), pure.

use super::schedule::Schedule;
use crate::workload::int_at;
use jiff::{SignedDuration, Timestamp};
use skiff_machinery::Value;

/// From when on starts are counted as missed in a way that somebody should hear of.
const MANY: i64 = 100;

/// The start that is due, if any.
#[derive(Debug, PartialEq)]
pub(super) struct Due {
    pub(super) at: Option<Timestamp>,
    /// More than a hundred were missed.
    pub(super) too_many_missed: bool,
    /// From when starts were looked for.
    earliest: Timestamp,
}

fn time(tree: &Value, path: &[&str]) -> Option<Timestamp> {
    tree.at(path)?.as_str()?.parse().ok()
}

/// `spec.startingDeadlineSeconds`.
pub(super) fn starting_deadline(cron_job: &Value) -> Option<SignedDuration> {
    let seconds = cron_job.at(&["spec", "startingDeadlineSeconds"]).and_then(Value::as_int)?;
    Some(SignedDuration::from_secs(seconds))
}

/// The most recent start that has not been made (`mostRecentScheduleTime`).
pub(super) fn due(
    cron_job: &Value,
    now: Timestamp,
    schedule: &Schedule,
    with_deadline: bool,
) -> Result<Due, &'static str> {
    let created = time(cron_job, &["metadata", "creationTimestamp"]).unwrap_or(now);
    let mut earliest = time(cron_job, &["status", "lastScheduleTime"]).unwrap_or(created);
    // What is older than the deadline is not started any more.
    if let Some(deadline) = starting_deadline(cron_job).filter(|_| with_deadline)
        && let Ok(bound) = now.checked_sub(deadline)
    {
        earliest = earliest.max(bound);
    }
    let none = Due { at: None, too_many_missed: false, earliest };
    // A schedule that is never due, such as the 31st of February.
    let (Some(first), never) = (schedule.next(earliest), "time difference between two schedules is less than 1 second")
    else {
        return Err("time difference between two schedules is less than 1 second");
    };
    if now < first {
        return Ok(none);
    }
    let second = schedule.next(first).ok_or(never)?;
    if now < second {
        return Ok(Due { at: Some(first), ..none });
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(never);
    }
    let missed = now.duration_since(first).as_secs() / between + 1;
    // Near the last one by a jump, then exactly: starts need not be evenly apart.
    let jump = SignedDuration::from_secs((missed - 2).saturating_mul(between));
    let mut at = first.checked_add(jump).ok().and_then(|near| schedule.next(near));
    let mut latest = None;
    while let Some(start) = at.filter(|start| *start <= now) {
        latest = Some(start);
        at = schedule.next(start);
    }
    Ok(Due { at: latest, too_many_missed: missed > MANY, earliest })
}

/// How long until the next start (`nextScheduleTimeDuration`).
pub(super) fn until_next(cron_job: &Value, now: Timestamp, schedule: &Schedule) -> std::time::Duration {
    let from = match due(cron_job, now, schedule, false) {
        Ok(due) => due.at.unwrap_or(due.earliest),
        Err(_) => now,
    };
    let next = schedule.next(from).unwrap_or(now);
    // A little later, so that it is due for sure when it is looked at.
    let left = next.duration_since(now) + SignedDuration::from_millis(100);
    std::time::Duration::try_from(left).unwrap_or(std::time::Duration::from_millis(100))
}

/// Names of ended jobs beyond the history limits, oldest first (`cleanupFinishedJobs`).
pub(super) fn beyond_history(cron_job: &Value, jobs: &[&Value]) -> Vec<String> {
    let mut names = Vec::new();
    for (ty, field) in [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")] {
        let limit = int_at(cron_job, &["spec", field], -1);
        let Ok(limit) = usize::try_from(limit) else { continue };
        let mut ended: Vec<&&Value> = jobs.iter().filter(|job| crate::job::condition_is_true(job, ty)).collect();
        ended.sort_by_key(|job| {
            (job.str_at(&["status", "startTime"]).to_owned(), job.str_at(&["metadata", "name"]).to_owned())
        });
        let surplus = ended.len().saturating_sub(limit);
        names.extend(ended.iter().take(surplus).map(|job| job.str_at(&["metadata", "name"]).to_owned()));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use skiff_machinery::{list, object};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }
    fn cron_job(last: &str, deadline: Option<i64>) -> Value {
        let mut spec = object! { "schedule": "0 * * * *" };
        if let Some(deadline) = deadline {
            spec.as_object_mut().unwrap().insert("startingDeadlineSeconds", deadline);
        }
        let status = if last.is_empty() {
            object! {}
        } else {
            object! { "lastScheduleTime": last }
        };
        object! {
            "metadata": object! { "creationTimestamp": "2026-01-01T00:30:00Z" }, "spec": spec, "status": status,
        }
    }
    fn due_at(cron_job: &Value, now: &str) -> (Option<String>, bool) {
        let hourly = Schedule::parse("0 * * * *", TimeZone::UTC).unwrap();
        let due = due(cron_job, at(now), &hourly, true).unwrap();
        (due.at.map(|at| at.to_string()), due.too_many_missed)
    }

    #[test]
    fn the_latest_missed_start_is_due() {
        let new = cron_job("", None);
        assert_eq!(due_at(&new, "2026-01-01T00:59:59Z"), (None, false));
        assert_eq!(due_at(&new, "2026-01-01T01:00:00Z"), (Some("2026-01-01T01:00:00Z".to_owned()), false));
        let last = cron_job("2026-01-01T01:00:00Z", None);
        assert_eq!(due_at(&last, "2026-01-01T01:30:00Z"), (None, false));
        assert_eq!(due_at(&last, "2026-01-01T05:10:00Z"), (Some("2026-01-01T05:00:00Z".to_owned()), false));
        assert_eq!(due_at(&last, "2026-01-10T05:10:00Z"), (Some("2026-01-10T05:00:00Z".to_owned()), true));
    }

    #[test]
    fn nothing_older_than_the_deadline_is_started() {
        let strict = cron_job("2026-01-01T01:00:00Z", Some(300));
        assert_eq!(due_at(&strict, "2026-01-01T05:10:00Z"), (None, false));
        assert_eq!(due_at(&strict, "2026-01-01T05:04:00Z"), (Some("2026-01-01T05:00:00Z".to_owned()), false));
    }

    #[test]
    fn a_schedule_that_never_comes_is_an_error() {
        let never = Schedule::parse("59 23 31 2 *", TimeZone::UTC).unwrap();
        assert!(due(&cron_job("", None), at("2026-01-01T01:00:00Z"), &never, true).is_err());
    }

    #[test]
    fn the_next_look_is_at_the_next_start() {
        let hourly = Schedule::parse("0 * * * *", TimeZone::UTC).unwrap();
        let wait = until_next(&cron_job("2026-01-01T01:00:00Z", None), at("2026-01-01T01:10:00Z"), &hourly);
        assert_eq!(wait.as_millis(), 50 * 60 * 1000 + 100);
    }

    #[test]
    fn old_jobs_go_by_kind_of_end() {
        let job = |name: &str, ty: &str| {
            object! {
                "metadata": object! { "name": name },
                "status": object! {
                    "startTime": format!("2026-01-01T00:00:0{}Z", name.len()),
                    "conditions": list![object! { "type": ty, "status": "True" }],
                },
            }
        };
        let jobs = [job("aaa", "Complete"), job("a", "Complete"), job("aa", "Complete"), job("ffff", "Failed")];
        let all: Vec<&Value> = jobs.iter().collect();
        let limits = object! { "spec": object! { "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0 } };
        assert_eq!(beyond_history(&limits, &all), ["a", "aa", "ffff"]);
        assert!(beyond_history(&object! {}, &all).is_empty());
    }
}
