//! What one waits for, said aloud: a step that takes longer than a second is named while it lasts and timed at its end.

use skiff_base::clock::SharedClock;
use std::future::Future;
use std::time::Duration;

/// From here on a step is worth a word.
const WORTH_A_WORD: Duration = Duration::from_secs(1);
/// How often it is said again.
const AGAIN: Duration = Duration::from_secs(10);

/// Runs a step; `what` names it in the log when it takes long.
pub(crate) async fn waited<T>(clock: &SharedClock, what: &str, step: impl Future<Output = T>) -> T {
    let begun = clock.now();
    tokio::pin!(step);
    let mut pause = WORTH_A_WORD;
    loop {
        tokio::select! {
            biased;
            outcome = &mut step => {
                let took = clock.now().duration_since(begun);
                if took >= WORTH_A_WORD {
                    tracing::info!(step = what, seconds = seconds(took), "done");
                }
                return outcome;
            }
            () = clock.sleep(pause) => {
                tracing::info!(step = what, seconds = seconds(clock.now().duration_since(begun)), "still waiting");
                pause = AGAIN;
            }
        }
    }
}

/// With one digit, for people.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

/// `180 ms`, `2.4 s`.
pub(crate) fn human(duration: Duration) -> String {
    if duration < WORTH_A_WORD {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        assert_eq!(human(Duration::from_millis(184)), "184 ms");
        assert_eq!(human(Duration::from_millis(2_449)), "2.4 s");
        assert_eq!(seconds(Duration::from_millis(2_449)), 2.4);
    }
}
