//! The components under upstream's names and flags: alone (`skiff kube-scheduler ...`, or by the executable's name) and
//! inside `skiff server` (`--kube-scheduler-arg key=value`). One table for each says which of upstream's flags it acts
//! upon, and one parser reads both; the documents are written from the same tables (`docs/flags.md`).
//!
//! An upstream flag that is not in the table is refused by name unless it is given its default, which changes nothing.

pub(crate) mod accounts;
pub(crate) mod alone;
pub(crate) mod apiserver;
pub(crate) mod controller_manager;
pub(crate) mod kubelet;
pub(crate) mod proxy;
pub(crate) mod scheduler;
pub(crate) mod serving;

use crate::ports::Listen;
use crate::usage::note;
use skiff_base::flags::{Component, Served, Values};
use skiff_base::gates::Gates;
use skiff_client::leader::Timing;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What a flag of a component means inside `skiff server`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InServer {
    /// The same as alone.
    Same,
    /// The server says it for all components by this flag of its own.
    Flag(&'static str),
    /// Nothing: the server knows it.
    Never,
}

/// A flag that a component acts upon.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) served: Served,
    pub(crate) server: InServer,
    /// The only value that is taken, where a flag can only say what is so.
    pub(crate) only: Option<&'static str>,
}

/// One of upstream's flags, the same in the server.
const fn flag(name: &'static str, help: &'static str) -> Entry {
    Entry { served: Served::upstream(name, help), server: InServer::Same, only: None }
}
/// One that the server has under a name of its own.
const fn of_server(name: &'static str, server: &'static str, help: &'static str) -> Entry {
    Entry { server: InServer::Flag(server), ..flag(name, help) }
}
/// One that means nothing in the server.
const fn alone(name: &'static str, help: &'static str) -> Entry {
    Entry { server: InServer::Never, ..flag(name, help) }
}
/// One that can only say what is so.
const fn fixed(name: &'static str, value: &'static str, help: &'static str) -> Entry {
    Entry { only: Some(value), ..flag(name, help) }
}

/// Where flags come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A command line of the component's own.
    Alone,
    /// `--COMPONENT-arg` of `skiff server`.
    Server,
}

/// A component that has flags.
pub(crate) struct Spec {
    /// Which.
    pub(crate) component: Component,
    /// What it acts upon.
    pub(crate) flags: &'static [&'static [Entry]],
}

impl Spec {
    /// Its table, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        self.flags.iter().copied().flatten()
    }

    /// Reads a command line: arguments without the program's name.
    pub(crate) fn parse(&self, place: Place, arguments: Vec<String>) -> Result<Said, Vec<String>> {
        let served: Vec<Served> = self.entries().map(|entry| entry.served).collect();
        let context = |text: String| match place {
            Place::Alone => text,
            Place::Server => format!("--{}-arg: {text}", self.component.name()),
        };
        let values = Values::parse(self.component, &served, arguments)
            .map_err(|errors| errors.iter().map(|error| context(error.to_string())).collect::<Vec<_>>())?;
        let mut mistakes: Vec<String> = Vec::new();
        for entry in self.entries() {
            let name = entry.served.name;
            let Some(value) = values.get(name) else { continue };
            match entry.server {
                InServer::Flag(own) if place == Place::Server => {
                    mistakes.push(context(format!("--{name} is said by --{own} of skiff server")));
                }
                InServer::Never if place == Place::Server => {
                    mistakes.push(context(format!("--{name} means nothing inside skiff server, which knows it")));
                }
                _ => (),
            }
            if let Some(only) = entry.only.filter(|only| *only != value) {
                mistakes.push(context(format!("--{name}={value} is not built: it is always {only} here")));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Said { values, place, component: self.component })
    }
}

/// What was said to a component; reading it notes what is wrong.
pub(crate) struct Said {
    values: Values,
    place: Place,
    component: Component,
}

impl Said {
    /// How a person would type this flag.
    pub(crate) fn typed(&self, name: &str) -> String {
        match self.place {
            Place::Alone => format!("--{name}"),
            Place::Server => format!("--{}-arg {name}=...", self.component.name()),
        }
    }
    pub(crate) fn help(&self) -> bool {
        self.values.help
    }
    pub(crate) fn version(&self) -> bool {
        self.values.version
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)
    }
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.values.flag(name)
    }
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).filter(|text| !text.is_empty()).map(PathBuf::from)
    }
    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        self.values.duration(name)
    }
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        self.get(name).map(|_| self.values.list(name))
    }
    /// A number in a range.
    pub(crate) fn number<T: TryFrom<i64>>(&self, name: &str, mistakes: &mut Vec<String>) -> Option<T> {
        let number = self.values.integer(name)?;
        note(T::try_from(number).map_err(|_| format!("{}: {number} is out of range", self.typed(name))), mistakes)
    }
    /// An address; the form was checked when the flags were read.
    fn address(&self, name: &str, default: IpAddr) -> IpAddr {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }
    /// A value that another type reads.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, E>,
        mistakes: &mut Vec<String>,
    ) -> Option<T> {
        let text = self.get(name)?;
        note(read(text).map_err(|error| format!("{}: {error}", self.typed(name))), mistakes)
    }
    /// Feature gates: nothing here asks one yet, so only the values that they have are taken.
    pub(crate) fn gates(&self, mistakes: &mut Vec<String>) -> Gates {
        let settings = self.values.list("feature-gates").join(",");
        match Gates::parse(&settings, &[]) {
            Ok(gates) => gates,
            Err(errors) => {
                mistakes.extend(errors.iter().map(|error| format!("{}: {error}", self.typed("feature-gates"))));
                Gates::default()
            }
        }
    }
    /// `-v`.
    pub(crate) fn verbosity(&self) -> i64 {
        self.values.integer("v").unwrap_or(0)
    }
    /// A port on an address.
    fn listen(&self, default: SocketAddr, port: &str, address: &str, mistakes: &mut Vec<String>) -> Listen {
        let asked: Option<u16> = self.number(port, mistakes);
        Listen {
            at: SocketAddr::new(self.address(address, default.ip()), asked.unwrap_or(default.port())),
            asked: asked.is_some(),
            flag: self.typed(port),
        }
    }
}

