//! Waiting in tests: look again and again, never sleep and hope.
//!
//! The time is the machine's own, because what is waited for (kernel, disk, another process) goes by it too.

#![expect(clippy::disallowed_methods, reason = "between two looks at a condition that has a deadline")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long anything may take before the test says what it saw instead. Other tests may have the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(10);

/// Asks until there is an answer, and returns it; panics after a minute with what was seen last instead of it.
pub async fn eventually<T, S: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, S>) -> T {
    let since = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(seen) => assert!(since.elapsed() < PATIENCE, "still waiting for {what}: {seen:#?}"),
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Asks until it holds; panics after a minute. [`eventually`] says more when there is something to be seen.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Asks for so long whether what should not happen has happened; panics with what was seen as soon as it has.
pub async fn throughout<S: Debug>(time: Duration, what: &str, mut holds: impl AsyncFnMut() -> Result<(), S>) {
    let since = Instant::now();
    loop {
        if let Err(seen) = holds().await {
            panic!("{what}: not after {:?}: {seen:#?}", since.elapsed());
        }
        if since.elapsed() >= time {
            return;
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_comes_when_it_is_there() {
        let mut asked = 0;
        let answer = eventually("the third", async || {
            asked += 1;
            if asked == 3 { Ok("three") } else { Err(asked) }
        });
        assert_eq!(answer.await, "three");
        let mut looks = 0;
        throughout(BETWEEN * 3, "always", async || {
            looks += 1;
            Ok::<_, ()>(())
        })
        .await;
        assert!(looks > 1);
    }

    #[tokio::test]
    #[should_panic(expected = "quiet: not after")]
    async fn what_happens_too_early_is_told() {
        let mut looks = 0;
        throughout(PATIENCE, "quiet", async || {
            looks += 1;
            if looks == 3 { Err("noise") } else { Ok(()) }
        })
        .await;
    }
}
