//! Health endpoints' content: named checks, and upstream's words for what they say
//! (`apiserver/pkg/server/healthz/healthz.go`).
//!
//! HTTP stands elsewhere: [`Health::answer`] takes path and query and returns status and text.

use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells whether something is well; the error is for the log, clients read `reason withheld`.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which endpoints a check is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `/healthz`, `/livez` and `/readyz`.
    All,
    /// `/livez` and `/healthz`: when it fails the process should be restarted.
    Live,
    /// `/readyz` alone: when it fails no requests should come.
    Ready,
}

/// Something that becomes true once, such as a finished start hook.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);
impl Readiness {
    /// From now on it is so.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
    /// Whether it is so.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The checks of a component.
#[derive(Default)]
pub struct Health {
    checks: RwLock<Vec<(String, Part, Check)>>,
}

/// An answer: status code and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200, 404 or 500.
    pub status: u16,
    /// Plain text.
    pub text: String,
}

impl Health {
    /// With upstream's first check, `ping`, which always passes.
    pub fn new() -> Self {
        let health = Self::default();
        health.add("ping", Part::All, Arc::new(|| Ok(())));
        health
    }

    /// Adds a check; a later one of the same name takes its place.
    pub fn add(&self, name: impl Into<String>, part: Part, check: Check) {
        let name = name.into();
        let mut checks = self.checks.write();
        checks.retain(|(known, ..)| *known != name);
        checks.push((name, part, check));
    }

    /// Adds a check that fails until the returned readiness is set, such as `poststarthook/rbac/bootstrap-roles`.
    pub fn add_readiness(&self, name: impl Into<String>, part: Part) -> Readiness {
        let readiness = Readiness::default();
        let seen = readiness.clone();
        self.add(name, part, Arc::new(move || if seen.is_set() { Ok(()) } else { Err("not finished".to_owned()) }));
        readiness
    }

    /// Whether every check of `/readyz` passes.
    pub fn is_ready(&self) -> bool {
        self.of("readyz").iter().all(|(_, check)| check().is_ok())
    }

    fn of(&self, endpoint: &str) -> Vec<(String, Check)> {
        let wanted = |part: &Part| match part {
            Part::All => true,
            Part::Live => endpoint != "readyz",
            Part::Ready => endpoint == "readyz",
        };
        let checks = self.checks.read();
        let chosen = checks.iter().filter(|(_, part, _)| wanted(part));
        chosen.map(|(name, _, check)| (name.clone(), Arc::clone(check))).collect()
    }

    /// Answers `/healthz`, `/livez`, `/readyz` and `/ENDPOINT/CHECK`; `None` for other paths. `verbose` and `exclude`
    /// come from the query.
    pub fn answer<'q>(&self, path: &str, verbose: bool, exclude: impl Iterator<Item = &'q str>) -> Option<Answer> {
        let path = path.strip_prefix('/')?;
        let (endpoint, one) = path.split_once('/').map_or((path, None), |(endpoint, one)| (endpoint, Some(one)));
        if !matches!(endpoint, "healthz" | "livez" | "readyz") {
            return None;
        }
        let checks = self.of(endpoint);
        Some(match one.filter(|one| !one.is_empty()) {
            Some(one) => single(&checks, one),
            None => all(endpoint, &checks, verbose, exclude),
        })
    }
}

fn single(checks: &[(String, Check)], name: &str) -> Answer {
    let Some((_, check)) = checks.iter().find(|(known, _)| known == name) else {
        return Answer { status: 404, text: "404 page not found\n".to_owned() };
    };
    match check() {
        Ok(()) => Answer { status: 200, text: "ok".to_owned() },
        Err(why) => Answer { status: 500, text: format!("internal server error: {why}\n") },
    }
}

fn all<'q>(
    endpoint: &str,
    checks: &[(String, Check)],
    verbose: bool,
    exclude: impl Iterator<Item = &'q str>,
) -> Answer {
    let mut excluded: BTreeSet<&str> = exclude.filter(|name| !name.is_empty()).collect();
    let (mut text, mut failed) = (String::new(), Vec::new());
    for (name, check) in checks {
        if excluded.remove(name.as_str()) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check() {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed.push((name, why));
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| skiff_machinery::error::quote(name)).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(", ")));
    }
    if failed.is_empty() {
        if !verbose {
            return Answer { status: 200, text: "ok".to_owned() };
        }
        text.push_str(&format!("{endpoint} check passed\n"));
        return Answer { status: 200, text };
    }
    for (name, why) in failed {
        tracing::debug!(endpoint, check = name, why, "health check failed");
    }
    text.push_str(&format!("{endpoint} check failed\n"));
    Answer { status: 500, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_upstreams_words() {
        let health = Health::new();
        let hook = health.add_readiness("poststarthook/start", Part::Ready);
        let get = |path: &str, verbose, exclude: &[&'static str]| {
            health.answer(path, verbose, exclude.iter().copied()).map(|answer| (answer.status, answer.text))
        };
        assert_eq!(get("/livez", false, &[]), Some((200, "ok".into())));
        let failed = "[+]ping ok\n[-]poststarthook/start failed: reason withheld\nreadyz check failed\n";
        assert_eq!(get("/readyz", false, &[]), Some((500, failed.into())));
        let excluded = "[+]ping ok\n[+]poststarthook/start excluded: ok\nreadyz check passed\n";
        assert_eq!(get("/readyz", true, &["poststarthook/start"]), Some((200, excluded.into())));
        assert_eq!(
            get("/livez", true, &["x"]),
            Some((
                200,
                "[+]ping ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nlivez check passed\n"
                    .into()
            ))
        );
        assert_eq!(get("/readyz/poststarthook/start", false, &[]).map(|answer| answer.0), Some(500));
        hook.set();
        assert_eq!(get("/readyz/poststarthook/start", false, &[]), Some((200, "ok".into())));
        assert!(health.is_ready());
        assert_eq!(get("/readyz/none", false, &[]).map(|answer| answer.0), Some(404));
        assert_eq!(get("/metrics", false, &[]), None);
    }
}
