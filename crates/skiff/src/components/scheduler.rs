//! kube-scheduler: its flags, and its start.

use super::serving::{self, Serving, Telling};
use super::{ELECTION, Election, Entry, Place, Said, Spec, flag};
use skiff_base::clock::SharedClock;
use skiff_base::flags::Component;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_client::leader::LeaderElector;
use skiff_scheduler::metrics::Metrics;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Flags.
pub(crate) const SPEC: Spec =
    Spec { component: Component::KubeScheduler, flags: &[serving::CONNECTION, serving::FLAGS, ELECTION, OWN] };

const OWN: &[Entry] = &[flag("feature-gates", "Features by name; a gate can only be given the value that it has.")];

/// What they mean.
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) election: Option<Election>,
    pub(crate) serving: Serving,
    pub(crate) verbosity: i64,
}

impl Options {
    /// Checked; every mistake is told.
    pub(crate) fn read(said: &Said, mistakes: &mut Vec<String>) -> Self {
        said.gates(mistakes);
        Self {
            kubeconfig: said.path("kubeconfig"),
            election: Election::read(said, "kube-scheduler", mistakes),
            serving: Serving::read(said, SocketAddr::from(([0, 0, 0, 0], 10259)), mistakes),
            verbosity: said.verbosity(),
        }
    }
    /// From `--kube-scheduler-arg`.
    pub(crate) fn in_server(arguments: Vec<String>, mistakes: &mut Vec<String>) -> Option<Self> {
        super::note_all(SPEC.parse(Place::Server, arguments), mistakes).map(|said| Self::read(&said, mistakes))
    }
}

/// Its metrics, told with the component's others. They outlive a start.
pub(crate) fn metrics(telling: &Telling, clock: &SharedClock) -> Arc<Metrics> {
    let metrics = Metrics::new(Arc::clone(clock));
    telling.measure(Arc::clone(&metrics) as _);
    metrics
}

/// Starts it.
pub(crate) fn spawn(
    client: Client,
    elector: Option<Arc<LeaderElector>>,
    metrics: Arc<Metrics>,
    clock: &SharedClock,
    supervisor: &Supervisor,
) {
    let (name, clock) = ("default-scheduler".to_owned(), Arc::clone(clock));
    skiff_scheduler::run::spawn(client, skiff_scheduler::run::Config { name, elector, metrics, clock }, supervisor);
}
