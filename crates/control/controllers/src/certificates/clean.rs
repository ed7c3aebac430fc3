//! Deletes requests that nobody waits for any more (`certificates/cleaner/cleaner.go`).

use super::{REQUESTS, is_issued};
use crate::context::{Context, Informers};
use crate::pod::seconds;
use crate::workload::epoch_seconds;
use base64::Engine;
use skiff_base::task::OnFailure;
use skiff_client::Client;
use skiff_machinery::Value;
use std::time::{Duration, SystemTime};

/// How often all are looked at.
const PERIOD: Duration = Duration::from_secs(60 * 60);
const HOUR: i64 = 60 * 60;
/// How long what is decided stays, and what is not.
const DECIDED: i64 = HOUR;
const PENDING: i64 = 24 * HOUR;

pub(super) fn spawn(context: &Context, informers: &mut Informers, client: &Client) {
    let requests = informers.certificate_requests.store();
    let (client, clock) = (client.clone(), std::sync::Arc::clone(&context.clock));
    context.supervisor.spawn_abortable("csrcleaner", OnFailure::EndComponent, async move {
        requests.synced().await;
        let (group, version, resource) = REQUESTS;
        let api = client.all(group, version, resource);
        loop {
            for item in requests.list().into_iter().filter(|item| is_over(&item.value, clock.wall())) {
                let options = skiff_client::api::delete_options(&item.uid, "");
                match api.delete(&item.key.name, Some(&options)).await {
                    Ok(_) => tracing::debug!(csr = %item.key, "deleted: nobody waits for it"),
                    Err(error) if error.is_not_found() || error.is_conflict() => (),
                    Err(error) => tracing::warn!(csr = %item.key, %error, "cannot delete it"),
                }
            }
            clock.sleep(PERIOD).await;
        }
    });
}

/// Whether nobody waits for it: long decided, long undecided, or its certificate has ended.
fn is_over(request: &Value, now: SystemTime) -> bool {
    let epoch = epoch_seconds(now);
    let older = |at: Option<i64>, than: i64| at.is_some_and(|at| epoch - at > than);
    let conditions = request.items_at(&["status", "conditions"]);
    let decided = conditions.iter().any(|condition| {
        matches!(condition.str_at(&["type"]), "Approved" | "Denied" | "Failed")
            && older(seconds(condition, &["lastUpdateTime"]), DECIDED)
    });
    let forgotten = conditions.is_empty() && older(seconds(request, &["metadata", "creationTimestamp"]), PENDING);
    decided || forgotten || has_ended(request, now)
}

fn has_ended(request: &Value, now: SystemTime) -> bool {
    if !is_issued(request) {
        return false;
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(request.str_at(&["status", "certificate"]));
    let pem = pem.ok().and_then(|pem| String::from_utf8(pem).ok());
    pem.and_then(|pem| skiff_base::pki::not_after(&pem)).is_some_and(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    #[test]
    fn what_is_long_decided_or_forgotten_goes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let time = |ago: u64| skiff_client::leader::time(now - Duration::from_secs(ago));
        let made = |ago: u64, conditions: Value| {
            object! {
                "metadata": object! { "creationTimestamp": time(ago) },
                "status": object! { "conditions": conditions },
            }
        };
        let decided = |ty: &str, ago: u64| list![object! { "type": ty, "status": "True", "lastUpdateTime": time(ago) }];
        let cases = [
            (made(86_000, list![]), false),
            (made(86_500, list![]), true),
            (made(86_500, decided("Approved", 3500)), false),
            (made(5000, decided("Approved", 3700)), true),
            (made(5000, decided("Denied", 3700)), true),
            (made(5000, decided("Failed", 3700)), true),
            (made(5000, decided("Other", 3700)), false),
        ];
        for (request, over) in cases {
            assert_eq!(is_over(&request, now), over, "{request:?}");
        }
    }
}
