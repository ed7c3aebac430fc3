//! Reading and writing: every verb over every kind, one path for all.
//!
//! | what | module |
//! |---|---|
//! | the watch cache | [`cache`] |
//! | which kinds are served | [`resources`] |
//! | from a filtered request to a verb | `dispatch` |
//! | get, list, watch | `get`, `list`, `watch` |
//! | create, update, patch and apply, delete | `create`, `update`, `patch`, `delete` |
//! | the compare-and-set loop below all writes | `write` |
//! | rules of `metadata` | `meta` |
//! | encodings and shapes of answers | [`negotiate`], `respond`, `table` |
//! | what is done, not stored | [`action`] |
//! | for admission and authorizers | `reader` |
//!
//! A read first learns the store's revision, waits until the cache holds it (nearly always it does), and answers from
//! the cache: so reads are linearizable without touching a value in the store.
//!
//! Not here yet: compressed lists from cached deflate blocks; CBOR.

pub mod action;
pub mod cache;
mod create;
mod decode;
mod delete;
mod dispatch;
mod get;
mod lease;
mod list;
mod managed;
mod meta;
pub mod negotiate;
mod patch;
mod pods;
mod reader;
pub mod resources;
mod respond;
mod scale;
mod select;
mod table;
mod token;
mod update;
mod watch;
pub mod wire;
mod write;

pub(crate) use delete::answers_with_object;
pub(crate) use meta::generate_name;
pub use resources::Resources;
pub(crate) use respond::tree as tree_answer;

use crate::admission::Plugin;
use crate::kinds::{Resource, WriteHooks};
use arc_swap::ArcSwap;
use cache::{Cache, Codec, Feed, FeedError, Ledger};
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::ApiError;
use skiff_store::{
    Compare, Condition, KeyRange, Op, Ordering as Order, RangeRequest, Revision, Store, StoreError, Txn,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bounds of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of encodings and trees kept for objects at most; a small cluster gets less.
    pub cache_bytes: usize,
    /// How often the API horizon moves (`--etcd-compaction-interval`).
    pub compaction_interval: Duration,
    /// How long events live (`--event-ttl`).
    pub event_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            compaction_interval: Duration::from_secs(300),
            event_ttl: Duration::from_secs(3600),
        }
    }
}

/// Reads and writes every kind.
pub struct Registry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: Arc<Feed>,
    resources: ArcSwap<Resources>,
    /// In upstream's order; set once, because plug-ins read the registry.
    admission: OnceLock<Vec<Arc<dyn Plugin>>>,
    actions: OnceLock<action::Actions>,
    /// What writes of a resource take and give back; set once, because allocators read the registry.
    hooks: OnceLock<Vec<(skiff_machinery::GroupResource, Arc<dyn WriteHooks>)>>,
    pub(crate) clock: SharedClock,
    pub(crate) supervisor: Supervisor,
    limits: Limits,
    event_lease: lease::SharedLease,
    /// Nothing at or before this revision is listed or watched.
    horizon: AtomicI64,
}

