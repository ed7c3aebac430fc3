//! Client libraries, unmodified: programs in `tests/clients` that list, watch, patch, apply and exec. `cargo xtask test` builds
//! them; one that is not there is said.

use crate::cluster::{Cluster, KUBECONFIG};
use crate::leftovers;
use crate::world::{tools, within};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Name, program and its first arguments.
fn clients() -> Vec<(&'static str, PathBuf, Vec<PathBuf>)> {
    let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/client.py"));
    vec![
        ("Python", tools().join("python/bin/python"), vec![script]),
        ("client-go", tools().join("client-go"), Vec::new()),
        ("kube-rs", tools().join("kube-rs"), Vec::new()),
    ]
}

#[test]
fn libraries_find_what_they_know() {
    within("clients::libraries_find_what_they_know", 300, |world| {
        let (there, missing): (Vec<_>, Vec<_>) = clients().into_iter().partition(|(_, program, _)| program.exists());
        for (name, program, _) in missing {
            println!("skipped: {name}: no {}", program.display());
        }
        if there.is_empty() {
            return;
        }
        let cluster = Cluster::with_images(world);
        let before = leftovers::count();
        for (name, program, arguments) in there {
            let mut client = Command::new(program);
            client.args(arguments).arg("localhost/web:1").env("KUBECONFIG", KUBECONFIG).env("HOME", "/run");
            let output = client.stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            print!("{said}");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(said.lines().count() > 5, "{name} has done something");
        }
        leftovers::settle(&before);
        let complaints = cluster.complaints(&[]);
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
    });
}
