//! Components that are started again when they end: with a back-off, a word in the log, and no other component taken
//! along. What the whole process stands on (API server, store, kubelet) is not kept here: when that ends, so does the
//! process, and whoever manages it starts it anew.

use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A component that ran this long has earned a short pause again.
const RAN_WELL: Duration = Duration::from_secs(300);
const GRACE: Duration = Duration::from_secs(5);

/// Starts a component below `owner`, again and again until `owner` ends. `start` gets the supervisor of that run; the
/// component has ended when that one is asked to end.
pub(crate) fn keep<S, F>(owner: &Supervisor, name: &'static str, clock: &SharedClock, start: S)
where
    S: Fn(Supervisor) -> F + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (owner_of_runs, clock) = (owner.clone(), Arc::clone(clock));
    owner.spawn(name, OnFailure::EndComponent, async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let run = owner_of_runs.child(name);
            let begun = clock.now();
            match start(run.clone()).await {
                Ok(()) => run.token().cancelled().await,
                Err(error) => tracing::error!(component = name, error = format!("{error:#}"), "cannot start"),
            }
            let late = run.shutdown(GRACE).await;
            if !late.is_empty() {
                tracing::warn!(component = name, ?late, "some tasks did not end in time");
            }
            if owner_of_runs.token().is_cancelled() {
                return;
            }
            if clock.now().duration_since(begun) >= RAN_WELL {
                pause = FIRST_PAUSE;
            }
            tracing::error!(component = name, seconds = pause.as_secs(), "ended: it is started again after a pause");
            tokio::select! {
                () = clock.sleep(pause) => (),
                () = owner_of_runs.token().cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::clock::Clock;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Instant, SystemTime};

    /// Does not wait, but notes what it was asked to.
    struct Impatient(parking_lot::Mutex<Vec<Duration>>);
    impl Clock for Impatient {
        fn now(&self) -> Instant {
            Instant::now()
        }
        fn wall(&self) -> SystemTime {
            SystemTime::now()
        }
        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            self.0.lock().push(deadline.saturating_duration_since(Instant::now()));
            Box::pin(tokio::task::yield_now())
        }
    }

    #[tokio::test]
    async fn a_component_that_ends_is_started_again_and_an_owner_that_ends_is_not() {
        let owner = Supervisor::new("test");
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let clock = Arc::new(Impatient(parking_lot::Mutex::default()));
        keep(&owner, "part", &(Arc::clone(&clock) as SharedClock), move |run| {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0 => anyhow::bail!("on purpose"),
                    1 => run.spawn("needed", OnFailure::EndComponent, async { panic!("on purpose") }),
                    _ => run.spawn_abortable("needed", OnFailure::EndComponent, std::future::pending()),
                }
                Ok(())
            }
        });
        let third = async {
            while starts.load(Ordering::SeqCst) < 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), third).await.expect("started three times");
        let pauses: Vec<u64> = clock.0.lock().iter().map(|pause| pause.as_secs_f64().round() as u64).collect();
        assert_eq!(pauses, [1, 2], "longer each time");
        assert!(owner.shutdown(Duration::from_secs(10)).await.is_empty());
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }
}
