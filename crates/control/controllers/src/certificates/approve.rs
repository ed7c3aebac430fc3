//! Approves what a kubelet asks for its own client certificate (`certificates/approver/sarapprove.go`), when whoever asks
//! may: the first certificate by `nodeclient`, its renewal by `selfnodeclient`.

use super::{REQUESTS, check, has, is_issued, read, usages};
use crate::context::{Context, Informers, SyncError, SyncResult, run_controller};
use skiff_base::clock::SharedClock;
use skiff_client::informer::ObjectKey;
use skiff_client::leader::time;
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;

struct Controller {
    client: Client,
    clock: SharedClock,
    requests: Arc<Store<Tree>>,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers, client: &Client) {
    let queue = context.queue("csrapproving");
    informers.certificate_requests.queue_all(&queue);
    let requests = informers.certificate_requests.store();
    let controller = Arc::new(Controller { client: client.clone(), clock: Arc::clone(&context.clock), requests });
    run_controller(context, "csrapproving", &queue, 1, &controller, Controller::sync);
}

/// The rights by which a request is approved, the first that is given counts: subresource and message.
fn rights(request: &Value) -> Result<Vec<(&'static str, &'static str)>, String> {
    if is_issued(request) || has(request, "Approved") || has(request, "Denied") {
        return Ok(Vec::new());
    }
    if request.str_at(&["spec", "signerName"]) != check::KUBELET_CLIENT {
        return Ok(Vec::new());
    }
    let asked = read(request)?;
    if check::kubelet_client(&asked, &usages(request)).is_err() {
        return Ok(Vec::new());
    }
    let mut rights = Vec::new();
    if request.str_at(&["spec", "username"]) == asked.common_name {
        let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
        rights.push(("selfnodeclient", message));
    }
    rights.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    Ok(rights)
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        let Some(item) = self.requests.get_key(&key) else { return Ok(None) };
        let request = &*item.value.0;
        let rights = rights(request)
            .map_err(|error| SyncError::Object(format!("unable to parse csr \"{}\": {error}", key.name)))?;
        for (subresource, message) in &rights {
            if self.may(request, subresource).await? {
                return self.approve(&key, request, message).await;
            }
        }
        if !rights.is_empty() {
            let tried: Vec<&str> = rights.iter().map(|(subresource, _)| *subresource).collect();
            tracing::debug!(csr = %key, ?tried, "recognized, but subject access review was not approved");
        }
        Ok(None)
    }

    /// Whether the requester may create requests under `subresource`.
    async fn may(&self, request: &Value, subresource: &str) -> Result<bool, SyncError> {
        let (group, _, resource) = REQUESTS;
        let mut spec = Map::new();
        for (from, to) in [("username", "user"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
            if let Some(said) = request.at(&["spec", from]) {
                spec.insert(to, said.clone());
            }
        }
        spec.insert(
            "resourceAttributes",
            object! {
                "group": group, "resource": resource, "verb": "create", "version": "*", "subresource": subresource,
            },
        );
        let review = object! { "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec };
        let reviews = self.client.all("authorization.k8s.io", "v1", "subjectaccessreviews");
        let answer = reviews.create(&review, &WriteOptions::default()).await?;
        Ok(answer.at(&["status", "allowed"]).and_then(Value::as_bool) == Some(true))
    }

    async fn approve(&self, key: &ObjectKey, request: &Value, message: &str) -> SyncResult {
        let now = time(self.clock.wall());
        let condition = object! {
            "type": "Approved", "status": "True", "reason": "AutoApproved", "message": message, "lastUpdateTime": now,
        };
        let mut conditions = request.items_at(&["status", "conditions"]).to_vec();
        conditions.push(condition);
        let mut updated = request.clone();
        if let Some(map) = updated.as_object_mut() {
            map.object_mut("status").insert("conditions", conditions);
        }
        let (group, version, resource) = REQUESTS;
        let api = self.client.all(group, version, resource);
        let written = api.replace(&key.name, "approval", &updated, &WriteOptions::default()).await?;
        self.requests.wait_for(key, &written).await;
        Ok(None)
    }
}