/// Keeps what was said, or takes its mistakes.
pub(crate) fn note_all<T>(outcome: Result<T, Vec<String>>, mistakes: &mut Vec<String>) -> Option<T> {
    outcome.map_err(|found| mistakes.extend(found)).ok()
}

/// How a component waits to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Election {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) timing: Timing,
}

/// Flags of components of which one leads.
pub(crate) const ELECTION: &[Entry] = &[
    flag("leader-elect", "Wait to lead before acting; without it two of them act at once."),
    flag("leader-elect-lease-duration", "How long others wait for a leader that is silent."),
    flag("leader-elect-renew-deadline", "How long a leader tries to renew before it stops leading."),
    flag("leader-elect-retry-period", "How often the lease is looked at."),
    flag("leader-elect-resource-name", "Name of the lease."),
    flag("leader-elect-resource-namespace", "Namespace of the lease."),
];

impl Election {
    /// `None`: lead without asking.
    fn read(said: &Said, name: &str, mistakes: &mut Vec<String>) -> Option<Self> {
        let default = Timing::default();
        let timing = Timing {
            lease_duration: said.duration("leader-elect-lease-duration").unwrap_or(default.lease_duration),
            renew_deadline: said.duration("leader-elect-renew-deadline").unwrap_or(default.renew_deadline),
            retry_period: said.duration("leader-elect-retry-period").unwrap_or(default.retry_period),
        };
        if let Err(why) = timing.check() {
            mistakes.push(format!("{}: {why}", said.typed("leader-elect-lease-duration")));
        }
        let election = Self {
            namespace: said.get("leader-elect-resource-namespace").unwrap_or("kube-system").to_owned(),
            name: said.get("leader-elect-resource-name").unwrap_or(name).to_owned(),
            timing,
        };
        said.switch("leader-elect").unwrap_or(true).then_some(election)
    }
}

/// Log directives of the components in one process: `base` for everything, more for a component that has `-v`.
pub(crate) fn log_directives(verbosities: &[(&[&str], i64)]) -> String {
    let level = |verbosity: i64| match verbosity {
        ..=3 => None,
        4..=7 => Some("debug"),
        _ => Some("trace"),
    };
    let mut directives = vec!["info".to_owned()];
    for (crates, verbosity) in verbosities {
        if let Some(level) = level(*verbosity) {
            directives.extend(crates.iter().map(|name| format!("{name}={level}")));
        }
    }
    directives.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const ALL: [&Spec; 5] =
        [&apiserver::SPEC, &controller_manager::SPEC, &scheduler::SPEC, &kubelet::SPEC, &proxy::SPEC];

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_flag_of_the_tables_is_one_of_upstreams_or_ours() {
        for spec in ALL {
            let served: Vec<Served> = spec.entries().map(|entry| entry.served).collect();
            let known = skiff_base::flags::served(spec.component, &served);
            assert_eq!(known.len(), served.len(), "{}: a name that upstream does not have", spec.component.name());
        }
    }

    #[test]
    fn what_is_not_acted_upon_is_refused_by_name() {
        let refused = |text| scheduler::SPEC.parse(Place::Alone, words(text)).map(|_| ());
        assert_eq!(
            refused("--kube-api-qps=77"),
            Err(vec![
                "--kube-api-qps is a flag of kube-scheduler that skiff does not act upon; leave it out or give its \
                 default"
                    .to_owned()
            ])
        );
        assert_eq!(refused("--kube-api-qps=50 --leader-elect-resource-lock=leases"), Ok(()));
        assert_eq!(
            refused("--profiling=true"),
            Err(vec!["--profiling=true is not built: it is always false here".to_owned()])
        );
    }

    #[test]
    fn the_server_knows_some_of_it() {
        let refused = |text| scheduler::SPEC.parse(Place::Server, words(text)).map(|_| ());
        assert_eq!(
            refused("--kubeconfig=x"),
            Err(vec![
                "--kube-scheduler-arg: --kubeconfig means nothing inside skiff server, which knows it".to_owned()
            ])
        );
        let refused = |text| kubelet::SPEC.parse(Place::Server, words(text)).map(|_| ());
        assert_eq!(
            refused("--port=1"),
            Err(vec!["--kubelet-arg: --port is said by --kubelet-port of skiff server".to_owned()])
        );
    }

    #[test]
    fn levels_are_upstreams_numbers() {
        assert_eq!(log_directives(&[(&["a"], 0), (&["b", "c"], 4), (&["d"], 9)]), "info,b=debug,c=debug,d=trace");
    }
}
