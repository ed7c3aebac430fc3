//! Versions of a custom resource that a webhook turns into each other (`spec.conversion.strategy: Webhook`).
//!
//! A list is converted by one request before it is rendered ([`Conversion::expect_served`]); what is asked for one by one
//! waits where it stands, on a thread that others do not need. Names, uid and times stay whatever the webhook says: of
//! metadata only labels and annotations are taken.
//!
//! Mirrors `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use crate::callout::{Caller, Remote};
use crate::kinds::tree::Tree;
use crate::kinds::{Conversion, HookFuture};
use parking_lot::Mutex;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, Value, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How long a webhook has.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many converted objects are remembered before all are forgotten. A list that is longer is kept whole.
const REMEMBERED: usize = 2048;
/// Versions of `ConversionReview` that are spoken here.
pub(super) const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Uid, resource version and the version converted to.
type Key = (String, String, String);

/// The webhook of one definition.
pub(super) struct Webhook {
    group: String,
    kind: String,
    remote: Remote,
    /// Of `ConversionReview`.
    review: &'static str,
    caller: Arc<Caller>,
    known: Mutex<HashMap<Key, Value>>,
}

/// A served version's way to and from the stored one.
pub(super) struct ByWebhook {
    pub(super) webhook: Arc<Webhook>,
    /// `apiVersion` of the served version.
    pub(super) served: String,
    /// `apiVersion` of the stored one.
    pub(super) stored: String,
}

impl Webhook {
    /// Of a definition in `v1`; `None` when it converts nothing.
    pub(super) fn of(definition: &Value, caller: &Arc<Caller>) -> Result<Option<Arc<Self>>, String> {
        let spec = definition.get("spec").unwrap_or(&Value::Null);
        let conversion = spec.get("conversion").unwrap_or(&Value::Null);
        if conversion.text("strategy") != "Webhook" {
            return Ok(None);
        }
        let hook = conversion.get("webhook").unwrap_or(&Value::Null);
        let reviews = hook.items("conversionReviewVersions").iter().filter_map(Value::as_str);
        let review = reviews.filter_map(|own| REVIEWS.iter().find(|known| **known == own)).next().copied();
        Ok(Some(Arc::new(Self {
            group: spec.text("group").to_owned(),
            kind: spec.str_at(&["names", "kind"]).to_owned(),
            remote: Remote::of(hook.get("clientConfig").unwrap_or(&Value::Null), TIMEOUT)?,
            review: review.ok_or("the webhook speaks no known version of ConversionReview")?,
            caller: Arc::clone(caller),
            known: Mutex::default(),
        })))
    }

    fn failed(&self, from: &str, why: impl std::fmt::Display) -> ApiError {
        let version = from.rsplit('/').next().unwrap_or_default();
        let Self { group, kind, .. } = self;
        ApiError::internal(format!("conversion webhook for {group}/{version}, Kind={kind} failed: {why}"))
    }

    /// Converts objects that are all of one version.
    async fn ask(&self, objects: &[Value], from: &str, to: &str) -> Result<Vec<Value>, ApiError> {
        let uid = uuid::Uuid::new_v4().to_string();
        let review = object! {
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{}", self.review),
            "request": object! { "uid": uid.as_str(), "desiredAPIVersion": to, "objects": objects.to_vec() },
        };
        let answer = self.caller.ask(&self.remote, &review).await.map_err(|error| self.failed(from, error))?;
        let response = answer.get("response").unwrap_or(&Value::Null);
        let converted = self.converted(response, &uid, from)?;
        if converted.len() != objects.len() {
            let why = format!("webhook returned {} objects, expected {}", converted.len(), objects.len());
            return Err(self.failed(from, why));
        }
        let each = objects.iter().zip(converted).enumerate();
        each.map(|(index, (before, after))| {
            checked(before, after, to)
                .map_err(|why| self.failed(from, format!("invalid converted object at index {index}: {why}")))
        })
        .collect()
    }

