//! Configurations as they are used: parsed once for each state of the stored objects.
//!
//! Mirrors `apiserver/pkg/admission/configuration`, `plugin/webhook/accessors.go` and `predicates/rules/rules.go`.

use super::super::{Attributes, Operation, Reader};
use crate::kinds::tree::Tree;
use crate::kinds::{Resource, Scope};
use base64::Engine;
use skiff_machinery::cel::{Program, Variable, Wanted};
use skiff_machinery::selector::Selector;
use skiff_machinery::{GroupResource, Value};
use std::sync::Arc;
use std::time::Duration;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    Url(String),
    Service { namespace: String, name: String, port: i64, path: String },
}

/// One webhook.
pub(super) struct Hook {
    /// Tells webhooks of one name apart: the configuration's, and which one there.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) configuration: String,
    pub(super) endpoint: Endpoint,
    /// PEM; empty: the host's.
    pub(super) ca: Vec<u8>,
    /// Requests are refused when it cannot be asked.
    pub(super) fail: bool,
    equivalent: bool,
    rules: Vec<Rule>,
    namespaces: Selector,
    objects: Selector,
    pub(super) conditions: Vec<(String, Program)>,
    pub(super) timeout: Duration,
    pub(super) reinvoke: bool,
    /// Of `AdmissionReview`.
    pub(super) review: &'static str,
    /// Whether it may be asked on a dry run.
    pub(super) harmless: bool,
}

/// One entry of `rules`.
#[derive(Default)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// Versions of `AdmissionReview` that are spoken here, the webhook's order decides.
pub(crate) const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What match conditions may speak of.
pub(crate) fn condition_variables() -> [Variable<'static>; 3] {
    ["object", "oldObject", "request"].map(|name| Variable { name, shape: None, optional: false })
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.items(field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn hook(configuration: &str, index: usize, value: &Value) -> Result<Hook, String> {
    let config = value.get("clientConfig").unwrap_or(&Value::Null);
    let endpoint = match config.get("service").filter(|service| !service.is_null()) {
        Some(service) => Endpoint::Service {
            namespace: service.text("namespace").to_owned(),
            name: service.text("name").to_owned(),
            port: service.int("port").unwrap_or(443),
            path: service.text("path").to_owned(),
        },
        None => Endpoint::Url(config.text("url").to_owned()),
    };
    let ca = base64::engine::general_purpose::STANDARD.decode(config.text("caBundle"));
    let name = value.text("name");
    let selector = |field: &str| Selector::from_label_selector(value.get(field)).map_err(|error| error.to_string());
    let conditions = value.items("matchConditions").iter().map(|condition| {
        let program = Program::compile(condition.text("expression"), &condition_variables(), Wanted::Bool);
        let name = condition.text("name").to_owned();
        program.map(|program| (name, program)).map_err(|error| error.to_string())
    });
    let rules = value.items("rules").iter().map(|rule| Rule {
        operations: texts(rule, "operations"),
        groups: texts(rule, "apiGroups"),
        versions: texts(rule, "apiVersions"),
        resources: texts(rule, "resources"),
        scope: rule.text("scope").to_owned(),
    });
    let known = |version: &String| REVIEWS.iter().find(|known| **known == version.as_str()).copied();
    Ok(Hook {
        id: format!("{configuration}/{name}/{index}"),
        name: name.to_owned(),
        configuration: configuration.to_owned(),
        endpoint,
        ca: ca.map_err(|error| error.to_string())?,
        fail: value.text("failurePolicy") != "Ignore",
        equivalent: value.text("matchPolicy") != "Exact",
        rules: rules.collect(),
        namespaces: selector("namespaceSelector")?,
        objects: selector("objectSelector")?,
        conditions: conditions.collect::<Result<_, _>>()?,
        timeout: Duration::from_secs(value.int("timeoutSeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(10)),
        reinvoke: value.text("reinvocationPolicy") == "IfNeeded",
        review: texts(value, "admissionReviewVersions").iter().find_map(known).unwrap_or("v1"),
        harmless: matches!(value.text("sideEffects"), "None" | "NoneOnDryRun"),
    })
}

/// Every webhook of one kind of configuration, by the configurations' names.
pub(super) fn hooks(reader: &dyn Reader, resource: &GroupResource) -> Vec<Arc<Hook>> {
    let mut all = reader.list(resource, None);
    all.sort_by(|left, right| left.str_at(&["metadata", "name"]).cmp(right.str_at(&["metadata", "name"])));
    let mut out = Vec::new();
    for configuration in all {
        let name = configuration.str_at(&["metadata", "name"]);
        for (index, value) in configuration.items("webhooks").iter().enumerate() {
            match hook(name, index, value) {
                Ok(hook) => out.push(Arc::new(hook)),
                // It was checked when it came; what an older server stored may still not be usable.
                Err(error) => tracing::error!(
                    configuration = name,
                    webhook = value.text("name"),
                    error,
                    "a webhook cannot be used"
                ),
            }
        }
    }
    out
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

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

impl Rule {
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
    }
}

/// Kinds that no webhook may see: a broken one could not be repaired.
fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource.name.group == "admissionregistration.k8s.io"
}

impl Hook {
    /// In which version the webhook wants to see a request; `None`: not at all.
    pub(super) fn wants(&self, attributes: &Attributes<'_>, namespace: Option<&Value>) -> Option<usize> {
        if is_exempt(attributes) {
            return None;
        }
        let resource = attributes.resource;
        let asked = request_version(attributes);
        let others = (0..resource.versions.len()).filter(|version| *version != asked && self.equivalent);
        let mut versions = [asked].into_iter().chain(others.filter(|version| resource.versions[*version].served));
        let version =
            versions.find(|version| self.rules.iter().any(|rule| rule.matches(attributes, resource, *version)))?;
        let labels = |object: &Value, selector: &Selector| selector.matches_object(object);
        let in_namespace = match namespace {
            Some(namespace) => labels(namespace, &self.namespaces),
            // What is in no namespace is not told apart by it.
            None => true,
        };
        let objects = [attributes.object.as_ref(), attributes.old.as_deref()].into_iter().flatten();
        let mut objects = objects.filter(|object| !object.is_null());
        let by_labels = self.objects.is_empty() || objects.any(|object| labels(object, &self.objects));
        (in_namespace && by_labels).then_some(version)
    }
}

impl Operation {
    /// Whether webhooks can be asked about it.
    pub(super) fn is_reviewed(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Delete | Self::Connect)
    }
}
