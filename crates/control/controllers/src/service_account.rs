//! ServiceAccount: every active namespace has its `default` account
//! (`controller/serviceaccount/serviceaccounts_controller.go`).

use crate::context::{Context, Informers, SyncResult, run_workers, tools};
use skiff_client::WriteOptions;
use skiff_client::informer::ObjectKey;
use skiff_machinery::object;
use std::sync::Arc;

const DEFAULT: &str = "default";

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) =
        tools(context, "service-account-controller", "service-account-controller", "serviceaccount");
    let accounts = informers.service_accounts.store();
    let namespaces = informers.namespaces.store();
    informers.namespaces.queue_by(&queue, |queue, delta| {
        if delta.new.is_some() {
            queue.add(delta.key.clone());
        }
    });
    informers.service_accounts.queue_by(&queue, |queue, delta| {
        if delta.new.is_none() && &*delta.key.name == DEFAULT {
            queue.add(ObjectKey::new("", &delta.key.namespace));
        }
    });
    run_workers(context, "serviceaccount", &queue, 1, move |key| {
        let (client, accounts, namespaces) = (client.clone(), Arc::clone(&accounts), Arc::clone(&namespaces));
        async move {
            accounts.synced().await;
            let Some(namespace) = namespaces.get_key(&key) else { return Ok(None) };
            if namespace.value.str_at(&["status", "phase"]) == "Terminating"
                || namespace.value.at(&["metadata", "deletionTimestamp"]).is_some()
                || accounts.get(&key.name, DEFAULT).is_some()
            {
                return Ok(None);
            }
            let account = object! {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": object! { "name": DEFAULT, "namespace": &*key.name },
            };
            let api = client.namespaced("", "v1", "serviceaccounts", &key.name);
            match api.create(&account, &WriteOptions::default()).await {
                Ok(_) => done(),
                Err(error) if error.is_already_exists() || crate::workload::is_namespace_terminating(&error) => done(),
                Err(error) => Err(error.into()),
            }
        }
    });
}

fn done() -> SyncResult {
    Ok(None)
}
