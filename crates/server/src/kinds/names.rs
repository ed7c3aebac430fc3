//! What may be in `metadata.name` of each kind.

use skiff_machinery::names::NameRule;

/// A DNS subdomain: what most kinds want.
pub(super) fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    NameRule::DnsSubdomain.check(name, prefix)
}
/// A DNS label: namespaces and services.
pub(super) fn label(name: &str, prefix: bool) -> Vec<String> {
    NameRule::DnsLabel.check(name, prefix)
}
/// One segment of a path: RBAC.
pub(super) fn segment(name: &str, prefix: bool) -> Vec<String> {
    NameRule::PathSegment.check(name, prefix)
}
