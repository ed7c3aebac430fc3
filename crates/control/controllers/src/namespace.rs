//! Namespace: empties a namespace that is being deleted, then lets it go
//! (`controller/namespace/deletion/namespaced_resources_deleter.go`).
//!
//! Nothing may be left behind: the finalizer goes only after discovery was complete and every resource was seen empty.
//! What a namespace waits for stands in its conditions.

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::discovery::{Discovered, Resource};
use crate::workload::set_condition;
use skiff_base::clock::SharedClock;
use skiff_client::informer::ObjectKey;
use skiff_client::leader::time;
use skiff_client::{Client, ClientError, ListOptions, Store, Tree, WriteOptions};
use skiff_machinery::{Value, object};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const FINALIZER: &str = "kubernetes";

struct Controller {
    client: Client,
    clock: SharedClock,
    namespaces: Arc<Store<Tree>>,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) = tools(context, "namespace-controller", "namespace-controller", "namespace");
    let namespaces = informers.namespaces.store();
    informers.namespaces.queue_by(&queue, |queue, delta| {
        if delta.new.is_some_and(|new| new.value.at(&["metadata", "deletionTimestamp"]).is_some()) {
            queue.add(delta.key.clone());
        }
    });
    let controller = Arc::new(Controller { client, clock: Arc::clone(&context.clock), namespaces });
    run_controller(context, "namespace", &queue, 10, &controller, Controller::sync);
}

