//! How long a request may take: `?timeout=`, at most `--request-timeout` (`filters/request_deadline.go`).

use crate::request::{Query, RequestInfo};
use skiff_base::flags::parse_duration;
use skiff_machinery::ApiError;
use std::time::Duration;

/// The deadline of a request; `None` for one that lasts.
pub fn deadline(info: &RequestInfo, query: Option<&str>, max: Duration) -> Result<Option<Duration>, ApiError> {
    if info.is_long_running() {
        return Ok(None);
    }
    let Some(query) = query.filter(|query| query.contains("timeout=")) else { return Ok(Some(max)) };
    let query = Query::parse(query);
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(Some(max)) };
    let invalid = || {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - time: invalid duration {}",
            skiff_machinery::error::quote(text)
        ))
    };
    let asked = parse_duration(text).ok_or_else(invalid)?;
    Ok(Some(if asked.is_zero() { max } else { asked.min(max) }))
}
