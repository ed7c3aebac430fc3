//! Root CA publisher: every active namespace has the cluster's CA in the ConfigMap `kube-root-ca.crt`
//! (`controller/certificates/rootcacertpublisher/publisher.go`).

use crate::context::{Context, Informers, SyncResult, run_workers, tools};
use skiff_client::WriteOptions;
use skiff_client::informer::ObjectKey;
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Builds the controller; `root_ca` is PEM.
pub fn spawn(context: &Context, informers: &mut Informers, root_ca: Arc<str>) {
    let (client, queue, _) =
        tools(context, "root-ca-cert-publisher", "root-ca-cert-publisher", "root_ca_cert_publisher");
    let maps = informers.root_ca_config_maps.store();
    let namespaces = informers.namespaces.store();
    informers.namespaces.queue_by(&queue, |queue, delta| {
        if delta.new.is_some() {
            queue.add(delta.key.clone());
        }
    });
    informers.root_ca_config_maps.queue_by(&queue, |queue, delta| queue.add(ObjectKey::new("", &delta.key.namespace)));
    run_workers(context, "root-ca-cert-publisher", &queue, 1, move |key| {
        let (client, maps, namespaces) = (client.clone(), Arc::clone(&maps), Arc::clone(&namespaces));
        let root_ca = Arc::clone(&root_ca);
        async move {
            maps.synced().await;
            let Some(namespace) = namespaces.get_key(&key) else { return done() };
            if namespace.value.at(&["metadata", "deletionTimestamp"]).is_some() {
                return done();
            }
            let api = client.namespaced("", "v1", "configmaps", &key.name);
            let existing = maps.get(&key.name, NAME);
            let outcome = match &existing {
                None => api.create(&wanted(&key.name, &root_ca), &WriteOptions::default()).await,
                Some(map) if is_current(&map.value, &root_ca) => return done(),
                // Replaced as a whole: keys that somebody added go.
                Some(map) => {
                    let mut updated = (*map.value.0).clone();
                    let wanted = wanted(&key.name, &root_ca);
                    if let Some(tree) = updated.as_object_mut() {
                        tree.insert("data", wanted.get("data").cloned().unwrap_or_default());
                        tree.object_mut("metadata").object_mut("annotations").insert(DESCRIPTION, TEXT);
                    }
                    api.replace(NAME, "", &updated, &WriteOptions::default()).await
                }
            };
            match outcome {
                Ok(_) => done(),
                Err(error) if error.is_already_exists() || crate::workload::is_namespace_terminating(&error) => done(),
                Err(error) => Err(error.into()),
            }
        }
    });
}

fn annotations() -> Map {
    [(DESCRIPTION, TEXT)].into_iter().collect()
}

fn wanted(namespace: &str, root_ca: &str) -> Value {
    object! {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object! { "name": NAME, "namespace": namespace, "annotations": annotations() },
        "data": object! { "ca.crt": root_ca },
    }
}

fn is_current(map: &Value, root_ca: &str) -> bool {
    let data = map.object_at(&["data"]);
    data.is_some_and(|data| data.len() == 1 && data.get(KEY).and_then(Value::as_str) == Some(root_ca))
        && !map.str_at(&["metadata", "annotations", DESCRIPTION]).is_empty()
}

fn done() -> SyncResult {
    Ok(None)
}