impl Registry {
    /// Reads the store and follows it. `resources` are the kinds served from the start.
    pub async fn start(
        store: Arc<dyn Store>,
        resources: Vec<Resource>,
        limits: Limits,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, FeedError> {
        let ledger = Arc::new(Ledger::new(limits.cache_bytes));
        let resources = Resources::new(resources.into_iter().map(Arc::new).collect());
        let caches = resources
            .by_prefix()
            .into_values()
            .map(|sharing| Arc::new(Cache::new(Codec::new(sharing), Arc::clone(&ledger))));
        let feed = Feed::start(Arc::clone(&store), caches.collect(), ledger, Arc::clone(&clock), supervisor).await?;
        let registry = Arc::new(Self {
            store,
            feed,
            resources: ArcSwap::from_pointee(resources),
            admission: OnceLock::new(),
            actions: OnceLock::new(),
            hooks: OnceLock::new(),
            clock,
            supervisor: supervisor.clone(),
            limits,
            event_lease: lease::SharedLease::default(),
            horizon: AtomicI64::new(0),
        });
        let compacting = Arc::clone(&registry);
        supervisor.spawn_abortable(
            "compaction",
            OnFailure::EndComponent,
            async move { compacting.compact_forever().await },
        );
        let sweeping = Arc::clone(&registry);
        supervisor.spawn_abortable(
            "cache sweep",
            OnFailure::EndComponent,
            async move { sweeping.sweep_forever().await },
        );
        Ok(registry)
    }

    /// Sets the admission plug-ins, once, before the first write.
    pub fn set_admission(&self, plugins: Vec<Arc<dyn Plugin>>) {
        if self.admission.set(plugins).is_err() {
            tracing::error!("admission plug-ins were set twice; the first ones stay");
        }
    }

    /// Sets what is done for actions (`token`, access reviews, ...), once.
    pub fn set_actions(&self, actions: action::Actions) {
        if self.actions.set(actions).is_err() {
            tracing::error!("actions were set twice; the first ones stay");
        }
    }

    /// Sets the hooks around writes of some resources, once, before the first write.
    pub fn set_hooks(&self, hooks: Vec<(skiff_machinery::GroupResource, Arc<dyn WriteHooks>)>) {
        if self.hooks.set(hooks).is_err() {
            tracing::error!("write hooks were set twice; the first ones stay");
        }
    }

    fn plugins(&self) -> &[Arc<dyn Plugin>] {
        self.admission.get().map_or(&[], Vec::as_slice)
    }

    /// The kinds that are served now.
    pub fn resources(&self) -> Arc<Resources> {
        self.resources.load_full()
    }

    /// The revision up to which the caches hold everything, as it grows.
    pub fn progress(&self) -> tokio::sync::watch::Receiver<Revision> {
        self.feed.progress()
    }

    /// Serves `resource` (a custom one) from now on, instead of one with the same name.
    pub async fn serve(&self, resource: Arc<Resource>) -> Result<(), FeedError> {
        let cache = Cache::new(Codec::new(vec![Arc::clone(&resource)]), Arc::clone(self.feed.ledger()));
        self.feed.attach(Arc::new(cache)).await?;
        self.resources.rcu(|resources| resources.with(Arc::clone(&resource)));
        Ok(())
    }

    /// Serves it no longer.
    pub fn withdraw(&self, name: &skiff_machinery::GroupResource) {
        let old = self.resources.rcu(|resources| resources.without(name));
        if let Some(resource) = old.named(name) {
            self.feed.detach(format!("{}{}/", "/registry/", resource.storage_prefix).as_bytes());
        }
    }

    /// The cache of a resource; `None` for kinds that are never stored.
    pub(crate) fn cache_of(&self, resource: &Resource) -> Option<Arc<Cache>> {
        if resource.storage_prefix.is_empty() {
            return None;
        }
        self.feed.cache(format!("/registry/{}/", resource.storage_prefix).as_bytes())
    }

    /// The store's newest revision: what a linearizable read has to see.
    pub(crate) async fn store_revision(&self) -> Result<Revision, ApiError> {
        let range = KeyRange::key("/registry/\0");
        let request = RangeRequest { range, revision: None, limit: 1, keys_only: true, count_only: true };
        Ok(self.store.range(request).await.map_err(store_error)?.revision)
    }

    /// Waits until the caches hold what the store held when this was called.
    pub(crate) async fn barrier(&self) -> Result<Revision, ApiError> {
        let revision = self.store_revision().await?;
        self.feed.wait_for(revision).await;
        Ok(revision)
    }

    /// The API horizon.
    pub(crate) fn horizon(&self) -> Revision {
        self.horizon.load(Ordering::Acquire)
    }

    /// Moves the horizon every interval to where the store was one interval ago. Mirrors etcd3/compact.go: several
    /// servers agree through one key, so that each revision is compacted once.
    async fn compact_forever(&self) {
        let (mut version, mut target) = (0, 0);
        loop {
            self.clock.sleep(self.limits.compaction_interval).await;
            match self.compact_once(version, target).await {
                Ok((next_version, next_target)) => {
                    if target > 0 {
                        self.horizon.fetch_max(target, Ordering::AcqRel);
                        self.feed.move_horizon(target, self.limits.compaction_interval * 2);
                    }
                    (version, target) = (next_version, next_target);
                }
                Err(error) => tracing::warn!(%error, "compaction failed; it is tried again"),
            }
        }
    }

    async fn compact_once(&self, version: i64, target: Revision) -> Result<(i64, Revision), StoreError> {
        const KEY: &str = "compact_rev_key";
        let txn = Txn {
            compares: vec![Compare { key: KEY.into(), condition: Condition::Version(Order::Equal, version) }],
            success: vec![Op::Put { key: KEY.into(), value: target.to_string().into(), lease: 0, previous: false }],
            failure: vec![Op::Range(RangeRequest {
                range: KeyRange::key(KEY),
                revision: None,
                limit: 0,
                keys_only: false,
                count_only: false,
            })],
        };
        let answer = self.store.txn(txn).await?;
        if answer.succeeded {
            if target > 0 {
                self.store.compact(target).await?;
            }
            return Ok((version + 1, answer.revision));
        }
        // Another server was here in this interval: go on from what it wrote.
        let found = answer.responses.first().and_then(|response| match response {
            skiff_store::OpResponse::Range(range) => range.kvs.first().map(|kv| kv.version),
            _ => None,
        });
        Ok((found.unwrap_or(0), answer.revision))
    }

    /// Makes room every ten seconds, and at once (but not all the time) when something found none.
    async fn sweep_forever(&self) {
        loop {
            tokio::select! {
                () = self.clock.sleep(Duration::from_secs(10)) => {}
                () = self.feed.ledger().pressed() => self.clock.sleep(Duration::from_millis(500)).await,
            }
            self.feed.sweep(self.feed.ledger().budget() / 3);
        }
    }
}

/// A store's failure, as clients see it.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::OutcomeUnknown(what) => {
            ApiError::timeout(format!("the outcome of the write is not known: {what}"), true)
        }
        StoreError::Unavailable(what) => ApiError::service_unavailable(format!("the store is not available: {what}")),
        StoreError::Compacted { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
        StoreError::NoSpace => ApiError::new(507, skiff_machinery::Reason::InternalError, error.to_string()),
        other => ApiError::internal(other),
    }
}

/// Resources that share a storage prefix, by prefix.
pub(crate) type ByPrefix = BTreeMap<String, Vec<Arc<Resource>>>;
