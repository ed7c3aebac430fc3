//! Certificate requests (`controller/certificates`): kubelets' are approved, what is approved is signed, what is old goes.
//!
//! | step | module |
//! |---|---|
//! | what a request has to be for its signer, pure | `check` |
//! | `csrapproving`: approves what a node asks for itself | [`approve`] |
//! | `csrsigning-*`: the four signers of Kubernetes | [`sign`] |
//! | `csrcleaner`: deletes what nobody waits for any more | [`clean`] |
//!
//! All act as `certificate-controller`. Without the authority's key nothing is signed, as upstream without
//! `--cluster-signing-key-file`; the rest goes on.
//!
//! Not here yet: an authority of its own for each signer (`--cluster-signing-kubelet-serving-cert-file` and its kind).

mod approve;
mod check;
mod clean;
mod sign;

use crate::context::{Context, Informers};
use base64::Engine;
use skiff_base::pki::{CertificateRequest, Signer};
use skiff_machinery::Value;
use std::sync::Arc;
use std::time::Duration;

const REQUESTS: (&str, &str, &str) = ("certificates.k8s.io", "v1", "certificatesigningrequests");

/// The authority that signs, and for how long at most (`--cluster-signing-duration`).
#[derive(Clone)]
pub struct Signing {
    /// The authority.
    pub signer: Arc<Signer>,
    /// The longest life of a certificate.
    pub duration: Duration,
}

/// Builds them.
pub fn spawn(context: &Context, informers: &mut Informers, signing: Option<Signing>) {
    let client = context.clients.controller("certificate-controller");
    approve::spawn(context, informers, &client);
    match signing {
        Some(signing) => sign::spawn(context, informers, &client, signing),
        None => tracing::warn!("the authority's key is not here: no certificate requests are signed"),
    }
    clean::spawn(context, informers, &client);
}

/// Whether the condition `ty` is there; conditions of requests are true or absent.
fn has(request: &Value, ty: &str) -> bool {
    let conditions = request.items_at(&["status", "conditions"]);
    conditions.iter().any(|condition| condition.str_at(&["type"]) == ty && condition.str_at(&["status"]) != "False")
}

fn is_issued(request: &Value) -> bool {
    !request.str_at(&["status", "certificate"]).is_empty()
}

/// What `spec.request` holds.
fn read(request: &Value) -> Result<CertificateRequest, String> {
    let pem = base64::engine::general_purpose::STANDARD.decode(request.str_at(&["spec", "request"]));
    let pem = pem.map_err(|error| format!("spec.request: {error}"))?;
    CertificateRequest::parse(&pem).map_err(|error| error.to_string())
}

fn usages(request: &Value) -> Vec<&str> {
    request.items_at(&["spec", "usages"]).iter().filter_map(Value::as_str).collect()
}
