//! kube-scheduler: its flags, and its start.

use super::serving::{self, Serving};
use super::{ELECTION, Election, Entry, Place, Said, Spec, flag};
use skiff_base::clock::SharedClock;
use skiff_base::flags::Component;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_client::leader::LeaderElector;
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

/// Starts it.
pub(crate) fn spawn(client: Client, elector: Option<Arc<LeaderElector>>, clock: &SharedClock, supervisor: &Supervisor) {
    let config =
        skiff_scheduler::run::Config { name: "default-scheduler".to_owned(), elector, clock: Arc::clone(clock) };
    skiff_scheduler::run::spawn(client, config, supervisor);
}
