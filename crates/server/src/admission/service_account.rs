//! `ServiceAccount`: every pod acts as a service account that exists, and finds its token in a volume.
//!
//! Mirrors plugin/pkg/admission/serviceaccount/admission.go.

use super::attributes::{is_mirror_pod, list_mut, named, secret_names};
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use crate::registry::generate_name;
use skiff_base::clock::SharedClock;
use skiff_machinery::{ApiError, GroupResource, Value, list, object};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and seven seconds by which such tokens are told from others.
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// How often the default account is looked for: a controller makes it shortly after the namespace.
const DEFAULT_ATTEMPTS: usize = 10;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(150);

/// The plug-in.
pub(super) struct ServiceAccount {
    reader: Arc<dyn Reader>,
    clock: SharedClock,
    accounts: GroupResource,
}

impl ServiceAccount {
    /// Over the registry.
    pub(super) fn new(reader: Arc<dyn Reader>, clock: SharedClock) -> Self {
        Self { reader, clock, accounts: named("", "serviceaccounts") }
    }

    async fn find(&self, attributes: &Attributes<'_>, name: &str) -> Result<Arc<Value>, ApiError> {
        let namespace = attributes.namespace;
        if let Some(account) = self.reader.get(&self.accounts, namespace, name) {
            return Ok(account);
        }
        let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                self.clock.sleep(ATTEMPT_INTERVAL).await;
            }
            if let Some(account) = self.reader.fetch(&self.accounts, namespace, name).await? {
                return Ok(account);
            }
        }
        // Upstream names the resource in the singular here.
        let missing = ApiError::not_found(&named("", "serviceaccount"), name);
        Err(attributes.forbidden(format!("error looking up service account {namespace}/{name}: {missing}")))
    }

    async fn fill(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        let pod = attributes.new_object();
        if is_mirror_pod(pod) {
            // A kubelet deletes a mirror pod that differs from its file.
            return self.check(attributes).await;
        }
        let stated = pod.str_at(&["spec", "serviceAccountName"]);
        let name = if stated.is_empty() { DEFAULT } else { stated }.to_owned();
        let account = self.find(attributes, &name).await?;
        if let Some(pod) = &mut attributes.object {
            let spec = pod.make("spec");
            spec.set("serviceAccountName", name.as_str());
            spec.set("serviceAccount", name.as_str());
            if mounts_token(&account, spec) {
                mount_token(spec);
            }
            let secrets = account.items("imagePullSecrets");
            if !spec.has_some("imagePullSecrets") && !secrets.is_empty() {
                let secrets: Vec<Value> =
                    secrets.iter().map(|secret| object! { "name": secret.text("name") }).collect();
                spec.set("imagePullSecrets", Value::Array(secrets));
            }
        }
        check_pod(attributes, &account)
    }

    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let pod = attributes.new_object();
        if is_mirror_pod(pod) {
            return check_mirror_pod(attributes);
        }
        let name = pod.str_at(&["spec", "serviceAccountName"]);
        if name.is_empty() {
            let pod_name = pod.str_at(&["metadata", "name"]);
            let why = format!("no service account specified for pod {}/{pod_name}", attributes.namespace);
            return Err(attributes.forbidden(why));
        }
        let account = self.find(attributes, name).await?;
        check_pod(attributes, &account)
    }
}

/// `shouldAutomount`: the pod's word, then the account's.
fn mounts_token(account: &Value, spec: &Value) -> bool {
    let says = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    says(spec).or_else(|| says(account)).unwrap_or(true)
}

fn mount_token(spec: &mut Value) {
    let existing = spec.items("volumes").iter().map(|volume| volume.text("name"));
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| generate_name(VOLUME_PREFIX));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        spec.each(field, |container| {
            // What is mounted there already takes the token's place.
            if !container.items("volumeMounts").iter().any(|mount| mount.text("mountPath") == MOUNT_PATH) {
                let mount = object! { "name": volume.as_str(), "readOnly": true, "mountPath": MOUNT_PATH };
                list_mut(container, "volumeMounts").push(mount);
                mounted = true;
            }
        });
    }
    if mounted && existing.is_none() {
        list_mut(spec, "volumes").push(token_volume(&volume));
    }
}

