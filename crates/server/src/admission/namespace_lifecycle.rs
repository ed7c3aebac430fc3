//! `NamespaceLifecycle`: nothing is written into a namespace that is missing, nothing new into one that ends, and three
//! namespaces stay.
//!
//! Mirrors apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go. The cache may be behind the deletion that
//! this server has just answered, so namespaces deleted here are asked of the store itself from then on.

use super::attributes::named;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use parking_lot::Mutex;
use skiff_machinery::error::Cause;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::collections::VecDeque;
use std::sync::Arc;

/// Never deleted: the cluster does not work without them.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// How many deleted namespaces are remembered; the cache has long caught up with older ones.
const REMEMBERED: usize = 100;

/// The plug-in.
pub(super) struct NamespaceLifecycle {
    reader: Arc<dyn Reader>,
    namespaces: GroupResource,
    deleted: Mutex<VecDeque<String>>,
}

impl NamespaceLifecycle {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, namespaces: named("", "namespaces"), deleted: Mutex::default() }
    }

    async fn find(&self, name: &str) -> Result<Arc<Value>, ApiError> {
        let live = self.deleted.lock().iter().any(|deleted| deleted == name);
        if !live && let Some(namespace) = self.reader.get(&self.namespaces, "", name) {
            return Ok(namespace);
        }
        let found = self.reader.fetch(&self.namespaces, "", name).await?;
        found.ok_or_else(|| ApiError::not_found(&self.namespaces, name))
    }

    async fn review(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let is_namespace = attributes.is_of("", "namespaces");
        if is_namespace && attributes.operation == Operation::Delete {
            if IMMORTAL.contains(&attributes.name) {
                return Err(attributes.forbidden("this namespace may not be deleted"));
            }
            let mut deleted = self.deleted.lock();
            if !deleted.iter().any(|name| name == attributes.name) {
                if deleted.len() == REMEMBERED {
                    deleted.pop_front();
                }
                deleted.push_back(attributes.name.to_owned());
            }
        }
        let asks_for_access = attributes.resource.name.group == "authorization.k8s.io";
        if is_namespace
            || asks_for_access
            || attributes.namespace.is_empty()
            || attributes.operation == Operation::Delete
        {
            return Ok(());
        }
        let namespace = self.find(attributes.namespace).await?;
        if attributes.operation == Operation::Create && namespace.str_at(&["status", "phase"]) == "Terminating" {
            return Err(terminating(attributes));
        }
        Ok(())
    }
}

fn terminating(attributes: &Attributes<'_>) -> ApiError {
    let namespace = attributes.namespace;
    let error = attributes
        .forbidden(format!("unable to create new content in namespace {namespace} because it is being terminated"));
    let mut details = error.details().cloned().unwrap_or_default();
    // Clients (controllers above all) look for this cause.
    details.causes.push(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    });
    error.with_details(details)
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_machinery::object;

    fn namespace(name: &str, phase: &str) -> Value {
        object! { "metadata": object! { "name": name }, "status": object! { "phase": phase } }
    }

    #[tokio::test]
    async fn only_living_namespaces_are_filled() {
        let cluster = cluster();
        cluster.put(&named("", "namespaces"), namespace("up", "Active"));
        cluster.put(&named("", "namespaces"), namespace("down", "Terminating"));
        let plugin = NamespaceLifecycle::new(Arc::clone(&cluster) as _);
        let config_map =
            |namespace| Case::create("", "configmaps", namespace, object! { "metadata": object! { "name": "a" } });
        config_map("up").admit(&plugin).await.unwrap();
        let missing = config_map("nowhere").admit(&plugin).await.unwrap_err();
        assert_eq!((missing.code(), missing.message()), (404, "namespaces \"nowhere\" not found"));
        let ending = config_map("down").admit(&plugin).await.unwrap_err();
        assert_eq!(
            (ending.code(), ending.message()),
            (
                403,
                "configmaps \"a\" is forbidden: unable to create new content in namespace down because it is being terminated"
            )
        );
        assert_eq!(ending.details().unwrap().causes[0].reason, "NamespaceTerminating");
        let old = object! { "metadata": object! { "name": "a" } };
        let update = Case::update("", "configmaps", "down", old.clone(), old.clone());
        update.admit(&plugin).await.unwrap();
        Case::delete("", "configmaps", "down", old).admit(&plugin).await.unwrap();
    }

    #[tokio::test]
    async fn three_namespaces_stay() {
        let cluster = cluster();
        let plugin = NamespaceLifecycle::new(Arc::clone(&cluster) as _);
        for (name, allowed) in [("default", false), ("kube-system", false), ("kube-public", false), ("mine", true)] {
            let outcome = Case::delete("", "namespaces", "", namespace(name, "Active")).admit(&plugin).await;
            assert_eq!(outcome.is_ok(), allowed, "{name}");
            if let Err(error) = outcome {
                assert_eq!(
                    error.message(),
                    format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
                );
            }
        }
    }
}
