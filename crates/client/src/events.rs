//! Events about objects (`k8s.io/client-go/tools/record`).
//!
//! Recording never waits: events go to a bounded queue, and are dropped with one warning when it is full. Equal events
//! are counted up in one object; a source that floods one object is held to a burst of 25 and then one in five minutes.

use crate::api::{Client, Patch, WriteOptions};
use crate::leader::time;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::{Map, Value, object};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;

const QUEUE: usize = 1000;
const REMEMBERED: usize = 4096;
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are upstream's constants")]
pub enum EventType {
    Normal,
    Warning,
}

/// What an event is about (`ObjectReference`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Reference {
    /// `apiVersion`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Part of the object, such as `spec.containers{web}`; empty for all of it.
    pub field_path: String,
}

impl Reference {
    /// A reference to `tree`, whose kind is given because items of lists do not say it.
    pub fn to(tree: &Value, api_version: &str, kind: &str) -> Self {
        let text = |path: &[&str]| tree.str_at(path).to_owned();
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: text(&["metadata", "namespace"]),
            name: text(&["metadata", "name"]),
            uid: text(&["metadata", "uid"]),
            field_path: String::new(),
        }
    }
}

struct Record {
    about: Reference,
    ty: EventType,
    reason: String,
    message: String,
}

/// Records events for one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
    dropped: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts recording as `component` on `host`.
    pub fn spawn(
        client: Client,
        component: &'static str,
        host: &str,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        let sink = Sink { client, component, host: host.to_owned(), clock, memory: Mutex::default() };
        supervisor.spawn_abortable(
            "event recorder",
            OnFailure::EndComponent,
            sink.run(records, supervisor.token().clone()),
        );
        Self { queue, dropped: Arc::default() }
    }

    /// Records an event; `reason` is upstream's CamelCase reason.
    pub fn event(&self, about: &Reference, ty: EventType, reason: &str, message: impl Into<String>) {
        let record = Record { about: about.clone(), ty, reason: reason.to_owned(), message: message.into() };
        match self.queue.try_send(record) {
            Ok(()) => self.dropped.store(false, Ordering::Relaxed),
            Err(_) if self.dropped.swap(true, Ordering::Relaxed) => (),
            Err(_) => tracing::warn!("the event queue is full: events are dropped until it drains"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    about: Reference,
    ty: EventType,
    reason: String,
    message: String,
}

struct Known {
    name: String,
    count: i64,
    used: Instant,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Default)]
struct Memory {
    known: HashMap<Identity, Known>,
    buckets: HashMap<Reference, Bucket>,
}

struct Sink {
    client: Client,
    component: &'static str,
    host: String,
    clock: SharedClock,
    memory: Mutex<Memory>,
}

impl Sink {
    async fn run(self, mut records: mpsc::Receiver<Record>, token: tokio_util::sync::CancellationToken) {
        while let Some(record) = records.recv().await {
            if let Err(error) = self.write(record).await {
                tracing::debug!(component = self.component, %error, "event not written");
            }
        }
        // Every recorder was dropped: nothing is left to write until the component ends.
        token.cancelled().await;
    }

    async fn write(&self, record: Record) -> Result<(), crate::ClientError> {
        if !self.admit(&record.about) {
            return Ok(());
        }
        let identity = Identity { about: record.about, ty: record.ty, reason: record.reason, message: record.message };
        let known = self.memory.lock().known.get(&identity).map(|known| (known.name.clone(), known.count + 1));
        let namespace = if identity.about.namespace.is_empty() { "default" } else { &identity.about.namespace };
        let events = self.client.namespaced("", "v1", "events", namespace);
        let now = time(self.clock.wall());
        if let Some((name, count)) = known {
            let patch = object! { "count": count, "lastTimestamp": now.as_str() };
            match events.patch(&name, "", &Patch::Merge(&patch), &WriteOptions::default()).await {
                Ok(_) => {
                    self.remember(identity, name, count);
                    return Ok(());
                }
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", identity.about.name, unique());
        events.create(&self.event(&identity, &name, namespace, &now), &WriteOptions::default()).await?;
        self.remember(identity, name, 1);
        Ok(())
    }

    fn event(&self, identity: &Identity, name: &str, namespace: &str, now: &str) -> Value {
        let about = &identity.about;
        let mut reference = Map::new();
        let parts = [
            ("apiVersion", &about.api_version),
            ("kind", &about.kind),
            ("namespace", &about.namespace),
            ("name", &about.name),
            ("uid", &about.uid),
            ("fieldPath", &about.field_path),
        ];
        for (key, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
            reference.insert(key, text.as_str());
        }
        let mut source = Map::new();
        source.insert("component", self.component);
        if !self.host.is_empty() {
            source.insert("host", self.host.as_str());
        }
        object! {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": object! { "name": name, "namespace": namespace },
            "involvedObject": reference,
            "reason": identity.reason.as_str(),
            "message": identity.message.as_str(),
            "source": source,
            "type": match identity.ty { EventType::Normal => "Normal", EventType::Warning => "Warning" },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": self.component,
            "reportingInstance": self.host.as_str(),
        }
    }

    fn remember(&self, identity: Identity, name: String, count: i64) {
        let now = self.clock.now();
        let mut memory = self.memory.lock();
        if memory.known.len() >= REMEMBERED && !memory.known.contains_key(&identity) {
            // Forget the older half at once: rare, and the only cost of forgetting is a new object.
            let mut ages: Vec<Instant> = memory.known.values().map(|known| known.used).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            memory.known.retain(|_, known| known.used > middle);
        }
        memory.known.insert(identity, Known { name, count, used: now });
    }

    /// Whether the object's budget allows another event.
    fn admit(&self, about: &Reference) -> bool {
        let now = self.clock.now();
        let mut memory = self.memory.lock();
        if memory.buckets.len() >= REMEMBERED {
            memory.buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 3600);
        }
        if memory.buckets.len() >= REMEMBERED && !memory.buckets.contains_key(about) {
            memory.buckets.clear();
        }
        let bucket = memory.buckets.entry(about.clone()).or_insert(Bucket { tokens: BURST, at: now });
        let refill = now.duration_since(bucket.at).as_secs_f64() * REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// A number that no other event name holds. Without randomness the clock has to do.
fn unique() -> u64 {
    let mut bytes = [0u8; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
    }
}
