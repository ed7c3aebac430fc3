//! Asking a webhook for its review.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/request/admissionreview.go`.

use super::config::Hook;
use crate::callout::{CallError, Caller};
use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{Value, object};

/// Sends a request for review; its `response`.
pub(super) async fn ask(caller: &Caller, hook: &Hook, request: &Value) -> Result<Value, CallError> {
    let review = object! {
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", hook.review),
        "request": request.clone(),
    };
    let answer = caller.ask(&hook.remote, &review).await?;
    verify(hook, request, &answer)
}

/// Whether an answer is one to what was asked (`VerifyAdmissionResponse`).
fn verify(hook: &Hook, request: &Value, answer: &Value) -> Result<Value, CallError> {
    let fault = |what: String| Err(CallError::Answer(what));
    let wanted = format!("admission.k8s.io/{}", hook.review);
    let Some(response) = answer.get("response").filter(|response| !response.is_null()) else {
        return fault("webhook response was absent".to_owned());
    };
    if hook.review == "v1" {
        let (kind, version) = (answer.text("kind"), answer.text("apiVersion"));
        if kind != "AdmissionReview" || version != wanted {
            return fault(format!(
                "expected webhook response of {wanted}, Kind=AdmissionReview, got {version}, Kind={kind}"
            ));
        }
        if response.text("uid") != request.text("uid") {
            return fault(format!(
                "expected response.uid={}, got {}",
                quote(request.text("uid")),
                quote(response.text("uid"))
            ));
        }
        let patch = !response.text("patch").is_empty();
        let ty = response.text("patchType");
        if patch && ty != "JSONPatch" {
            return fault(if ty.is_empty() {
                "webhook returned response.patch but not response.patchType".to_owned()
            } else {
                format!("webhook returned invalid response.patchType of {}", quote(ty))
            });
        }
        if !patch && !ty.is_empty() {
            return fault("webhook returned response.patchType but not response.patch".to_owned());
        }
    }
    Ok(response.clone())
}
