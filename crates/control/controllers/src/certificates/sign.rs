//! The signers of Kubernetes (`certificates/signer/signer.go`): what is approved gets a certificate of the cluster's
//! authority, what a signer does not sign gets the condition `Failed`.

use super::{REQUESTS, Signing, check, has, is_issued, read, usages};
use crate::context::{Context, Informers, SyncError, SyncResult, run_controller};
use crate::workload::int_at;
use base64::Engine;
use skiff_base::clock::SharedClock;
use skiff_base::pki::CertificateRequest;
use skiff_client::informer::ObjectKey;
use skiff_client::leader::time;
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Value, object};
use std::sync::Arc;
use std::time::Duration;

/// The shortest life of a certificate, whatever was asked for.
const SHORTEST: Duration = Duration::from_secs(10 * 60);

struct Controller {
    client: Client,
    clock: SharedClock,
    requests: Arc<Store<Tree>>,
    signing: Signing,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers, client: &Client, signing: Signing) {
    let queue = context.queue("certificate");
    informers.certificate_requests.queue_all(&queue);
    let requests = informers.certificate_requests.store();
    let controller =
        Arc::new(Controller { client: client.clone(), clock: Arc::clone(&context.clock), requests, signing });
    run_controller(context, "csrsigning", &queue, 5, &controller, Controller::sync);
}

/// What becomes of a request.
#[derive(Debug)]
enum Decision {
    /// Not ours, or not now.
    Leave,
    /// It is to be signed.
    Sign(CertificateRequest),
    /// It never will be, for this reason.
    Fail(String),
}

fn decide(request: &Value) -> Result<Decision, String> {
    if is_issued(request) || !has(request, "Approved") || has(request, "Denied") || has(request, "Failed") {
        return Ok(Decision::Leave);
    }
    let signer = request.str_at(&["spec", "signerName"]);
    if !signer.starts_with("kubernetes.io/") {
        return Ok(Decision::Leave);
    }
    let asked = read(request)?;
    Ok(match check::for_signer(signer, &asked, &usages(request)) {
        None => Decision::Leave,
        Some(Ok(())) => Decision::Sign(asked),
        Some(Err(why)) => Decision::Fail(why),
    })
}

/// How long a certificate lives: what was asked for, within limits.
fn lifetime(request: &Value, longest: Duration) -> Duration {
    match u64::try_from(int_at(request, &["spec", "expirationSeconds"], -1)) {
        Err(_) => longest,
        Ok(seconds) => Duration::from_secs(seconds).max(SHORTEST).min(longest),
    }
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        let Some(item) = self.requests.get_key(&key) else { return Ok(None) };
        let request = &*item.value.0;
        let unreadable = |error| SyncError::Object(format!("unable to parse csr \"{}\": {error}", key.name));
        let mut updated = request.clone();
        let Some(map) = updated.as_object_mut() else { return Ok(None) };
        let status = map.object_mut("status");
        match decide(request).map_err(unreadable)? {
            Decision::Leave => return Ok(None),
            Decision::Fail(why) => {
                let mut conditions = request.items_at(&["status", "conditions"]).to_vec();
                conditions.push(object! {
                    "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": why,
                    "lastUpdateTime": time(self.clock.wall()),
                });
                status.insert("conditions", conditions);
            }
            Decision::Sign(asked) => {
                let lifetime = lifetime(request, self.signing.duration);
                let now = self.clock.wall();
                let pem = self.signing.signer.sign(&asked, &usages(request), lifetime, now);
                let pem = pem.map_err(|error| SyncError::Object(format!("error auto signing csr: {error}")))?;
                status.insert("certificate", base64::engine::general_purpose::STANDARD.encode(pem));
            }
        }
        let (group, version, resource) = REQUESTS;
        let api = self.client.all(group, version, resource);
        let written = api.replace(&key.name, "status", &updated, &WriteOptions::default()).await?;
        self.requests.wait_for(&key, &written).await;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_between_ten_minutes_and_the_longest() {
        let day = Duration::from_secs(86_400);
        let of = |seconds: i64| lifetime(&object! { "spec": object! { "expirationSeconds": seconds } }, day);
        assert_eq!(lifetime(&object! {}, day), day);
        assert_eq!(of(3600), Duration::from_secs(3600));
        assert_eq!(of(60), SHORTEST);
        assert_eq!(of(864_000), day);
    }
}
