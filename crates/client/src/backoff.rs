//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off with jitter, from `initial` to `max`.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is about `initial`; each failure doubles it up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, failures: 0 }
    }
    /// Something worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
    /// Something failed: how long to wait.
    pub fn next_wait(&mut self) -> Duration {
        let factor = 1u32 << self.failures.min(20);
        self.failures += 1;
        let wait = self.initial.saturating_mul(factor).min(self.max);
        jitter(wait, 0.5)
    }
}

/// `wait` plus up to `factor` of it, at random, so that many clients do not come back at once.
pub fn jitter(wait: Duration, factor: f64) -> Duration {
    let mut bytes = [0u8; 4];
    // Without randomness there is no jitter: a slower herd, not a failure.
    if getrandom::fill(&mut bytes).is_err() {
        return wait;
    }
    let part = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
    wait.mul_f64(1.0 + factor * part)
}
