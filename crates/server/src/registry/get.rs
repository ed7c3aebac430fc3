//! One object.

use super::Registry;
use super::cache::Entry;
use super::respond::Scope;
use skiff_machinery::error::{Cause, Details};
use skiff_machinery::{ApiError, Reason};
use skiff_store::Revision;
use std::sync::Arc;
use std::time::Duration;

/// How long a read waits for a revision that has not come yet (`blockTimeout`, cacher/watch_cache.go).
const WAIT_FOR_REVISION: Duration = Duration::from_secs(3);

/// A `resourceVersion` parameter: empty is `None`.
pub(super) fn parse_revision(text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>().ok().and_then(|number| Revision::try_from(number).ok()) {
        Some(revision) => Ok(Some(revision)),
        None => {
            let path = skiff_machinery::FieldPath::new("resourceVersion");
            let error = skiff_machinery::FieldError::invalid(
                &path,
                text,
                format!("strconv.ParseUint: parsing {}: invalid syntax", skiff_machinery::error::quote(text)),
            );
            Err(ApiError::bad_request(format!("invalid resource version: {error}")))
        }
    }
}

impl Registry {
    /// Waits until the caches are at least as new as `minimum` (`NewTooLargeResourceVersionError` when they do not
    /// become so).
    pub(super) async fn wait_not_older(&self, minimum: Revision) -> Result<(), ApiError> {
        if self.feed.applied() >= minimum {
            return Ok(());
        }
        tokio::select! {
            () = self.feed.wait_for(minimum) => Ok(()),
            () = self.clock.sleep(WAIT_FOR_REVISION) => {
                let message = format!("Timeout: Too large resource version: {minimum}, current: {}", self.feed.applied());
                Err(ApiError::new(504, Reason::Timeout, message).with_details(Details {
                    causes: vec![Cause {
                        reason: "ResourceVersionTooLarge".to_owned(),
                        message: "Too large resource version".to_owned(),
                        field: String::new(),
                    }],
                    retry_after_seconds: 1,
                    ..Details::default()
                }))
            }
        }
    }

    /// An object as `resourceVersion` wants it: the newest without one, any with 0, else not older.
    pub(super) async fn get_entry(
        &self,
        scope: &Scope,
        namespace: &str,
        name: &str,
        revision: &str,
    ) -> Result<Arc<Entry>, ApiError> {
        match parse_revision(revision)? {
            None => {
                self.barrier().await?;
            }
            Some(0) => {}
            Some(minimum) => self.wait_not_older(minimum).await?,
        }
        let found = scope.cache.get(&scope.key(namespace, name));
        found.ok_or_else(|| ApiError::not_found(&scope.resource.name, name))
    }
}
