//! What an operator written with kube-rs does: list, watch, patch, apply, exec, logs. It says each step, and fails at the
//! first that goes another way than with upstream.

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::time::Duration;

const NAME: &str = "from-kube-rs";

fn done(step: &str) {
    println!("kube-rs: {step}");
}

fn value(map: &ConfigMap, key: &str) -> String {
    map.data.as_ref().and_then(|data| data.get(key)).cloned().unwrap_or_default()
}

async fn maps(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let list = maps.list(&ListParams::default()).await?;
    let version = list.metadata.resource_version.context("a list has a version")?;
    let fields = WatchParams::default().fields(&format!("metadata.name={NAME}")).timeout(60);
    let mut events = maps.watch(&fields, &version).await?.boxed();

    let object: ConfigMap = serde_json::from_value(json!({"metadata": {"name": NAME}, "data": {"a": "1"}}))?;
    let made = maps.create(&PostParams::default(), &object).await?;
    ensure!(maps.create(&PostParams::default(), &object).await.is_err_and(|error| is_reason(&error, "AlreadyExists")));
    let merged = maps.patch(NAME, &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await?;
    ensure!((value(&merged, "a"), value(&merged, "b")) == ("1".into(), "2".into()));
    let strategic = maps.patch(NAME, &PatchParams::default(), &Patch::Strategic(json!({"data": {"b": null, "c": "3"}}))).await?;
    ensure!(value(&strategic, "b").is_empty() && value(&strategic, "c") == "3");
    let stale = maps.replace(NAME, &PostParams::default(), &made).await;
    ensure!(stale.is_err_and(|error| is_reason(&error, "Conflict")), "an old version is a conflict");
    done("create, patch, conflict");

    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"d": "4"}});
    let applied = maps.patch(NAME, &PatchParams::apply("kube-rs"), &Patch::Apply(applied)).await?;
    ensure!(value(&applied, "d") == "4" && value(&applied, "a") == "1");
    let managers: Vec<_> = applied.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
    ensure!(managers.iter().any(|manager| manager == "kube-rs"), "{managers:?}");
    let taken = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"d": "5"}});
    let refused = maps.patch(NAME, &PatchParams::apply("other"), &Patch::Apply(&taken)).await;
    ensure!(refused.is_err_and(|error| is_reason(&error, "Conflict")), "a field of another manager");
    let forced = maps.patch(NAME, &PatchParams::apply("other").force(), &Patch::Apply(&taken)).await?;
    ensure!(value(&forced, "d") == "5");
    done("apply");

    maps.delete(NAME, &DeleteParams::default()).await?;
    let mut seen = Vec::new();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => {
                seen.push("deleted");
                break;
            }
            WatchEvent::Bookmark(_) => (),
            WatchEvent::Error(status) => anyhow::bail!("the watch ended with {status:?}"),
        }
    }
    ensure!(seen == ["added", "modified", "modified", "modified", "modified", "deleted"], "{seen:?}");
    done("watch");
    Ok(())
}

fn is_reason(error: &kube::Error, wanted: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == wanted)
}

async fn pod(client: &Client, image: &str) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let object: Pod = serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": image, "command": ["sh", "-c", "echo started; sleep 1000"]},
        ]},
    }))?;
    pods.create(&PostParams::default(), &object).await?;
    let fields = WatchParams::default().fields(&format!("metadata.name={NAME}")).timeout(60);
    let mut events = pods.watch(&fields, "0").await?.boxed();
    loop {
        match events.try_next().await?.context("the pod does not run")? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let status = pod.status.unwrap_or_default();
                if status.conditions.unwrap_or_default().iter().any(|one| one.type_ == "Ready" && one.status == "True") {
                    break;
                }
            }
            _ => (),
        }
    }
    done("a pod runs");

    let params = AttachParams::default().stdin(true).stderr(true);
    let mut process = pods.exec(NAME, ["sh", "-c", "read line; echo got $line; echo bad >&2; exit 4"], &params).await?;
    let mut stdin = process.stdin().context("stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"something\n").await?;
    let (mut stdout, mut stderr) = (process.stdout().context("stdout")?, process.stderr().context("stderr")?);
    let (mut out, mut err) = (String::new(), String::new());
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut out).await?;
    tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut err).await?;
    let status = process.take_status().context("status")?.await.context("a status at the end")?;
    ensure!((out.as_str(), err.as_str()) == ("got something\n", "bad\n"), "{out:?} {err:?}");
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    ensure!(causes.iter().any(|cause| cause.reason.as_deref() == Some("ExitCode") && cause.message.as_deref() == Some("4")));
    done("exec");

    let log = pods.logs(NAME, &LogParams::default()).await?;
    ensure!(log == "started\n", "{log:?}");
    pods.delete(NAME, &DeleteParams::default()).await?;
    while pods.get_opt(NAME).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    done("logs, delete");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let image = std::env::args().nth(1).context("usage: client IMAGE")?;
    let client = Client::try_default().await?;
    let version = client.apiserver_version().await?;
    ensure!(version.major == "1" && version.minor == "36", "{version:?}");
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    ensure!(nodes.items.len() == 1);
    done("list");
    maps(&client).await?;
    pod(&client, &image).await
}
