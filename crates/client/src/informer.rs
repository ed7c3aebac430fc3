//! Informers: a local picture of a resource, kept current by list and watch.
//!
//! A consumer gets a [`Store`] of *projections* (what it needs of each object, not whole objects) and is told of changes
//! by handlers that only say "look again". The first picture comes by the watch itself (`sendInitialEvents`), object by
//! object, so that the memory it takes is that of the projections and not of all objects at once; a server that cannot
//! do that is listed. Handlers run on the informer's task, in order, and must be quick; they put
//! keys on a [`WorkQueue`](crate::WorkQueue). What works after a restart is the only path there is: the first list
//! makes the same calls as later changes.
//!
//! Shaped by one failure above all: a controller that decides on a cache that does not hold its own last write does the
//! work twice. [`Store::wait_for`] waits until the cache holds *that object* at or past the written revision, or saw it
//! deleted; after five seconds the caller reads for itself. (Waiting for the whole cache to reach a revision would hang
//! on resources without traffic.)

use crate::api::{Api, INITIAL_EVENTS_END, ListOptions, Projection};
use crate::backoff::Backoff;
use crate::error::ClientError;
use parking_lot::RwLock;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::Value;
use skiff_machinery::object::{ChangeKind, Object};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Namespace and name; the namespace is empty for cluster scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for cluster scope.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}
impl std::fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object as the store holds it.
pub struct Item<T> {
    /// Its name.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// Its revision.
    pub resource_version: u64,
    /// What the consumer needs of it.
    pub value: Arc<T>,
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            uid: Arc::clone(&self.uid),
            resource_version: self.resource_version,
            value: Arc::clone(&self.value),
        }
    }
}

/// What a handler is told: the object before and after. `(None, Some)` is new, `(Some, None)` gone.
pub struct Delta<'a, T> {
    /// The object's name.
    pub key: &'a ObjectKey,
    /// Before.
    pub old: Option<&'a Item<T>>,
    /// After.
    pub new: Option<&'a Item<T>>,
}

