//! `LimitRanger`: containers get the requests and limits that their namespace has for those who state none, and nothing
//! is smaller or larger than the namespace allows.
//!
//! Mirrors plugin/pkg/admission/limitranger/admission.go.

use super::attributes::{aggregate, named};
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::core::pod::resources::{Amounts, amount, amounts, pod_limits, pod_requests};
use crate::kinds::tree::Tree;
use skiff_machinery::quantity::Quantity;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::sync::Arc;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Largest amount that is compared in thousandths (`resource.MaxMilliValue`).
const MAX_MILLI_VALUE: i64 = i64::MAX / 1000;

/// The plug-in.
pub(super) struct LimitRanger {
    reader: Arc<dyn Reader>,
    ranges: GroupResource,
}

impl LimitRanger {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, ranges: named("", "limitranges") }
    }

    /// The ranges that apply to a write (`SupportsAttributes`); containers of an existing pod only change by `resize`.
    fn ranges(&self, attributes: &Attributes<'_>) -> Vec<Arc<Value>> {
        let update = attributes.operation == Operation::Update;
        let applies = match attributes.subresource {
            "" => attributes.is("", "persistentvolumeclaims") || attributes.is("", "pods") && !update,
            "resize" => attributes.is_of("", "pods") && update,
            _ => false,
        };
        let going =
            attributes.old.as_ref().is_some_and(|old| !old.str_at(&["metadata", "deletionTimestamp"]).is_empty());
        if applies && !going { self.reader.list(&self.ranges, Some(attributes.namespace)) } else { Vec::new() }
    }

    fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        for range in self.ranges(attributes) {
            let object = attributes.new_object();
            let mistakes = if attributes.is_of("", "pods") {
                pod_mistakes(&range, object)
            } else {
                claim_mistakes(&range, object)
            };
            if !mistakes.is_empty() {
                return Err(attributes.forbidden(aggregate(mistakes)));
            }
        }
        Ok(())
    }
}

fn limits<'a>(range: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    range.items_at(&["spec", "limits"]).iter().filter(move |limit| limit.text("type") == kind)
}

/// `PodMutateLimitFunc`: what the containers of a pod state nothing about, and an annotation that says so.
fn fill_pod(range: &Value, pod: &mut Value) {
    let mut defaults =
        [("requests", "request", "defaultRequest"), ("limits", "limit", "default")].map(|(field, word, from)| {
            let found: Vec<(String, Value)> = limits(range, "Container")
                .filter_map(|limit| limit.map(from))
                .flat_map(|map| map.iter().map(|(name, value)| (name.to_string(), value.clone())))
                .collect();
            (field, word, found)
        });
    for (_, _, found) in &mut defaults {
        // Of several limits the last one counts.
        found.reverse();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.dedup_by(|(later, _), (kept, _)| later == kept);
    }
    let mut told = Vec::new();
    for (list, label) in [("containers", "container"), ("initContainers", "init container")] {
        pod.make("spec").each(list, |container| {
            let name = container.text("name").to_owned();
            for (field, word, defaults) in &defaults {
                let set = fill_container(container, field, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {label} {name}", set.join(", ")));
                }
            }
        });
    }
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.make("metadata").make("annotations").set(ANNOTATION, text);
    }
}

/// Sets what is missing; which names those were.
fn fill_container(container: &mut Value, field: &'static str, defaults: &[(String, Value)]) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in defaults {
        if container.at(&["resources", field, name]).is_none() {
            if let Some(map) = container.make("resources").make(field).as_object_mut() {
                map.insert(name.clone(), value.clone());
            }
            set.push(name.clone());
        }
    }
    set
}

/// `PodValidateLimitFunc`.
fn pod_mistakes(range: &Value, pod: &Value) -> Vec<String> {
    let mut mistakes = Vec::new();
    let Some(spec) = pod.get("spec") else { return mistakes };
    for limit in limits(range, "Container") {
        for container in spec.items("containers").iter().chain(spec.items("initContainers")) {
            let of = |which| amounts(container.at(&["resources", which]));
            check(limit, "Container", &of("requests"), &of("limits"), &mut mistakes);
        }
    }
    for limit in limits(range, "Pod") {
        check(limit, "Pod", &pod_requests(spec), &pod_limits(spec), &mut mistakes);
    }
    mistakes
}

