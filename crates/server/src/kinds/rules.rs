//! Which rules belong to which kind.

use super::strategy::Rules;

static NONE: Rules = Rules::NONE;

/// The rules of a kind; [`Rules::NONE`] for kinds that have only the shared ones.
pub(super) fn rules(_group: &str, _resource: &str) -> &'static Rules {
    &NONE
}
