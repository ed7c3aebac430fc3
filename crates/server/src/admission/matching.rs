//! Which requests a webhook or a policy wants to see: rules, selectors, and in which version of the kind.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/predicates` and `plugin/policy/matching`.

use super::Attributes;
use crate::kinds::tree::Tree;
use crate::kinds::{Resource, Scope};
use skiff_machinery::Value;
use skiff_machinery::selector::Selector;

/// One rule.
#[derive(Default)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    /// Policies only; empty: any.
    names: Vec<String>,
    scope: String,
}

/// All that has to fit.
pub(super) struct Constraints {
    equivalent: bool,
    /// None: everything fits.
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    namespaces: Selector,
    objects: Selector,
}

pub(super) fn texts(value: &Value, field: &str) -> Vec<String> {
    value.items(field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What an object of a subresource of its own kind is.
pub(super) fn kind_of<'a>(attributes: &'a Attributes<'_>, version: usize) -> (&'a str, &'a str, &'a str) {
    let resource = attributes.resource;
    let own = &resource.versions[version].group_version;
    let sub = resource.subresources.iter().find(|sub| sub.name == attributes.subresource);
    match sub {
        Some(sub) => {
            let (group, version) = sub.kind_group_version.unwrap_or((&own.group, &own.version));
            (group, version, sub.kind)
        }
        None => (&own.group, &own.version, &resource.kind),
    }
}

/// Which version of the kind a request speaks.
pub(super) fn request_version(attributes: &Attributes<'_>) -> usize {
    let wanted = attributes.context.info.version.as_str();
    attributes.resource.versions.iter().position(|version| version.group_version.version == wanted).unwrap_or(0)
}

/// Kinds that no webhook and no policy may see: a broken one could not be repaired.
pub(super) fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource.name.group == "admissionregistration.k8s.io"
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources"),
            names: texts(rule, "resourceNames"),
            scope: rule.text("scope").to_owned(),
        }
    }

    fn matches(&self, attributes: &Attributes<'_>, resource: &Resource, version: usize) -> bool {
        let gv = &resource.versions[version].group_version;
        let scope = match (self.scope.as_str(), attributes.resource.scope) {
            // A namespace is not in a namespace, but requests about it have one.
            ("Namespaced", _) => !attributes.namespace.is_empty() && !attributes.is_of("", "namespaces"),
            ("Cluster", _) => attributes.namespace.is_empty() || attributes.is_of("", "namespaces"),
            (_, Scope::Cluster | Scope::Namespaced) => true,
        };
        let (own, sub) = (resource.name.resource.as_str(), attributes.subresource);
        let matches_resource = self.resources.iter().any(|wanted| {
            let (wanted, wanted_sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            // `*` alone is every resource, and none of their subresources; `*/*` is everything.
            (wanted == "*" || wanted == own) && (wanted_sub == "*" || wanted_sub == sub)
        });
        scope
            && any(&self.operations, attributes.operation.as_str())
            && any(&self.groups, &gv.group)
            && any(&self.versions, &gv.version)
            && matches_resource
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}

impl Constraints {
    /// Of a webhook or of `matchConstraints` and `matchResources`; `rules` and `excluded` are the names of its lists.
    pub(super) fn of(value: &Value, rules: &str, excluded: &str) -> Result<Self, String> {
        let selector = |field: &str| Selector::from_label_selector(value.get(field)).map_err(|error| error.to_string());
        Ok(Self {
            equivalent: value.text("matchPolicy") != "Exact",
            rules: value.items(rules).iter().map(Rule::of).collect(),
            excluded: value.items(excluded).iter().map(Rule::of).collect(),
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
        })
    }

    /// In which version a request fits; `None`: in none. Without rules, in its own.
    pub(super) fn matches(&self, attributes: &Attributes<'_>, namespace: Option<&Value>) -> Option<usize> {
        let in_namespace = match namespace {
            Some(namespace) => self.namespaces.matches_object(namespace),
            // What is in no namespace is not told apart by it.
            None => true,
        };
        let objects = [attributes.object.as_ref(), attributes.old.as_deref()].into_iter().flatten();
        let mut objects = objects.filter(|object| !object.is_null());
        let by_labels = self.objects.is_empty() || objects.any(|object| self.objects.matches_object(object));
        if !in_namespace || !by_labels || self.find(&self.excluded, attributes).is_some() {
            return None;
        }
        if self.rules.is_empty() {
            return Some(request_version(attributes));
        }
        self.find(&self.rules, attributes)
    }

    /// Whether there is a rule at all; a webhook without one sees nothing.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    fn find(&self, rules: &[Rule], attributes: &Attributes<'_>) -> Option<usize> {
        let resource = attributes.resource;
        let asked = request_version(attributes);
        let others = (0..resource.versions.len()).filter(|version| *version != asked && self.equivalent);
        let mut versions = [asked].into_iter().chain(others.filter(|version| resource.versions[*version].served));
        versions.find(|version| rules.iter().any(|rule| rule.matches(attributes, resource, *version)))
    }
}