/// `PersistentVolumeClaimValidateLimitFunc`.
fn claim_mistakes(range: &Value, claim: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let requests = amounts(claim.at(&["spec", "resources", "requests"]));
    let mut mistakes = Vec::new();
    for limit in limits(range, KIND) {
        for (name, bound) in bounds(limit, "min") {
            mistakes.extend(below(KIND, name, bound, requests.get(name).copied(), None));
        }
        for (name, bound) in bounds(limit, "max") {
            let head = format!("maximum {name} usage per {KIND} is {bound}");
            match requests.get(name) {
                None => mistakes.push(format!("{head}.  No request is specified")),
                Some(request) if more(*request, bound) => mistakes.push(format!("{head}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    mistakes
}

fn bounds<'a>(limit: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, Quantity)> {
    let map = limit.map(field).into_iter().flat_map(|map| map.iter());
    map.filter_map(|(name, value)| Some((name.as_str(), amount(value)?)))
}

fn check(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts, mistakes: &mut Vec<String>) {
    let of = |list: &Amounts, name: &str| list.get(name).copied();
    for (name, bound) in bounds(limit, "min") {
        mistakes.extend(below(kind, name, bound, of(requests, name), of(limits, name)));
    }
    for (name, bound) in bounds(limit, "max") {
        mistakes.extend(above(kind, name, bound, of(requests, name), of(limits, name)));
    }
    for (name, bound) in bounds(limit, "maxLimitRequestRatio") {
        mistakes.extend(ratio(kind, name, bound, of(requests, name), of(limits, name)));
    }
}

/// Comparable numbers: in thousandths, unless one of them is too large for that (`requestLimitEnforcedValues`).
fn more(left: Quantity, right: Quantity) -> bool {
    if left.value() <= MAX_MILLI_VALUE && right.value() <= MAX_MILLI_VALUE {
        left.milli_value() > right.milli_value()
    } else {
        left.value() > right.value()
    }
}

/// `minConstraint`.
fn below(
    kind: &str,
    name: &str,
    bound: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {bound}");
    let Some(request) = request else { return Some(format!("{head}.  No request is specified")) };
    if more(bound, request) {
        return Some(format!("{head}, but request is {request}"));
    }
    let limit = limit.filter(|limit| more(bound, *limit))?;
    Some(format!("{head}, but limit is {limit}"))
}

/// `maxConstraint`.
fn above(
    kind: &str,
    name: &str,
    bound: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {bound}");
    let Some(limit) = limit else { return Some(format!("{head}.  No limit is specified")) };
    if more(limit, bound) {
        return Some(format!("{head}, but limit is {limit}"));
    }
    let request = request.filter(|request| more(*request, bound))?;
    Some(format!("{head}, but request is {request}"))
}

/// `limitRequestRatioConstraint`.
#[expect(clippy::cast_precision_loss, reason = "the ratio is shown to people")]
fn ratio(
    kind: &str,
    name: &str,
    bound: Quantity,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = request.filter(|request| !request.is_zero()) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|limit| !limit.is_zero()) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let small = [request, limit].iter().all(|amount| amount.value() <= MAX_MILLI_VALUE);
    let of = |amount: Quantity| if small { amount.milli_value() } else { amount.value() } as f64;
    let found = of(limit) / of(request);
    let allowed = bound.milli_value() as f64 / 1000.0;
    (found > allowed).then(|| format!("{head}, but provided ratio is {found:.6}"))
}

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        if attributes.is_of("", "pods") {
            for range in self.ranges(attributes) {
                if let Some(pod) = &mut attributes.object {
                    fill_pod(&range, pod);
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(std::future::ready(self.check(attributes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_machinery::{list, object};

    fn plugin(limits: Vec<Value>) -> LimitRanger {
        let cluster = cluster();
        cluster.put(
            &named("", "limitranges"),
            object! {
                "metadata": object! { "name": "r", "namespace": "ns" },
                "spec": object! { "limits": Value::Array(limits) },
            },
        );
        LimitRanger::new(cluster as _)
    }
    fn pod(requests: Value, limits: Value) -> Value {
        object! {
            "metadata": object! { "name": "p" },
            "spec": object! { "containers": list![
                object! { "name": "c", "resources": object! { "requests": requests, "limits": limits } }
            ] },
        }
    }
    async fn refusal(plugin: &LimitRanger, object: Value) -> String {
        let refused = Case::create("", "pods", "ns", object).validate(plugin).await;
        refused.map_or_else(|error| error.message().to_owned(), |()| String::new())
    }

    #[tokio::test]
    async fn containers_get_the_namespaces_defaults() {
        let plugin = plugin(vec![object! {
            "type": "Container",
            "default": object! { "cpu": "500m", "memory": "1Gi" },
            "defaultRequest": object! { "cpu": "100m" },
        }]);
        let bare = object! {
            "metadata": object! { "name": "p" },
            "spec": object! { "containers": list![object! { "name": "c" }] },
        };
        let filled = Case::create("", "pods", "ns", bare).admit(&plugin).await.unwrap();
        let resources = &filled.items_at(&["spec", "containers"])[0];
        assert_eq!(
            resources.get("resources"),
            Some(&object! {
                "limits": object! { "cpu": "500m", "memory": "1Gi" },
                "requests": object! { "cpu": "100m" },
            })
        );
        assert_eq!(
            filled.str_at(&["metadata", "annotations", ANNOTATION]),
            "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c"
        );
        let own = pod(object! { "cpu": "1" }, object! { "cpu": "2", "memory": "3" });
        assert_eq!(Case::create("", "pods", "ns", own.clone()).admit(&plugin).await.unwrap(), own);
        let elsewhere = pod(object! {}, object! {});
        assert_eq!(Case::create("", "pods", "other", elsewhere.clone()).admit(&plugin).await.unwrap(), elsewhere);
    }

    #[tokio::test]
    async fn sizes_have_bounds() {
        let bounded = plugin(vec![object! {
            "type": "Container",
            "min": object! { "cpu": "100m" },
            "max": object! { "cpu": "1" },
            "maxLimitRequestRatio": object! { "cpu": "2" },
        }]);
        let cpu = |amount: &str| object! { "cpu": amount };
        let whole = |text: &str| format!("pods \"p\" is forbidden: {text}");
        assert_eq!(refusal(&bounded, pod(cpu("500m"), cpu("1"))).await, "");
        assert_eq!(
            refusal(&bounded, pod(cpu("1"), cpu("1500m"))).await,
            whole("maximum cpu usage per Container is 1, but limit is 1500m")
        );
        assert_eq!(
            refusal(&bounded, pod(cpu("50m"), cpu("100m"))).await,
            whole("minimum cpu usage per Container is 100m, but request is 50m")
        );
        assert_eq!(
            refusal(&bounded, pod(cpu("200m"), cpu("1"))).await,
            whole("cpu max limit to request ratio per Container is 2, but provided ratio is 5.000000")
        );
        assert_eq!(
            refusal(&bounded, pod(object! {}, object! {})).await,
            whole(
                "[minimum cpu usage per Container is 100m.  No request is specified, maximum cpu usage per Container is 1.  No limit is specified, cpu max limit to request ratio per Container is 2, but no request is specified or request is 0]"
            )
        );
        let whole_pod = plugin(vec![object! { "type": "Pod", "max": object! { "memory": "1Gi" } }]);
        assert_eq!(
            refusal(&whole_pod, pod(object! {}, object! { "memory": "2Gi" })).await,
            whole("maximum memory usage per Pod is 1Gi, but limit is 2Gi")
        );
        let update = Case::update("", "pods", "ns", pod(cpu("9"), cpu("9")), pod(cpu("9"), cpu("9")));
        update.validate(&bounded).await.unwrap();
        update.sub("resize").validate(&bounded).await.unwrap_err();
    }

    #[tokio::test]
    async fn claims_have_bounds() {
        let plugin = plugin(vec![object! {
            "type": "PersistentVolumeClaim",
            "min": object! { "storage": "1Gi" },
            "max": object! { "storage": "2Gi" },
        }]);
        for (size, why) in [
            ("1Gi", ""),
            ("512Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
        ] {
            let claim = object! {
                "metadata": object! { "name": "c" },
                "spec": object! { "resources": object! { "requests": object! { "storage": size } } },
            };
            let found = Case::create("", "persistentvolumeclaims", "ns", claim).validate(&plugin).await;
            let found = found.map_or_else(|error| error.message().to_owned(), |()| String::new());
            let wanted = if why.is_empty() {
                String::new()
            } else {
                format!("persistentvolumeclaims \"c\" is forbidden: {why}")
            };
            assert_eq!(found, wanted);
        }
    }
}