type Handler<T> = Box<dyn Fn(&Delta<'_, T>) + Send + Sync>;
type IndexFunction<T> = Box<dyn Fn(&Item<T>) -> Vec<Arc<str>> + Send + Sync>;

struct Index<T> {
    function: IndexFunction<T>,
    keys: HashMap<Arc<str>, BTreeSet<ObjectKey>>,
}

struct Contents<T> {
    items: HashMap<ObjectKey, Item<T>>,
    indexes: HashMap<&'static str, Index<T>>,
    /// Newest revision seen in the stream.
    revision: u64,
}

impl<T> Contents<T> {
    fn unindex(&mut self, item: &Item<T>) {
        for index in self.indexes.values_mut() {
            for value in (index.function)(item) {
                if let Some(keys) = index.keys.get_mut(&value) {
                    keys.remove(&item.key);
                    if keys.is_empty() {
                        index.keys.remove(&value);
                    }
                }
            }
        }
    }
    fn set(&mut self, item: Item<T>) -> Option<Item<T>> {
        let old = self.items.remove(&item.key);
        if let Some(old) = &old {
            self.unindex(old);
        }
        for index in self.indexes.values_mut() {
            for value in (index.function)(&item) {
                index.keys.entry(value).or_default().insert(item.key.clone());
            }
        }
        self.items.insert(item.key.clone(), item);
        old
    }
    fn take(&mut self, key: &ObjectKey) -> Option<Item<T>> {
        let old = self.items.remove(key)?;
        self.unindex(&old);
        Some(old)
    }
}

/// The picture that an informer keeps.
pub struct Store<T> {
    contents: RwLock<Contents<T>>,
    synced: watch::Sender<bool>,
    /// Bumped after each change, for those who wait for an object.
    changes: watch::Sender<u64>,
    clock: SharedClock,
}

impl<T: Send + Sync + 'static> Store<T> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Item<T>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }
    /// One object.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Item<T>> {
        self.contents.read().items.get(key).cloned()
    }
    /// All objects, in no order.
    pub fn list(&self) -> Vec<Item<T>> {
        self.contents.read().items.values().cloned().collect()
    }
    /// The objects of one namespace, in no order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Item<T>> {
        self.contents.read().items.values().filter(|item| &*item.key.namespace == namespace).cloned().collect()
    }
    /// The objects for which the index `name` gave `value`. An index that was never added is empty.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Item<T>> {
        let contents = self.contents.read();
        let keys = contents.indexes.get(name).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| contents.items.get(key).cloned()).collect()
    }
    /// How many objects.
    pub fn len(&self) -> usize {
        self.contents.read().items.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the first list has been taken in.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }
    /// Waits until the first list has been taken in.
    pub async fn synced(&self) {
        // The sender lives in self, so the channel cannot close while we wait.
        let mut synced = self.synced.subscribe();
        let closed = synced.wait_for(|synced| *synced).await;
        debug_assert!(closed.is_ok());
    }
    /// Newest revision seen.
    pub fn revision(&self) -> u64 {
        self.contents.read().revision
    }

    /// Waits until the store holds the object `key` at or past `written` (the answer to one's own write), or saw it
    /// deleted. `false` after five seconds: the caller then reads for itself.
    pub async fn wait_for(&self, key: &ObjectKey, written: &Value) -> bool {
        let revision = resource_version(written);
        let mut changes = self.changes.subscribe();
        let reached = async {
            loop {
                changes.borrow_and_update();
                {
                    let contents = self.contents.read();
                    let seen = contents.items.get(key).map_or(contents.revision, |item| item.resource_version);
                    if seen >= revision {
                        return;
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reached => true,
            () = self.clock.sleep(Duration::from_secs(5)) => false,
        }
    }
}

/// `metadata.resourceVersion` as the number it is; 0 when it is none.
pub fn resource_version(tree: &Value) -> u64 {
    tree.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or(0)
}

/// Which objects an informer sees.
#[derive(Clone, Debug, Default)]
pub struct InformerOptions {
    /// Label selector; empty for all.
    pub label_selector: String,
    /// Field selector; empty for all.
    pub field_selector: String,
}

/// An informer being put together: indexes and handlers first, then [`Informer::spawn`].
pub struct Informer<T> {
    api: Api,
    options: InformerOptions,
    store: Arc<Store<T>>,
    handlers: Vec<Handler<T>>,
}

impl<T: Projection> Informer<T> {
    /// For a resource, with a store that is still empty.
    pub fn new(api: Api, options: InformerOptions, clock: SharedClock) -> Self {
        let contents = Contents { items: HashMap::new(), indexes: HashMap::new(), revision: 0 };
        let store = Arc::new(Store {
            contents: RwLock::new(contents),
            synced: watch::channel(false).0,
            changes: watch::channel(0).0,
            clock,
        });
        Self { api, options, store, handlers: Vec::new() }
    }
    /// The store, to be read by the consumer.
    pub fn store(&self) -> Arc<Store<T>> {
        Arc::clone(&self.store)
    }
    /// Adds an index before the start.
    pub fn index(
        self,
        name: &'static str,
        function: impl Fn(&Item<T>) -> Vec<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        let index = Index { function: Box::new(function), keys: HashMap::new() };
        self.store.contents.write().indexes.insert(name, index);
        self
    }
    /// Adds a handler before the start. It runs on the informer's task and must be quick.
    pub fn on_change(mut self, handler: impl Fn(&Delta<'_, T>) + Send + Sync + 'static) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }
    /// Starts listing and watching under `supervisor`.
    pub fn spawn(self, supervisor: &Supervisor) -> Arc<Store<T>> {
        let store = self.store();
        let name = format!("informer {}", self.api.resource());
        supervisor.spawn_abortable(name, OnFailure::EndComponent, self.run());
        store
    }

    /// Watches, resumes; begins anew when the watch cannot be resumed. Never ends.
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut position: Option<String> = None;
        // Set when the server does not know initial events.
        let mut lists = false;
        loop {
            let outcome = match position.take() {
                None if lists => self.list().await.map(Some),
                from => match self.follow(from, &mut backoff).await {
                    Err(error) if error.api().is_some_and(|api| matches!(api.code(), 400 | 422)) && !lists => {
                        tracing::debug!(resource = self.api.resource(), %error, "the server knows no initial events");
                        lists = true;
                        Ok(None)
                    }
                    outcome => outcome,
                },
            };
            match outcome {
                Ok(next) => position = next,
                Err(error) => {
                    let wait = backoff.next_wait();
                    tracing::debug!(resource = self.api.resource(), %error, ?wait, "informer tries again");
                    self.store.clock.sleep(wait).await;
                }
            }
        }
    }

    fn known(&self) -> BTreeSet<ObjectKey> {
        self.store.contents.read().items.keys().cloned().collect()
    }

    /// Takes in the whole list; returns the revision to watch from.
    async fn list(&self) -> Result<String, ClientError> {
        let mut options = self.list_options();
        options.resource_version = "0".to_owned();
        let page = self.api.list(&options).await?;
        let mut gone = self.known();
        for object in &page.items {
            let key = key_of(object.tree());
            gone.remove(&key);
            self.take_in(key, object);
        }
        self.complete(gone);
        self.advance(page.resource_version.parse().unwrap_or(0));
        Ok(page.resource_version)
    }

    /// The first picture is whole: what it did not hold is gone.
    fn complete(&self, gone: BTreeSet<ObjectKey>) {
        for key in gone {
            self.forget(&key);
        }
        self.store.synced.send_replace(true);
    }

    /// Watches from `from`, or from a new picture of everything, until the stream ends. Returns where to resume, or
    /// `None` to begin anew.
    async fn follow(&self, from: Option<String>, backoff: &mut Backoff) -> Result<Option<String>, ClientError> {
        let mut options = self.list_options();
        // While the first picture is not whole: what was known before and has not come yet.
        let mut missing = match &from {
            Some(from) => {
                options.resource_version.clone_from(from);
                None
            }
            None => {
                options.send_initial_events = true;
                Some(self.known())
            }
        };
        let mut stream = match self.api.watch(&options).await {
            Ok(stream) => stream,
            Err(error) if error.is_expired() => return Ok(None),
            Err(error) if from.is_none() => return Err(error),
            Err(error) => {
                let wait = backoff.next_wait();
                tracing::debug!(resource = self.api.resource(), %error, ?wait, "watch tries again");
                self.store.clock.sleep(wait).await;
                return Ok(from);
            }
        };
        let mut position = from;
        let mut moved = false;
        while let Some(next) = stream.next().await {
            let change = match next {
                Ok(change) => change,
                Err(error) if error.is_expired() => return Ok(None),
                Err(error) => return Err(error),
            };
            moved = true;
            backoff.reset();
            let tree = change.object.tree();
            match change.kind {
                ChangeKind::Added | ChangeKind::Modified => {
                    let key = key_of(tree);
                    if let Some(missing) = &mut missing {
                        missing.remove(&key);
                    }
                    self.take_in(key, &change.object);
                }
                ChangeKind::Deleted => self.forget(&key_of(tree)),
                ChangeKind::Bookmark => {
                    if tree.str_at(&["metadata", "annotations", INITIAL_EVENTS_END]) == "true"
                        && let Some(gone) = missing.take()
                    {
                        self.complete(gone);
                    }
                }
            }
            if missing.is_none() {
                position = Some(tree.str_at(&["metadata", "resourceVersion"]).to_owned());
                self.advance(resource_version(tree));
            }
        }
        if !moved {
            self.store.clock.sleep(backoff.next_wait()).await;
        }
        Ok(position)
    }

    fn list_options(&self) -> ListOptions {
        ListOptions {
            label_selector: self.options.label_selector.clone(),
            field_selector: self.options.field_selector.clone(),
            ..ListOptions::default()
        }
    }

    /// Takes an object in and tells the handlers. An object that cannot be read is told in the log and treated as gone:
    /// deciding on its old state would be worse than not seeing it.
    fn take_in(&self, key: ObjectKey, object: &Object) {
        let value = match object.projection(T::project) {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(resource = self.api.resource(), %key, %error, "object cannot be read");
                return self.forget(&key);
            }
        };
        let tree = object.tree();
        let new = Item {
            key,
            uid: tree.str_at(&["metadata", "uid"]).into(),
            resource_version: resource_version(tree),
            value,
        };
        let old = self.store.contents.write().set(new.clone());
        if old.as_ref().is_some_and(|old| old.resource_version == new.resource_version && old.uid == new.uid) {
            return;
        }
        let replaced = old.as_ref().filter(|old| old.uid != new.uid);
        if let Some(replaced) = replaced {
            self.tell(&Delta { key: &new.key, old: Some(replaced), new: None });
        }
        let before = if replaced.is_some() { None } else { old.as_ref() };
        self.tell(&Delta { key: &new.key, old: before, new: Some(&new) });
    }

    fn forget(&self, key: &ObjectKey) {
        let old = self.store.contents.write().take(key);
        if let Some(old) = old {
            self.tell(&Delta { key, old: Some(&old), new: None });
        }
    }

    fn tell(&self, delta: &Delta<'_, T>) {
        for handler in &self.handlers {
            handler(delta);
        }
    }

    fn advance(&self, revision: u64) {
        {
            let mut contents = self.store.contents.write();
            contents.revision = contents.revision.max(revision);
        }
        self.store.changes.send_modify(|count| *count += 1);
    }
}

