//! HorizontalPodAutoscalers (`controller/podautoscaler/horizontal.go`): every fifteen seconds usage is compared to its
//! target, and whatever has a scale gets as many replicas as that takes.
//!
//! | step | module |
//! |---|---|
//! | usage of pods to a wish, pure | `usage` |
//! | a wish to a size: windows, policies, limits, pure | `scaling` |
//! | reading scale and metrics, writing scale and status | here |
//!
//! Metrics come from `metrics.k8s.io`, which somebody else serves. Without it the autoscaler is not active
//! (`FailedGetResourceMetric`), and only limits are kept. What was recommended and changed lately is remembered in the
//! process, as upstream: after a restart the size is recommended once as it is.
//!
//! Not here yet: metrics of `custom.metrics.k8s.io` and `external.metrics.k8s.io` (sources `Pods`, `Object`, `External`); they
//! count as invalid and say so.

mod scaling;
mod usage;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::discovery::Kinds;
use crate::workload::{epoch_seconds, int_at, set_condition};
use parking_lot::Mutex;
use scaling::{Memory, normalize, remember_change};
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::ObjectKey;
use skiff_client::leader::time;
use skiff_client::{Client, ListOptions, Store, Tree, WriteOptions};
use skiff_machinery::quantity::{Format, Quantity};
use skiff_machinery::selector::Selector;
use skiff_machinery::{Map, Value, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use usage::{Question, Target, Wish};

/// `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

struct Controller {
    client: Client,
    clock: SharedClock,
    /// What the seconds of [`Memory`] count from.
    begun: Instant,
    autoscalers: Arc<Store<Tree>>,
    kinds: Kinds,
    recorder: Recorder,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
    /// Whose pods an autoscaler scales: two for one pod would pull it back and forth.
    selectors: Mutex<HashMap<ObjectKey, Selector>>,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let name = "horizontal-pod-autoscaler";
    let (client, queue, recorder) = tools(context, name, name, "horizontalpodautoscaler");
    informers.autoscalers.queue_by(&queue, |queue, delta| {
        // Our own writes of the status do not bring the next look nearer.
        let said =
            |item: Option<&skiff_client::informer::Item<Tree>>| item.and_then(|it| it.value.get("spec").cloned());
        if delta.new.is_none() || said(delta.old) != said(delta.new) {
            queue.add(delta.key.clone());
        }
    });
    let controller = Arc::new(Controller {
        kinds: Kinds::new(client.clone()),
        client,
        clock: Arc::clone(&context.clock),
        begun: context.clock.now(),
        autoscalers: informers.autoscalers.store(),
        recorder,
        memories: Mutex::default(),
        selectors: Mutex::default(),
    });
    run_controller(context, name, &queue, 5, &controller, Controller::sync);
}

/// What a look at an autoscaler leaves in its status.
struct Report {
    current: i64,
    desired: i64,
    metrics: Vec<Value>,
    conditions: Vec<Value>,
    scaled: bool,
    timestamp: String,
}

impl Report {
    fn of(autoscaler: &Value, timestamp: String) -> Self {
        Self {
            current: int_at(autoscaler, &["status", "currentReplicas"], 0),
            desired: int_at(autoscaler, &["status", "desiredReplicas"], 0),
            metrics: autoscaler.items_at(&["status", "currentMetrics"]).to_vec(),
            conditions: autoscaler.items_at(&["status", "conditions"]).to_vec(),
            scaled: false,
            timestamp,
        }
    }
    fn say(&mut self, ty: &str, status: bool, reason: &str, message: &str) {
        let condition = object! {
            "type": ty, "status": if status { "True" } else { "False" }, "reason": reason, "message": message,
            "lastTransitionTime": self.timestamp.as_str(),
        };
        self.conditions = set_condition(&self.conditions, condition);
    }
    fn status(self, autoscaler: &Value) -> Value {
        let mut status = Map::new();
        status.insert("currentReplicas", self.current);
        status.insert("desiredReplicas", self.desired);
        let last = autoscaler.str_at(&["status", "lastScaleTime"]);
        if self.scaled {
            status.insert("lastScaleTime", self.timestamp);
        } else if !last.is_empty() {
            status.insert("lastScaleTime", last);
        }
        if !self.metrics.is_empty() {
            status.insert("currentMetrics", self.metrics);
        }
        status.insert("conditions", self.conditions);
        Value::Object(status)
    }
}

/// The wish of all metrics together, and which of them it is.
struct Wished {
    replicas: i64,
    metric: String,
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        let Some(item) = self.autoscalers.get_key(&key) else {
            self.memories.lock().remove(&key);
            self.selectors.lock().remove(&key);
            return Ok(None);
        };
        let autoscaler = &*item.value.0;
        let mut report = Report::of(autoscaler, time(self.clock.wall()));
        if let Err(error) = self.look(&key, autoscaler, &mut report).await {
            tracing::debug!(autoscaler = %key, error, "not scaled");
        }
        self.write(&key, autoscaler, report.status(autoscaler)).await?;
        Ok(Some(PERIOD))
    }

    fn warn(&self, autoscaler: &Value, reason: &str, message: &str) {
        let about = Reference::to(autoscaler, "autoscaling/v2", "HorizontalPodAutoscaler");
        self.recorder.event(&about, EventType::Warning, reason, message);
    }

    /// `reconcileAutoscaler`.
    async fn look(&self, key: &ObjectKey, autoscaler: &Value, report: &mut Report) -> Result<(), String> {
        let target = autoscaler.at(&["spec", "scaleTargetRef"]).cloned().unwrap_or_default();
        let (resource, mut scale) = match self.scale(key, &target).await {
            Ok(found) => found,
            Err(error) => {
                self.warn(autoscaler, "FailedGetScale", &error);
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                report.say("AbleToScale", false, "FailedGetScale", &message);
                return Err(error);
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        report.say("AbleToScale", true, "SucceededGetScale", able);
        let now = i64::try_from(self.clock.now().duration_since(self.begun).as_secs()).unwrap_or(i64::MAX);
        let current = int_at(&scale, &["spec", "replicas"], 0);
        let min = int_at(autoscaler, &["spec", "minReplicas"], 1);
        let max = int_at(autoscaler, &["spec", "maxReplicas"], min);
        self.memories.lock().entry(key.clone()).or_insert_with(|| {
            // What is there is what was recommended before anybody remembers.
            Memory { recommendations: vec![(now, current)], ..Memory::default() }
        });
        report.current = current;
        let (desired, reason) = if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            report.say("ScalingActive", false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let wished = match self.wish(key, autoscaler, &scale, report).await {
                Ok(wished) => wished,
                Err(error) => {
                    self.warn(autoscaler, "FailedComputeMetricsReplicas", &error);
                    return Err(error);
                }
            };
            let reason = match wished.replicas.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{} above target", wished.metric),
                _ => "All metrics below target".to_owned(),
            };
            let mut memories = self.memories.lock();
            let memory = memories.entry(key.clone()).or_default();
            let normalized = normalize(autoscaler, memory, current, wished.replicas, (min, max), now);
            for (ty, status, reason, message) in normalized.conditions {
                report.say(ty, status, reason, message);
            }
            (normalized.replicas, reason)
        };
        report.desired = desired;
        if desired == current {
            return Ok(());
        }
        if let Some(map) = scale.as_object_mut() {
            map.object_mut("spec").insert("replicas", desired);
        }
        let api = self.client.namespaced(&resource.group, &resource.version, &resource.resource, &key.namespace);
        let name = target.str_at(&["name"]);
        if let Err(error) = api.replace(name, "scale", &scale, &WriteOptions::default()).await {
            let message = format!("New size: {desired}; reason: {reason}; error: {error}");
            self.warn(autoscaler, "FailedRescale", &message);
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            report.say("AbleToScale", false, "FailedUpdateScale", &message);
            report.desired = int_at(autoscaler, &["status", "desiredReplicas"], 0);
            return Err(message);
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        report.say("AbleToScale", true, "SucceededRescale", &message);
        report.scaled = true;
        let about = Reference::to(autoscaler, "autoscaling/v2", "HorizontalPodAutoscaler");
        let message = format!("New size: {desired}; reason: {reason}");
        self.recorder.event(&about, EventType::Normal, "SuccessfulRescale", message);
        let mut memories = self.memories.lock();
        remember_change(autoscaler, memories.entry(key.clone()).or_default(), current, desired, now);
        Ok(())
    }

    /// The target's resource and its scale.
    async fn scale(&self, key: &ObjectKey, target: &Value) -> Result<(Arc<crate::discovery::Resource>, Value), String> {
        let (api_version, kind) = (target.str_at(&["apiVersion"]), target.str_at(&["kind"]));
        let found = self.kinds.find(api_version, kind).await;
        let unknown = |why: String| format!("unable to determine resource for scale target reference: {why}");
        let resource = found.map_err(|error| unknown(error.to_string()))?;
        let resource = resource.ok_or_else(|| {
            let group = api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
            unknown(format!("no matches for kind \"{kind}\""))
        })?;
        let api = self.client.namespaced(&resource.group, &resource.version, &resource.resource, &key.namespace);
        let name = target.str_at(&["name"]);
        let scale = api.fetch_subresource(name, "scale").await;
        let scale = scale.map_err(|error| {
            format!("failed to query scale subresource for {kind}/{}/{name}: {error}", key.namespace)
        })?;
        Ok((resource, scale))
    }

    /// `computeReplicasForMetrics`: the largest wish counts. With a wish missing the size does not shrink.
    async fn wish(
        &self,
        key: &ObjectKey,
        autoscaler: &Value,
        scale: &Value,
        report: &mut Report,
    ) -> Result<Wished, String> {
        let selector = scale.str_at(&["status", "selector"]);
        let pods = self.pods(key, autoscaler, selector, report).await?;
        let pods: Vec<&Value> = pods.iter().map(|pod| &**pod).collect();
        let current = int_at(scale, &["spec", "replicas"], 0);
        let metrics = autoscaler.items_at(&["spec", "metrics"]);
        let mut wished = Wished { replicas: 0, metric: String::new() };
        let mut failures: Vec<(&str, String, String)> = Vec::new();
        report.metrics.clear();
        for metric in metrics {
            match self.wish_of(key, autoscaler, metric, selector, &pods, current).await {
                Ok((wish, name, status)) => {
                    if wished.replicas == 0 || wish.replicas > wished.replicas {
                        wished = Wished { replicas: wish.replicas, metric: name };
                    }
                    report.metrics.push(status);
                }
                Err((reason, told, error)) => {
                    self.warn(autoscaler, reason, &told);
                    failures.push((reason, told, error));
                    report.metrics.push(object! { "type": "" });
                }
            }
        }
        let invalid = failures.len();
        if let Some((reason, told, error)) = failures.into_iter().next() {
            let error =
                format!("invalid metrics ({invalid} invalid out of {}), first error is: {error}", metrics.len());
            if invalid >= metrics.len() || wished.replicas < current {
                let message = format!("the HPA was unable to compute the replica count: {told}");
                report.say("ScalingActive", false, reason, &message);
                return Err(error);
            }
            tracing::debug!(autoscaler = %key, error, "scaled by the other metrics");
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", wished.metric);
        report.say("ScalingActive", true, "ValidMetricFound", &message);
        Ok(wished)
    }

    /// The target's pods, unless they are another autoscaler's too (`validateAndParseSelector`).
    async fn pods(
        &self,
        key: &ObjectKey,
        autoscaler: &Value,
        selector: &str,
        report: &mut Report,
    ) -> Result<Vec<Arc<Value>>, String> {
        if selector.is_empty() {
            self.warn(autoscaler, "SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            report.say("ScalingActive", false, "InvalidSelector", message);
            return Err("selector is required".to_owned());
        }
        let parsed = Selector::parse(selector).map_err(|error| {
            let message = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            self.warn(autoscaler, "InvalidSelector", &message);
            report.say("ScalingActive", false, "InvalidSelector", &message);
            message
        })?;
        self.selectors.lock().insert(key.clone(), parsed);
        let options = ListOptions { label_selector: selector.to_owned(), ..ListOptions::default() };
        let page = self.client.namespaced("", "v1", "pods", &key.namespace).list(&options).await;
        let page = page.map_err(|error| format!("unable to get pods while calculating replica count: {error}"))?;
        let pods: Vec<Arc<Value>> = page.items.iter().map(|item| Arc::clone(item.tree())).collect();
        let mut scaled_by: Vec<String> = {
            let selectors = self.selectors.lock();
            let same = selectors.iter().filter(|(other, selector)| {
                other.namespace == key.namespace && pods.iter().any(|pod| selector.matches_object(pod))
            });
            same.map(|(other, _)| format!("{{{} {}}}", other.namespace, other.name)).collect()
        };
        if scaled_by.len() > 1 {
            scaled_by.sort();
            let all = scaled_by.join(" ");
            let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
            self.warn(autoscaler, "AmbiguousSelector", &message);
            report.say("ScalingActive", false, "AmbiguousSelector", &message);
            return Err(message);
        }
        Ok(pods)
    }

    /// One metric's wish, its name and its status; or the reason, what is told, and the whole error.
    async fn wish_of(
        &self,
        key: &ObjectKey,
        autoscaler: &Value,
        metric: &Value,
        selector: &str,
        pods: &[&Value],
        current: i64,
    ) -> Result<(Wish, String, Value), (&'static str, String, String)> {
        let ty = metric.str_at(&["type"]);
        let (field, reason, kind) = match ty {
            "Resource" => ("resource", "FailedGetResourceMetric", "resource"),
            "ContainerResource" => ("containerResource", "FailedGetContainerResourceMetric", "container resource"),
            other => {
                let (reason, api) = match other {
                    "Pods" => ("FailedGetPodsMetric", "custom.metrics.k8s.io"),
                    "Object" => ("FailedGetObjectMetric", "custom.metrics.k8s.io"),
                    "External" => ("FailedGetExternalMetric", "external.metrics.k8s.io"),
                    _ => ("InvalidMetricSourceType", "no API"),
                };
                let told = format!("metrics of type {other} ({api}) are not built yet");
                return Err((reason, told.clone(), told));
            }
        };
        let source = metric.get(field).cloned().unwrap_or_default();
        let (name, container) = (source.str_at(&["name"]), source.str_at(&["container"]));
        let failed = |told: String| {
            let error = format!("failed to get {name} {kind} metric value: {told}");
            (reason, told, error)
        };
        let (target, what) = target(&source).map_err(&failed)?;
        let wish = async {
            let samples = self.samples(key, selector, name, container).await?;
            let question = Question {
                pods,
                resource: name,
                container,
                target,
                tolerances: scaling::tolerances(autoscaler),
                replicas: current,
                now: epoch_seconds(self.clock.wall()),
            };
            usage::wish(&question, samples)
        };
        let wish = wish.await.map_err(|error| failed(format!("failed to get {name} {what}: {error}")))?;
        let shown = match target {
            Target::Average(_) => format!("{name} {kind}"),
            Target::Utilization(_) => format!("{name} {kind} utilization (percentage of request)"),
        };
        let status = metric_status(ty, field, &source, &wish);
        Ok((wish, shown, status))
    }

    async fn samples(
        &self,
        key: &ObjectKey,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<usage::Samples, String> {
        let options = ListOptions { label_selector: selector.to_owned(), ..ListOptions::default() };
        let api = self.client.namespaced("metrics.k8s.io", "v1beta1", "pods", &key.namespace);
        let unable = |why: String| format!("unable to get metrics for resource {resource}: {why}");
        let page = api.list(&options).await.map_err(|error| {
            let whose = if error.is_not_found() { " (get pods.metrics.k8s.io)" } else { "" };
            unable(format!("unable to fetch metrics from resource metrics API: {error}{whose}"))
        })?;
        let pods: Vec<Value> = page.items.iter().map(|item| Value::clone(item.tree())).collect();
        usage::samples(&pods, resource, container).map_err(unable)
    }

    async fn write(&self, key: &ObjectKey, autoscaler: &Value, status: Value) -> Result<(), SyncError> {
        if autoscaler.get("status") == Some(&status) {
            return Ok(());
        }
        let mut updated = autoscaler.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let api = self.client.namespaced("autoscaling", "v2", "horizontalpodautoscalers", &key.namespace);
        match api.replace(&key.name, "status", &updated, &WriteOptions::default()).await {
            Ok(written) => {
                self.autoscalers.wait_for(key, &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is wanted, and the word for it.
fn target(source: &Value) -> Result<(Target, &'static str), String> {
    let average = source.str_at(&["target", "averageValue"]);
    if !average.is_empty() {
        let average = Quantity::parse(average).map_err(|error| format!("target.averageValue: {error}"))?;
        return Ok((Target::Average(average.milli_value()), "usage"));
    }
    match source.at(&["target", "averageUtilization"]).and_then(Value::as_int) {
        Some(percent) => Ok((Target::Utilization(percent), "utilization")),
        None => Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
    }
}

fn metric_status(ty: &str, field: &'static str, source: &Value, wish: &Wish) -> Value {
    let mut current = Map::new();
    if let Some(utilization) = wish.utilization {
        current.insert("averageUtilization", utilization);
    }
    current.insert("averageValue", Quantity::from_milli(wish.average, Format::DecimalSI).to_string());
    let mut inner = Map::new();
    inner.insert("name", source.str_at(&["name"]));
    let container = source.str_at(&["container"]);
    if !container.is_empty() {
        inner.insert("container", container);
    }
    inner.insert("current", current);
    let mut status = Map::new();
    status.insert("type", ty);
    status.insert(field, inner);
    Value::Object(status)
}
