//! Rules of roles: what they match, and which of them cover others (`rbac/v1/evaluation_helpers.go`,
//! `component-helpers/auth/rbac/validation/policy_comparator.go`).

use super::Question;
use skiff_machinery::Value;
use std::fmt;

/// `rbac.PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields of rbac/v1 PolicyRule")]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Reads one rule.
    pub fn from_value(value: &Value) -> Self {
        let list = |key: &str| {
            value.items_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<String>>()
        };
        Self {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }
    /// Reads `rules` of a role.
    pub fn all(role: &Value) -> Vec<Self> {
        role.items_at(&["rules"]).iter().map(Self::from_value).collect()
    }

    /// Whether the rule allows what is asked (`RuleAllows`).
    pub fn allows(&self, question: &Question<'_>) -> bool {
        if !has(&self.verbs, question.verb) {
            return false;
        }
        if !question.is_resource {
            return self.non_resource_urls.iter().any(|url| url_matches(url, question.path));
        }
        has(&self.api_groups, question.group)
            && self.resources.iter().any(|rule| resource_matches(rule, question.resource, question.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == question.name))
    }

    /// One rule for each combination, in upstream's order (`BreakdownRule`).
    pub fn breakdown(&self) -> Vec<Self> {
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let simple = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(simple);
                        continue;
                    }
                    let named = self
                        .resource_names
                        .iter()
                        .map(|name| Self { resource_names: vec![name.clone()], ..simple.clone() });
                    out.extend(named);
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                let urls = vec![url.clone()];
                out.push(Self { verbs: vec![verb.clone()], non_resource_urls: urls, ..Self::default() });
            }
        }
        out
    }

    /// Whether this rule covers the whole of a broken-down one (`ruleCovers`).
    fn covers(&self, sub: &Self) -> bool {
        let urls =
            sub.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| url_covers(own, url)));
        has_all(&self.verbs, &sub.verbs)
            && has_all(&self.api_groups, &sub.api_groups)
            && sub.resources.iter().all(|resource| {
                self.resources.iter().any(|own| {
                    own == "*"
                        || own == resource
                        || own.strip_prefix("*/").is_some_and(|own| {
                            resource.split_once('/').is_some_and(|(_, subresource)| subresource == own)
                        })
                })
            })
            && (self.resource_names.is_empty()
                || (!sub.resource_names.is_empty() && has_exactly(&self.resource_names, &sub.resource_names)))
            && urls
    }
}

/// Whether `owner` holds everything in `wanted`; what it lacks, broken down (`validation.Covers`).
pub fn uncovered(owner: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::breakdown).filter(|simple| !owner.iter().any(|rule| rule.covers(simple))).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}
fn has_all(own: &[String], wanted: &[String]) -> bool {
    own.iter().any(|one| one == "*") || has_exactly(own, wanted)
}
fn has_exactly(own: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|one| own.contains(one))
}
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    let Some((of, sub)) = rule.split_once('/') else { return false };
    sub == subresource && (of == "*" || of == resource)
}
fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}
fn url_covers(own: &str, wanted: &str) -> bool {
    own == "*" || own == wanted || own.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix))
}

/// As upstream prints rules in its refusals (`CompactString`).
impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                let quoted: Vec<String> = list.iter().map(|text| skiff_machinery::error::quote(text)).collect();
                parts.push(format!("{name}:[{}]", quoted.join(" ")));
            }
        }
        write!(out, "{{{}}}", parts.join(", "))
    }
}

/// Joins simple rules that differ only in their verbs, and drops repeats (`CompactRules`). Rules that are not simple
/// stay as they are.
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::with_capacity(rules.len());
    for rule in rules {
        let simple = rule.non_resource_urls.is_empty() && rule.resources.len() == 1 && rule.api_groups.len() == 1;
        let same = |other: &&mut Rule| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls.is_empty()
        };
        if out.contains(&rule) {
            continue;
        }
        match out.iter_mut().find(same).filter(|_| simple) {
            Some(known) => {
                for verb in rule.verbs {
                    if !known.verbs.contains(&verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            None => out.push(rule),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn covering() {
        let held =
            [rule(&["get", "list"], &[""], &["pods", "*/scale"], &[]), rule(&["*"], &["apps"], &["*"], &["web"])];
        let lacks =
            |wanted: Rule| uncovered(&held, &[wanted]).iter().map(Rule::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(lacks(rule(&["get"], &[""], &["pods"], &["a"])), "");
        assert_eq!(lacks(rule(&["get"], &[""], &["deployments/scale"], &[])), "");
        assert_eq!(
            lacks(rule(&["get", "delete"], &[""], &["pods"], &[])),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        assert_eq!(lacks(rule(&["get"], &["apps"], &["deployments"], &["web"])), "");
        assert_ne!(lacks(rule(&["get"], &["apps"], &["deployments"], &[])), "", "all names are more than one");
        assert_ne!(lacks(rule(&["*"], &[""], &["pods"], &[])), "", "all verbs are more than two");
    }

    #[test]
    fn joins_verbs() {
        let rules = vec![
            rule(&["get"], &[""], &["pods"], &[]),
            rule(&["list"], &[""], &["pods"], &[]),
            rule(&["list"], &[""], &["pods"], &["x"]),
        ];
        let joined = compact(rules);
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[0].verbs, ["get", "list"]);
    }
}
