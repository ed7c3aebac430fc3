//! Server-side apply and the ownership of fields.
//!
//! Two layers in one, as upstream has them apart: `sigs.k8s.io/structured-merge-diff` (sets of fields, comparison, merge,
//! removal, all driven by a type) and `k8s.io/apimachinery/pkg/util/managedfields` (entries of `managedFields`, what is
//! never tracked, conflicts in words, the move from client-side apply). [`FieldManager`] is what a request handler uses:
//! [`FieldManager::update`] after every create, update and patch, [`FieldManager::apply`] for apply patches.
//!
//! The flow of an update: decode the managers → compare old and new → take changed and removed fields from every manager
//! → give changed and added ones to the caller → write the entries back. An apply merges the configuration into the
//! object first, and removes what the same manager applied before, applies no longer, and nobody else owns.
//!
//! Trees are of one version of the kind. Managers that speak another version own fields in its words; [`Versions`]
//! converts for them. The machinery knows no clock: `now` is text.
//!
//! Not here: extracting what one manager owns (`ExtractInto`), and the mapping of a `Scale`'s entries to its parent's
//! (`scalehandler.go`): apply a scale as a configuration of the parent that holds `replicas` alone, with `scale` as the
//! subresource.
//!
//! Departure: a map or list from which apply removes the last owned member goes away with it, where upstream leaves a
//! `null` that typed kinds lose in decoding.

mod compare;
mod element;
mod managed;
mod manager;
mod merge;
mod set;
mod typed;

pub use compare::{Comparison, compare};
pub use element::Element;
pub use manager::{FieldManager, OneVersion, Versioned, Versions};
pub use set::Set;

use crate::schema::StructType;
use crate::value::Value;

/// An object with a configuration of its type laid over it, as apply does, but nobody owns anything
/// (`ApplyStructuredMergeDiff` in `apiserver/pkg/admission/plugin/policy/mutating/patch`): what mutating policies make. Says
/// what does not fit, and refuses to touch what is owned as a whole.
pub fn merge_configuration(object: Value, config: &Value, entry: &StructType) -> Result<Value, String> {
    let errors = typed::validate(config, entry);
    if !errors.is_empty() {
        return Err(format!("error applying patch: {}", typed::join_errors(&errors)));
    }
    let atomics = typed::atomics(config, entry);
    if !atomics.is_empty() {
        let what = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs";
        return Err(format!("{what}: {}", atomics.join(", ")));
    }
    Ok(merge::merge(object, config, entry))
}

/// Most updaters that are kept apart (`DefaultMaxUpdateManagers`).
pub const MAX_UPDATE_MANAGERS: usize = 10;
/// The annotation in which client-side apply keeps what it applied.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[cfg(test)]
mod tests;
