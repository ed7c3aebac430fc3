//! Owned tasks and orderly shutdown.
//!
//! Every task has a name, an owner and a policy for failure; none is started bare. A [`Supervisor`] owns the tasks of
//! one component. [`Supervisor::shutdown`] asks them to end, waits for a grace period and tells who was late.
//!
//! A panic ends the task, is logged once, and the [`OnFailure`] policy says what follows. The store's write path does
//! not use this: there a panic ends the process, because the state on disk is then unknown.

use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What follows when a task ends before it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing but a log line: the task was for one request or connection.
    Forget,
    /// The whole supervisor is asked to end: the component cannot work without the task.
    EndComponent,
}

/// Owns the tasks of one component.
#[derive(Clone)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

struct Shared {
    component: &'static str,
    token: CancellationToken,
    runtime: tokio::runtime::Handle,
    running: Mutex<Running>,
    ended: tokio::sync::Notify,
    panics: AtomicU64,
}

#[derive(Default)]
struct Running {
    next: u64,
    tasks: std::collections::BTreeMap<u64, String>,
}

/// Takes a task off the list however it ends.
struct Registration {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.running.lock().tasks.remove(&self.id);
        self.shared.ended.notify_waiters();
    }
}

impl Supervisor {
    /// A supervisor for `component` whose tasks run on the current runtime.
    pub fn new(component: &'static str) -> Self {
        Self::on(component, tokio::runtime::Handle::current(), CancellationToken::new())
    }

    /// A supervisor on a given runtime, which ends when `token` is cancelled.
    pub fn on(component: &'static str, runtime: tokio::runtime::Handle, token: CancellationToken) -> Self {
        let shared = Shared {
            component,
            token,
            runtime,
            running: Mutex::default(),
            ended: tokio::sync::Notify::new(),
            panics: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A supervisor for a part of this one: it ends when this one does, and can end alone.
    pub fn child(&self, component: &'static str) -> Self {
        Self::on(component, self.shared.runtime.clone(), self.shared.token.child_token())
    }

    /// Cancelled when the tasks should end.
    pub fn token(&self) -> &CancellationToken {
        &self.shared.token
    }

    /// The runtime on which tasks run.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.shared.runtime
    }

    /// How many tasks have panicked.
    pub fn panics(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Starts a task. It is *not* cancelled at shutdown: it watches [`Supervisor::token`] itself and ends cleanly.
    pub fn spawn<F>(&self, name: impl Into<String>, policy: OnFailure, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let id = {
            let mut running = self.shared.running.lock();
            running.next += 1;
            let id = running.next;
            running.tasks.insert(id, name.clone());
            id
        };
        let registration = Registration { shared: Arc::clone(&self.shared), id };
        let shared = Arc::clone(&self.shared);
        let inner = self.shared.runtime.spawn(task);
        self.shared.runtime.spawn(async move {
            let outcome = inner.await;
            drop(registration);
            if let Err(error) = &outcome
                && error.is_panic()
            {
                shared.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(component = shared.component, task = name, "task panicked");
            }
            if policy == OnFailure::EndComponent && !shared.token.is_cancelled() {
                if outcome.is_ok() {
                    tracing::error!(component = shared.component, task = name, "task ended early");
                }
                shared.token.cancel();
            }
        });
    }

    /// Starts a task that is dropped at its next await when the supervisor is asked to end.
    pub fn spawn_abortable<F>(&self, name: impl Into<String>, policy: OnFailure, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.shared.token.clone();
        self.spawn(name, policy, async move {
            tokio::select! {
                () = token.cancelled() => (),
                () = task => (),
            }
        });
    }

    /// Names of the tasks that run.
    pub fn tasks(&self) -> Vec<String> {
        self.shared.running.lock().tasks.values().cloned().collect()
    }

    /// Asks all tasks to end and waits at most `grace`. Returns the names of those that were late.
    pub async fn shutdown(&self, grace: Duration) -> Vec<String> {
        self.shared.token.cancel();
        let all_ended = async {
            loop {
                let ended = self.shared.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.shared.running.lock().tasks.is_empty() {
                    return;
                }
                ended.await;
            }
        };
        match tokio::time::timeout(grace, all_ended).await {
            Ok(()) => Vec::new(),
            Err(_) => self.tasks(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_names_the_late() {
        let supervisor = Supervisor::new("test");
        let token = supervisor.token().clone();
        supervisor.spawn("prompt", OnFailure::EndComponent, async move { token.cancelled().await });
        supervisor.spawn("stuck", OnFailure::Forget, std::future::pending());
        assert_eq!(supervisor.shutdown(Duration::from_millis(50)).await, ["stuck"]);
    }

    #[tokio::test]
    async fn a_needed_task_that_panics_ends_the_component() {
        let supervisor = Supervisor::new("test");
        supervisor.spawn("needed", OnFailure::EndComponent, async { panic!("on purpose") });
        supervisor.token().cancelled().await;
        assert_eq!(supervisor.panics(), 1);
    }
}