/// `TokenVolumeSource`.
fn token_volume(name: &str) -> Value {
    object! {
        "name": name,
        "projected": object! {
            "defaultMode": 0o644,
            "sources": list![
                object! { "serviceAccountToken": object! { "path": "token", "expirationSeconds": TOKEN_SECONDS } },
                object! { "configMap": object! {
                    "name": "kube-root-ca.crt",
                    "items": list![object! { "key": "ca.crt", "path": "ca.crt" }],
                } },
                object! { "downwardAPI": object! {
                    "items": list![object! {
                        "path": "namespace",
                        "fieldRef": object! { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                    }],
                } },
            ],
        },
    }
}

/// A mirror pod runs whatever the API says, so it must not lend a kubelet anything by it.
fn check_mirror_pod(attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let pod = attributes.new_object();
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    if !secret_names(pod).is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference secrets"));
    }
    let projects_token = |volume: &Value| {
        volume.items_at(&["projected", "sources"]).iter().any(|source| source.has("serviceAccountToken"))
    };
    if pod.items_at(&["spec", "volumes"]).iter().any(projects_token) {
        return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

fn limits_secrets(account: &Value) -> bool {
    let annotation = account.object_at(&["metadata", "annotations"]).and_then(|all| all.get(ENFORCE_MOUNTABLE));
    // `strconv.ParseBool`; a text that it does not know counts as false.
    annotation.and_then(Value::as_str).is_some_and(|text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn check_pod(attributes: &Attributes<'_>, account: &Value) -> Result<(), ApiError> {
    if !limits_secrets(account) {
        return Ok(());
    }
    limit_secrets(attributes.new_object(), account).map_err(|why| attributes.forbidden(why))
}

fn names<'a>(account: &'a Value, field: &str) -> BTreeSet<&'a str> {
    account.items(field).iter().map(|secret| secret.text("name")).collect()
}

/// `limitSecretReferences`.
fn limit_secrets(pod: &Value, account: &Value) -> Result<(), String> {
    let name = account.str_at(&["metadata", "name"]);
    let mountable = names(account, "secrets");
    let Some(spec) = pod.get("spec") else { return Ok(()) };
    for volume in spec.items("volumes") {
        let secret = volume.str_at(&["secret", "secretName"]);
        if volume.has("secret") && !mountable.contains(secret) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (field, label) in [("initContainers", "init container"), ("containers", "container")] {
        for container in spec.items(field) {
            limit_container(container, label, name, &mountable)?;
        }
    }
    let pull = names(account, "imagePullSecrets");
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        let secret = secret.text("name");
        if !pull.contains(secret) {
            return Err(format!(
                "imagePullSecrets[{index}].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn limit_container(container: &Value, label: &str, account: &str, mountable: &BTreeSet<&str>) -> Result<(), String> {
    let own = container.text("name");
    for env in container.items("env") {
        let Some(reference) = env.at(&["valueFrom", "secretKeyRef"]).filter(|found| !found.is_null()) else { continue };
        let secret = reference.text("name");
        if !mountable.contains(secret) {
            let variable = env.text("name");
            return Err(format!(
                "{label} {own} with envVar {variable} referencing secret.secretName={secret:?} is not allowed because service account {account} does not reference that secret"
            ));
        }
    }
    for from in container.items("envFrom") {
        let Some(reference) = from.field("secretRef") else { continue };
        let secret = reference.text("name");
        if !mountable.contains(secret) {
            return Err(format!(
                "{label} {own} with envFrom referencing secret.secretName={secret:?} is not allowed because service account {account} does not reference that secret"
            ));
        }
    }
    Ok(())
}

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(async move {
            if attributes.is("", "pods") && attributes.operation == Operation::Create {
                return self.fill(attributes).await;
            }
            Ok(())
        })
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(async move {
            if attributes.is("", "pods") && attributes.operation == Operation::Create {
                return self.check(attributes).await;
            }
            // Ephemeral containers come later, under the same limits.
            if attributes.is_of("", "pods") && attributes.subresource == "ephemeralcontainers" {
                let pod = attributes.new_object();
                let name = pod.str_at(&["spec", "serviceAccountName"]);
                if is_mirror_pod(pod) || name.is_empty() {
                    return Ok(());
                }
                let account = self.find(attributes, name).await?;
                return check_ephemeral(attributes, &account);
            }
            Ok(())
        })
    }
}

fn check_ephemeral(attributes: &Attributes<'_>, account: &Value) -> Result<(), ApiError> {
    if !limits_secrets(account) {
        return Ok(());
    }
    let (name, mountable) = (account.str_at(&["metadata", "name"]), names(account, "secrets"));
    for container in attributes.new_object().items_at(&["spec", "ephemeralContainers"]) {
        limit_container(container, "ephemeral container", name, &mountable).map_err(|why| attributes.forbidden(why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_base::clock::SystemClock;

    fn plugin(accounts: Vec<Value>) -> ServiceAccount {
        let cluster = cluster();
        for account in accounts {
            cluster.put(&named("", "serviceaccounts"), account);
        }
        ServiceAccount::new(cluster as _, SystemClock::shared())
    }
    fn account(name: &str) -> Value {
        object! { "metadata": object! { "name": name, "namespace": "ns" } }
    }
    fn pod(spec: Value) -> Value {
        object! { "metadata": object! { "name": "p" }, "spec": spec }
    }

    #[tokio::test]
    async fn a_pod_gets_an_account_and_its_token() {
        let mut own = account("default");
        own.set("imagePullSecrets", list![object! { "name": "pull" }]);
        let plugin = plugin(vec![own]);
        let spec = object! {
            "containers": list![
                object! { "name": "a" },
                object! { "name": "b", "volumeMounts": list![object! { "name": "x", "mountPath": MOUNT_PATH }] },
            ],
        };
        let admitted = Case::create("", "pods", "ns", pod(spec)).admit(&plugin).await.unwrap();
        let spec = admitted.get("spec").unwrap();
        assert_eq!((spec.text("serviceAccountName"), spec.text("serviceAccount")), ("default", "default"));
        assert_eq!(spec.items("imagePullSecrets"), [object! { "name": "pull" }]);
        let [volume] = spec.items("volumes") else { panic!("{spec:?}") };
        let name = volume.text("name");
        assert_eq!((name.len(), &name[..VOLUME_PREFIX.len()]), (VOLUME_PREFIX.len() + 5, VOLUME_PREFIX));
        assert_eq!(volume, &token_volume(name));
        assert_eq!(volume.at(&["projected", "defaultMode"]), Some(&Value::Int(420)));
        let [a, b] = spec.items("containers") else { panic!("{spec:?}") };
        let mount = object! { "name": name, "readOnly": true, "mountPath": MOUNT_PATH };
        assert_eq!((a.items("volumeMounts"), b.items("volumeMounts").len()), (&[mount][..], 1));
        let again = Case::create("", "pods", "ns", admitted.clone()).admit(&plugin).await.unwrap();
        assert_eq!(again, admitted);
    }

    #[tokio::test]
    async fn the_token_is_not_wanted_everywhere() {
        let mut quiet = account("quiet");
        quiet.set("automountServiceAccountToken", false);
        let plugin = plugin(vec![quiet]);
        for (said, volumes) in [(None, 0), (Some(true), 1), (Some(false), 0)] {
            let mut spec = object! { "serviceAccountName": "quiet", "containers": list![object! { "name": "a" }] };
            if let Some(said) = said {
                spec.set("automountServiceAccountToken", said);
            }
            let admitted = Case::create("", "pods", "ns", pod(spec)).admit(&plugin).await.unwrap();
            assert_eq!(admitted.items_at(&["spec", "volumes"]).len(), volumes, "{said:?}");
        }
    }

    #[tokio::test]
    async fn missing_accounts_and_mirror_pods() {
        let plugin = plugin(vec![]);
        let missing = Case::create("", "pods", "ns", pod(object! { "serviceAccountName": "x" }));
        assert_eq!(
            missing.admit(&plugin).await.unwrap_err().message(),
            "pods \"p\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" not found"
        );
        let mirror = |spec: Value| {
            let mut pod = pod(spec);
            pod.make("metadata").set("annotations", object! { "kubernetes.io/config.mirror": "x" });
            Case::create("", "pods", "ns", pod)
        };
        let plain = mirror(object! { "containers": list![object! { "name": "a" }] }).admit(&plugin).await.unwrap();
        assert_eq!(plain.get("spec"), Some(&object! { "containers": list![object! { "name": "a" }] }));
        for (spec, why) in [
            (object! { "serviceAccountName": "x" }, "a mirror pod may not reference service accounts"),
            (
                object! { "volumes": list![object! { "secret": object! { "secretName": "s" } }] },
                "a mirror pod may not reference secrets",
            ),
            (
                object! { "containers": list![object! { "envFrom": list![object! { "secretRef": object! { "name": "s" } }] }] },
                "a mirror pod may not reference secrets",
            ),
            (
                object! { "volumes": list![token_volume("t")] },
                "a mirror pod may not use ServiceAccountToken volume projections",
            ),
        ] {
            let error = mirror(spec).validate(&plugin).await.unwrap_err();
            assert_eq!(error.message(), format!("pods \"p\" is forbidden: {why}"));
        }
    }

    #[tokio::test]
    async fn accounts_may_limit_secrets() {
        let mut strict = account("strict");
        strict.make("metadata").set("annotations", object! { "kubernetes.io/enforce-mountable-secrets": "true" });
        strict.set("secrets", list![object! { "name": "own" }]);
        let plugin = plugin(vec![strict]);
        let with = |secret: &str| {
            pod(object! {
                "serviceAccountName": "strict",
                "volumes": list![object! { "secret": object! { "secretName": secret } }],
            })
        };
        Case::create("", "pods", "ns", with("own")).validate(&plugin).await.unwrap();
        assert_eq!(
            Case::create("", "pods", "ns", with("other")).validate(&plugin).await.unwrap_err().message(),
            "pods \"p\" is forbidden: volume with secret.secretName=\"other\" is not allowed because service account strict does not reference that secret"
        );
    }
}
