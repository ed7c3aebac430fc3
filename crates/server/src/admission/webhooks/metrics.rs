//! What webhooks cost and refuse, under upstream's names (`apiserver/pkg/admission/metrics/metrics.go`).

use super::super::Attributes;
use super::config::Hook;
use skiff_base::metrics::{Collect, Counter, Family, Histogram, Registry};
use std::sync::Arc;
use std::time::Duration;

/// How an exchange with a webhook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    /// Refused, with the code of the refusal.
    Denied(u16),
    /// It could not be asked, and nobody passes without it.
    Failed,
    /// It could not be asked, and was passed over.
    Ignored,
}

/// Counters of both kinds of webhooks.
pub(super) struct WebhookMetrics {
    durations: Arc<Family<Histogram>>,
    rejections: Arc<Family<Counter>>,
    passed_over: Arc<Family<Counter>>,
    requests: Arc<Family<Counter>>,
}

impl WebhookMetrics {
    pub(super) fn new() -> Arc<Self> {
        const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
        let families = Registry::new();
        Arc::new(Self {
            durations: families.histograms(
                "apiserver_admission_webhook_admission_duration_seconds",
                "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &["name", "operation", "rejected", "type"],
                SECONDS,
            ),
            rejections: families.counters(
                "apiserver_admission_webhook_rejection_count",
                "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["error_type", "name", "operation", "rejection_code", "type"],
            ),
            passed_over: families.counters(
                "apiserver_admission_webhook_fail_open_count",
                "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
                &["name", "type"],
            ),
            requests: families.counters(
                "apiserver_admission_webhook_request_total",
                "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["code", "name", "operation", "rejected", "type"],
            ),
        })
    }

    /// For whoever shows them.
    pub(super) fn families(&self) -> Vec<Arc<dyn Collect>> {
        vec![
            Arc::clone(&self.durations) as _,
            Arc::clone(&self.rejections) as _,
            Arc::clone(&self.passed_over) as _,
            Arc::clone(&self.requests) as _,
        ]
    }

    pub(super) fn observe(
        &self,
        hook: &Hook,
        kind: &'static str,
        attributes: &Attributes<'_>,
        outcome: Outcome,
        took: Duration,
    ) {
        let (name, operation) = (hook.name.as_str(), attributes.operation.as_str());
        let rejected = if matches!(outcome, Outcome::Denied(_) | Outcome::Failed) { "true" } else { "false" };
        self.durations.with(&[name, operation, rejected, kind]).observe(took.as_secs_f64());
        let (code, error_type, rejection) = match outcome {
            Outcome::Allowed => (200, None, 0),
            Outcome::Denied(code) => (code, Some("no_error"), code),
            Outcome::Failed => (500, Some("calling_webhook_error"), 0),
            Outcome::Ignored => (500, None, 0),
        };
        self.requests.with(&[&code.min(600).to_string(), name, operation, rejected, kind]).increment();
        if let Some(error_type) = error_type {
            let rejection = rejection.min(600).to_string();
            self.rejections.with(&[error_type, name, operation, &rejection, kind]).increment();
        }
        if outcome == Outcome::Ignored {
            self.passed_over.with(&[name, kind]).increment();
        }
    }
}
