//! `docs/flags.md` is written from the definitions that read the flags, and a test holds it to them:
//! `SKIFF_BLESS=1 cargo test -p skiff --bins documents` writes it anew.

use crate::components::{Entry, InServer, Spec, apiserver, controller_manager, kubelet, proxy, scheduler};
use clap::{Arg, Command, CommandFactory};
use skiff_base::flags::{Flag, Served, served};
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "# Flags

Written from the definitions that read them (`crates/skiff/src/documents.rs`); a test holds it to them.

## skiff server

Every flag can stand in the file that `--config` names, without its dashes. A flag wins over the file, the file over the
default. A flag that may be given again is a list there, relative paths are relative to the working directory, and an unknown
key, one said twice, a wrong type or value is an error with file and line:

```yaml
secure-port: 7443
data-dir: /srv/skiff
disable: [kube-proxy, dns]
kube-scheduler-arg:
- leader-elect-lease-duration=30s
- v=4
```

Mistakes in flags or file end the process with 2, everything else that prevents a start with 1; all mistakes are told at once.

Ports that somebody asked for are had or are an error that says who has them. Defaults that are taken move to a free port
where nobody else depends on the number (all but `--secure-port`), and the log says where to.

";

const COMPONENTS: &str = "
## Components' own flags

A component's own flags are upstream's. They are read by the same code in two places:

- in the server, by `--COMPONENT-arg KEY=VALUE`, as often as needed: `skiff server --kube-scheduler-arg leader-elect=false`;
- by a component alone: `skiff kube-scheduler --kubeconfig FILE --leader-elect=false`, or by an executable of that name (a
  link to `skiff`). What `--disable` leaves out, and with `--disable-agent` also the node's part, finds its kubeconfig below
  `DATA-DIR/kubeconfig/`: `scheduler.conf`, `controller-manager.conf`, `kubelet.conf`, `kube-proxy.conf`, and `kubelet.crt` with
  `kubelet.key`, which a kubelet finds beside its kubeconfig and shows: the API server believes its own authority only. Node and address
  are those of `--node-name` and `--advertise-address`. The server renews all of them; a component alone reads its
  kubeconfig once, at its start, and follows the files of `--tls-cert-file`.

The controllers need `--use-service-account-credentials` to act under the roles that a cluster has for them. Instead of
`--authentication-kubeconfig` and `--authorization-kubeconfig` the `--kubeconfig` is used when they are not given.

Flags of upstream that are not in these tables are refused by name, unless they are given their default, which changes
nothing. `-v` sets the log: from 4 on details, from 8 on everything. `SKIFF_LOG` wins over it.

";

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn server_row(arg: &Arg) -> Option<String> {
    let name = arg.get_long()?;
    if matches!(name, "help" | "version") {
        return None;
    }
    let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let default = if default.is_empty() { String::new() } else { format!("`{}`", default.join(",")) };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let possible: Vec<String> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    // A switch takes true and false, which says nothing.
    let choices =
        if possible.is_empty() || default == "`false`" { String::new() } else { format!(" {}.", possible.join(", ")) };
    let several = if matches!(arg.get_action(), clap::ArgAction::Append) { " Several." } else { "" };
    let help = cell(help.trim_end_matches('.'));
    Some(format!("| `--{name}` | {default} | {help}.{choices}{several} |\n"))
}

fn component_row(flag: Flag, entry: &Entry) -> String {
    let default = match entry.only {
        Some(only) => format!("`{only}`, always"),
        None if flag.default.is_empty() => String::new(),
        None => format!("`{}`", flag.default),
    };
    let place = match entry.server {
        InServer::Same => "yes".to_owned(),
        InServer::Flag(own) => format!("`--{own}`"),
        InServer::Never => "no".to_owned(),
    };
    let own = if entry.served.is_own() { " Not upstream's." } else { "" };
    let help = cell(entry.served.help);
    format!("| `--{}` | {} | {default} | {place} | {help}{own} |\n", flag.name, flag.kind)
}

fn component(text: &mut String, spec: &Spec) {
    let name = spec.component.name();
    writeln!(text, "### {name}\n").expect("a String takes all");
    text.push_str("| flag | type | default | in the server | what it does |\n|---|---|---|---|---|\n");
    let entries: Vec<&Entry> = spec.entries().collect();
    let table: Vec<Served> = entries.iter().map(|entry| entry.served).collect();
    for ((flag, _), entry) in served(spec.component, &table).into_iter().zip(entries) {
        text.push_str(&component_row(flag, entry));
    }
    text.push('\n');
}

fn document(command: &Command) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("| flag | default | what it does |\n|---|---|---|\n");
    let server = command.find_subcommand("server").expect("there is a server");
    text.extend(server.get_arguments().filter_map(server_row));
    text.push_str(COMPONENTS);
    for spec in [&apiserver::SPEC, &scheduler::SPEC, &controller_manager::SPEC, &kubelet::SPEC, &proxy::SPEC] {
        component(&mut text, spec);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[test]
fn the_document_of_flags_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
    let written = document(&crate::Cli::command());
    if std::env::var_os("SKIFF_BLESS").is_some() {
        std::fs::write(&path, written).expect("the document is writable");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let first = found.lines().zip(written.lines()).find(|(found, written)| found != written);
    assert!(found == written, "docs/flags.md is not what the flags are; first difference: {first:?}");
}
