//! `/healthz`, `/livez`, `/readyz` over [`skiff_base::health`].

use crate::answer;
use crate::request::Query;
use skiff_base::health::Health;
use skiff_net::Body;

/// Answers a health endpoint; `None` for other paths.
pub fn answer(health: &Health, path: &str, query: &Query<'_>) -> Option<http::Response<Body>> {
    let verbose = query.get("verbose").is_some();
    let found = health.answer(path, verbose, query.all("exclude"))?;
    let status = http::StatusCode::from_u16(found.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    Some(answer::text(status, found.text))
}