fn key_of(tree: &Value) -> ObjectKey {
    let (namespace, name) = crate::api::namespace_and_name(tree);
    ObjectKey::new(namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Client, Tree};
    use crate::transport::{Transport, TransportFuture};
    use parking_lot::Mutex;
    use skiff_base::clock::SystemClock;
    use skiff_net::Body;
    use std::collections::VecDeque;

    /// Answers one request after the other, if each asks for what is expected; the last one stays open.
    struct Script(Mutex<VecDeque<(&'static str, u16, String)>>);

    impl Transport for Script {
        fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
            let next = self.0.lock().pop_front();
            Box::pin(async move {
                let Some((asked, status, body)) = next else { return std::future::pending().await };
                let uri = request.uri().to_string();
                assert!(uri.contains(asked), "{uri} instead of {asked}");
                Ok(http::Response::builder().status(status).body(Body::from(body.into_bytes())).unwrap())
            })
        }
    }

    fn frame(kind: &str, name: &str, revision: u64) -> String {
        let end = if name.is_empty() { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let metadata = format!(r#"{{"name":"{name}","uid":"{name}","resourceVersion":"{revision}"{end}}}"#);
        format!("{{\"type\":\"{kind}\",\"object\":{{\"metadata\":{metadata}}}}}\n")
    }
    async fn run(script: Vec<(&'static str, u16, String)>, until: &[&str]) {
        let transport = Arc::new(Script(Mutex::new(script.into())));
        let api = Client::new(transport, "test").all("", "v1", "nodes");
        let store = Informer::<Tree>::new(api, InformerOptions::default(), SystemClock::shared())
            .spawn(&Supervisor::new("test"));
        let names = || {
            let mut names: Vec<String> = store.list().iter().map(|item| item.key.name.to_string()).collect();
            names.sort();
            names
        };
        let started = std::time::Instant::now();
        while names() != until || !store.is_synced() {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", names());
            SystemClock::shared().sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn the_first_picture_comes_by_the_watch_and_what_is_missing_from_the_next_is_gone() {
        let first = [frame("ADDED", "a", 1), frame("ADDED", "b", 2), frame("BOOKMARK", "", 5)].concat();
        let gone = r#"{"kind":"Status","status":"Failure","reason":"Expired","code":410,"message":"old"}"#;
        let again = [frame("ADDED", "b", 2), frame("BOOKMARK", "", 9), frame("ADDED", "c", 10)].concat();
        let script = vec![
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", 200, first),
            ("resourceVersion=5", 410, gone.to_owned()),
            ("sendInitialEvents=true", 200, again),
            ("resourceVersion=10", 200, frame("DELETED", "b", 11)),
        ];
        run(script, &["c"]).await;
    }

    #[tokio::test]
    async fn a_server_without_initial_events_is_listed() {
        let refused = r#"{"kind":"Status","status":"Failure","reason":"Invalid","code":422,"message":"no"}"#;
        let list = r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7"},
            "items":[{"metadata":{"name":"a","uid":"a","resourceVersion":"3"}}]}"#;
        let script = vec![
            ("sendInitialEvents=true", 422, refused.to_owned()),
            ("nodes?resourceVersion=0", 200, list.to_owned()),
            ("resourceVersion=7", 200, frame("ADDED", "b", 8)),
        ];
        run(script, &["a", "b"]).await;
    }
}