/// What emptying a namespace met.
#[derive(Default)]
struct Remains {
    discovery_error: Option<String>,
    errors: Vec<String>,
    /// Objects left, by `resource.group`.
    left: BTreeMap<String, usize>,
    /// Objects left that carry a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        let Some(item) = self.namespaces.get_key(&key) else { return Ok(None) };
        let namespace = &item.value;
        if namespace.at(&["metadata", "deletionTimestamp"]).is_none() {
            return Ok(None);
        }
        let finalizers = namespace.items_at(&["spec", "finalizers"]);
        if !finalizers.iter().any(|finalizer| finalizer.as_str() == Some(FINALIZER)) {
            return Ok(None);
        }
        let remains = self.empty(&key.name).await;
        let clean = remains.discovery_error.is_none() && remains.errors.is_empty() && remains.left.is_empty();
        if clean {
            return self.finalize(namespace).await.map(|()| None);
        }
        self.tell(namespace, &remains).await?;
        let problem = remains.discovery_error.or_else(|| remains.errors.first().cloned());
        match problem {
            Some(problem) => Err(SyncError::Object(problem)),
            // Pods take their grace period; everything else waits for somebody's finalizer.
            None => Ok(Some(Duration::from_secs(if remains.left.contains_key("pods.") { 1 } else { 2 }))),
        }
    }

    async fn empty(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let discovered = match Discovered::fetch(&self.client, &Discovered::default()).await {
            Ok(discovered) => discovered,
            Err(error) => {
                remains.discovery_error = Some(error.to_string());
                return remains;
            }
        };
        if !discovered.is_complete() {
            let failed: Vec<String> =
                discovered.failures.iter().map(|(version, problem)| format!("{version}: {problem}")).collect();
            remains.discovery_error = Some(format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                failed.len(),
                failed.join(", ")
            ));
        }
        let listed = |resource: &&Arc<Resource>| resource.namespaced && resource.can(&["delete", "list"]);
        let is_pods = |resource: &&Arc<Resource>| resource.group.is_empty() && resource.resource == "pods";
        let (pods, rest): (Vec<_>, Vec<_>) = discovered.preferred.iter().filter(listed).partition(is_pods);
        // Pods first: what protects the others from them, network policies above all, must outlive them.
        for resources in [pods, rest] {
            for resource in resources {
                if let Err(error) = self.empty_resource(namespace, resource, &mut remains).await {
                    remains.errors.push(error.to_string());
                }
            }
            if !remains.left.is_empty() || !remains.errors.is_empty() {
                break;
            }
        }
        remains
    }

    async fn empty_resource(
        &self,
        namespace: &str,
        resource: &Resource,
        remains: &mut Remains,
    ) -> Result<(), ClientError> {
        let api = self.client.namespaced(&resource.group, &resource.version, &resource.resource, namespace);
        let all = ListOptions::default();
        if resource.can(&["deletecollection"]) {
            let background = skiff_client::api::delete_options("", "Background");
            api.delete_collection(&all, Some(&background)).await?;
        }
        let page = api.list(&all).await?;
        if !resource.can(&["deletecollection"]) {
            for object in &page.items {
                let name = object.tree().str_at(&["metadata", "name"]);
                let background = skiff_client::api::delete_options("", "Background");
                match api.delete(name, Some(&background)).await {
                    Ok(_) => (),
                    Err(error) if error.is_not_found() => (),
                    Err(error) => return Err(error),
                }
            }
        }
        if page.items.is_empty() {
            return Ok(());
        }
        remains.left.insert(format!("{}.{}", resource.resource, resource.group), page.items.len());
        for object in &page.items {
            for finalizer in object.tree().items_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str) {
                *remains.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Writes the conditions that changed.
    async fn tell(&self, namespace: &Value, remains: &Remains) -> Result<(), SyncError> {
        let timestamp = time(self.clock.wall());
        let mut conditions = namespace.items_at(&["status", "conditions"]).to_vec();
        for (ty, reason_bad, reason_good, bad, good) in told(remains) {
            let (status, reason) = if bad.is_some() { ("True", reason_bad) } else { ("False", reason_good) };
            let condition = object! {
                "type": ty, "status": status, "reason": reason, "message": bad.unwrap_or_else(|| good.to_owned()),
                "lastTransitionTime": timestamp.as_str(),
            };
            conditions = set_condition(&conditions, condition);
        }
        if conditions == namespace.items_at(&["status", "conditions"]) {
            return Ok(());
        }
        let mut updated = namespace.clone();
        if let Some(map) = updated.as_object_mut() {
            map.object_mut("status").insert("conditions", conditions);
        }
        let api = self.client.all("", "v1", "namespaces");
        let name = namespace.str_at(&["metadata", "name"]);
        match api.replace(name, "status", &updated, &WriteOptions::default()).await {
            Ok(written) => {
                self.namespaces.wait_for(&ObjectKey::new("", name), &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn finalize(&self, namespace: &Value) -> Result<(), SyncError> {
        let api = self.client.all("", "v1", "namespaces");
        let name = namespace.str_at(&["metadata", "name"]);
        let Some(mut current) = api.fetch_optional(name).await? else { return Ok(()) };
        let finalizers = current.get_mut("spec").and_then(|spec| spec.get_mut("finalizers"));
        if let Some(list) = finalizers.and_then(Value::as_array_mut) {
            list.retain(|finalizer| finalizer.as_str() != Some(FINALIZER));
        }
        match api.replace(name, "finalize", &current, &WriteOptions::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

type Row = (&'static str, &'static str, &'static str, Option<String>, &'static str);

/// The five conditions of a terminating namespace: type, reason when bad, reason when good, what is bad, what is good.
fn told(remains: &Remains) -> [Row; 5] {
    let counted = |map: &BTreeMap<String, usize>, text: &dyn Fn(&str, usize) -> String| {
        let parts: Vec<String> = map.iter().map(|(name, count)| text(name, *count)).collect();
        parts.join(", ")
    };
    let left = (!remains.left.is_empty()).then(|| {
        let list = counted(&remains.left, &|name, count| format!("{name} has {count} resource instances"));
        format!("Some resources are remaining: {list}")
    });
    let finalizers = (!remains.finalizers.is_empty()).then(|| {
        let list = counted(&remains.finalizers, &|name, count| format!("{name} in {count} resource instances"));
        format!("Some content in the namespace has finalizers remaining: {list}")
    });
    let content = (!remains.errors.is_empty()).then(|| {
        format!(
            "Failed to delete all resource types, {} remaining: {}",
            remains.errors.len(),
            remains.errors.join(", ")
        )
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            "DiscoveryFailed",
            "ResourcesDiscovered",
            remains.discovery_error.clone(),
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            None,
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeletionFailed",
            "ContentDeleted",
            content,
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            "SomeResourcesRemain",
            "ContentRemoved",
            left,
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            finalizers,
            "All content-preserving finalizers finished",
        ),
    ]
}