    fn converted<'a>(&self, response: &'a Value, uid: &str, from: &str) -> Result<&'a [Value], ApiError> {
        if response.text("uid") != uid {
            let why = format!("expected response.uid={}, got {}", quote(uid), quote(response.text("uid")));
            return Err(self.failed(from, why));
        }
        let result = response.get("result").unwrap_or(&Value::Null);
        match (result.text("status"), result.text("message")) {
            ("Success", _) => Ok(response.items("convertedObjects")),
            (status, "") => Err(self.failed(from, format!("response.result.status was '{status}', not 'Success'"))),
            (_, message) => Err(self.failed(from, message)),
        }
    }

    /// One object, now: the thread waits, and lets its other tasks go to another one.
    fn convert_now(&self, object: &mut Value, from: &str, to: &str) -> Result<(), ApiError> {
        if from == to {
            return Ok(());
        }
        object.set("apiVersion", from.to_owned());
        object.set("kind", self.kind.as_str().to_owned());
        let key = key(object, to);
        if let Some(known) = key.as_ref().and_then(|key| self.known.lock().get(key).cloned()) {
            *object = known;
            return Ok(());
        }
        let handle = Handle::try_current().map_err(|error| self.failed(from, error))?;
        if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
            return Err(self.failed(from, "nobody can be waited for here"));
        }
        let objects = [std::mem::take(object)];
        let asked = tokio::task::block_in_place(|| handle.block_on(self.ask(&objects, from, to)));
        let [before] = objects;
        *object = before;
        if let Some(converted) = asked?.pop() {
            self.remember([(key, converted.clone())]);
            *object = converted;
        }
        Ok(())
    }

    fn remember(&self, all: impl IntoIterator<Item = (Option<Key>, Value)>) {
        let mut known = self.known.lock();
        if known.len() > REMEMBERED {
            known.clear();
        }
        known.extend(all.into_iter().filter_map(|(key, object)| Some((key?, object))));
    }
}

/// Under which an object is remembered: what is not stored yet has no resource version, and is not.
fn key(object: &Value, to: &str) -> Option<Key> {
    let metadata = |field| object.str_at(&["metadata", field]);
    let (uid, revision) = (metadata("uid"), metadata("resourceVersion"));
    (!uid.is_empty() && !revision.is_empty()).then(|| (uid.to_owned(), revision.to_owned(), to.to_owned()))
}

/// A converted object if it is one, with the metadata that a webhook cannot change put back (`validateConvertedObject`,
/// `restoreObjectMeta`).
fn checked(before: &Value, after: &Value, to: &str) -> Result<Value, String> {
    let mut after = after.clone();
    let (version, kind) = (after.text("apiVersion"), after.text("kind"));
    if version != to {
        return Err(format!("invalid groupVersion (expected {to}, received {version})"));
    }
    if kind != before.text("kind") {
        return Err(format!("invalid kind (expected {}, received {kind})", before.text("kind")));
    }
    for field in ["name", "namespace", "uid"] {
        let of = |object: &Value| object.str_at(&["metadata", field]).to_owned();
        if of(before) != of(&after) {
            return Err(format!("metadata.{field} changed (expected {}, received {})", of(before), of(&after)));
        }
    }
    let mut metadata = before.map("metadata").cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match after.at(&["metadata", field]).filter(|found| found.as_object().is_some_and(|map| !map.is_empty())) {
            Some(found) => {
                metadata.insert(field, found.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    after.set("metadata", metadata);
    Ok(after)
}

impl Conversion for ByWebhook {
    fn to_storage(&self, object: &mut Value) -> Result<(), ApiError> {
        self.webhook.convert_now(object, &self.served, &self.stored)
    }

    fn to_served(&self, object: &mut Value) -> Result<(), ApiError> {
        self.webhook.convert_now(object, &self.stored, &self.served)
    }

    fn expect_served<'a>(&'a self, mut objects: Vec<Value>) -> HookFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            {
                let known = self.webhook.known.lock();
                objects.retain(|object| key(object, &self.served).is_some_and(|key| !known.contains_key(&key)));
            }
            if objects.is_empty() {
                return Ok(());
            }
            let converted = self.webhook.ask(&objects, &self.stored, &self.served).await?;
            let keys = objects.iter().map(|object| key(object, &self.served));
            self.webhook.remember(keys.zip(converted));
            Ok(())
        })
    }

    fn asks_others(&self) -> bool {
        true
    }
}
