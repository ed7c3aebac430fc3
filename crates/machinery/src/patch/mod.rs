//! Changing an object by a patch, and finding the patch that makes one object of another.
//!
//! [`json_patch`] is RFC 6902, [`merge_patch`] is RFC 7386, both with the semantics of the library upstream uses
//! (`gopkg.in/evanphx/json-patch.v4`); [`strategic`] is Kubernetes' own merge, driven by a [`Type`](crate::schema::Type).
//! Server-side apply is [`crate::apply`].
//!
//! All work on trees and none trusts its input: a patch's cost is bounded by its own size and the document's, whatever
//! it says.

pub mod json_patch;
pub mod merge_patch;
pub mod strategic;
mod strategic_diff;

pub use json_patch::JsonPatch;

use crate::error::{ApiError, Details, Reason};

/// How upstream answers a patch that is understood but cannot be applied (`NewGenericServerResponse` with 422): the
/// same words whatever went wrong. The reason is for the log.
pub(crate) fn unprocessable() -> ApiError {
    ApiError::new(422, Reason::Invalid, "the server rejected our request due to an error in our request")
        .with_details(Details::default())
}

#[cfg(test)]
mod tests;
