//! Kinds as data: names, scope, versions, subresources, columns, and the pure functions that default, prepare and
//! validate their objects.
//!
//! Built-in kinds and custom resources are the same [`Resource`]; the registry does not know which it serves. Start
//! reading at `table` (the facts), `rules` (which functions belong to which kind) and `strategy` (what all share).
//!
//! Not here yet: rules of the volume in a VolumeAttachment; conversion of
//! `resource.k8s.io/v1beta1`; descriptions of columns.

mod aggregation;
mod autoscaling;
pub mod builtin;
mod certificates;
pub(crate) mod check;
mod columns;
mod convert;
pub mod core;
mod defaults;
mod devices;
mod fields;
mod flow_control;
mod groups;
mod jobs;
mod names;
mod networking;
mod policies;
mod prepare;
mod rules;
mod storage;
mod strategy;
mod table;
pub(crate) mod tree;
mod unbuilt;
mod warnings;
pub(crate) mod webhooks;
mod workloads;

use crate::request::RequestContext;
use skiff_machinery::schema::Type;
use skiff_machinery::{ApiError, ErrorList, GroupKind, GroupResource, GroupVersion, Value};
use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;
use std::sync::Arc;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A kind as the registry serves it.
pub struct Resource {
    /// Group and plural name.
    pub name: GroupResource,
    /// Singular name.
    pub singular: String,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Scope.
    pub scope: Scope,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories for kubectl (`all`).
    pub categories: Vec<String>,
    /// Versions, preferred first.
    pub versions: Vec<Version>,
    /// Which group and version is written to the store.
    pub storage: GroupVersion,
    /// Encoding in the store.
    pub storage_encoding: StorageEncoding,
    /// Path under `/registry/`, without slashes at its ends: `pods`, `services/specs`, `example.com/widgets`.
    pub storage_prefix: String,
    /// Verbs that discovery lists for the main resource; others answer 405.
    pub verbs: Vec<&'static str>,
    /// The main resource's behaviour.
    pub strategy: Arc<dyn Strategy>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Columns of `Table` answers; `None`: name and age.
    pub table: Option<Arc<dyn TableConvertor>>,
    /// What a field selector may name beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// Said in a `Warning:` header on writes while the kind's effect is not built.
    pub warning: Option<&'static str>,
    /// For kinds that are created but never stored (`TokenReview`, `Binding`): the registry's action, by name; their
    /// `storage_prefix` is empty. `componentstatuses` has neither action nor prefix: it is only read, and has no items.
    pub action: Option<&'static str>,
}

impl Resource {
    /// Group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.name.group.clone(), self.kind.clone())
    }
    /// The version with this name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.group_version.version == name)
    }
}

/// One served version of a kind.
pub struct Version {
    /// Group and version as served. (An event is served in `v1` and `events.k8s.io/v1` by two resources over one
    /// storage prefix.)
    pub group_version: GroupVersion,
    /// Whether it is served.
    pub served: bool,
    /// Its schema.
    pub schema: Type,
    /// To and from the storage version; `None` when the trees are the same but for `apiVersion`.
    pub conversion: Option<Arc<dyn Conversion>>,
    /// Sent in a `Warning:` header when the version is deprecated.
    pub deprecation_warning: Option<String>,
    /// What a custom resource's definition says about this version; `None` for built-in kinds.
    pub custom: Option<Arc<CustomVersion>>,
}

/// A version of a custom resource.
pub struct CustomVersion {
    /// Its schema.
    pub structural: skiff_machinery::schema::structural::Structural,
    /// Its columns; `None`: name and age.
    pub table: Option<Arc<dyn TableConvertor>>,
    /// `openAPIV3Schema` as the definition has it, for publication.
    pub openapi: PackedTree,
}

/// A tree that is seldom looked at, as compressed JSON: the schemas of larger operators take many megabytes as trees.
pub struct PackedTree(bytes::Bytes);

impl PackedTree {
    /// Packs a tree.
    pub fn pack(tree: &Value) -> Self {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        let text = skiff_machinery::codec::json::to_vec(tree);
        let packed = encoder.write_all(&text).and_then(|()| encoder.finish());
        let mut packed = packed.expect("memory takes all that is written");
        packed.shrink_to_fit();
        Self(packed.into())
    }
    /// The tree again.
    pub fn unpack(&self) -> Value {
        let mut text = Vec::new();
        flate2::read::ZlibDecoder::new(self.0.as_ref()).read_to_end(&mut text).expect("it was packed here");
        skiff_machinery::codec::json::from_slice(&text).expect("it was packed here")
    }
    /// The packed form: the same for the same tree.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Conversion between one served version and the storage version. `apiVersion` is set by the caller. Those of built-in
/// kinds are pure and never fail; a custom resource's may ask a webhook.
pub trait Conversion: Send + Sync {
    /// From the served version to the storage version.
    fn to_storage(&self, object: &mut Value) -> Result<(), ApiError>;
    /// From the storage version to the served version.
    fn to_served(&self, object: &mut Value) -> Result<(), ApiError>;
    /// Many objects of the storage version are about to be asked for in the served one: a conversion that asks somebody
    /// asks once for all of them, and remembers.
    fn expect_served<'a>(&'a self, _objects: Vec<Value>) -> HookFuture<'a, Result<(), ApiError>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Whether [`Conversion::expect_served`] is worth its objects.
    fn asks_others(&self) -> bool {
        false
    }
}

/// How objects are encoded in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum StorageEncoding {
    Protobuf,
    Json,
}

/// A field that selectors may name.
pub struct SelectableField {
    /// Its name in a selector: `spec.nodeName`.
    pub name: String,
    /// Its value; a missing field reads as upstream's zero value.
    pub value: fn(&Value, &str) -> String,
}

/// A subresource of a kind.
pub struct Subresource {
    /// Name: `status`.
    pub name: &'static str,
    /// Kind that discovery names: `Pod`, `Scale`.
    pub kind: &'static str,
    /// Group and version of that kind where they differ from the parent's (`autoscaling/v1` for `Scale`).
    pub kind_group_version: Option<(&'static str, &'static str)>,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What it does.
    pub behaviour: SubresourceBehaviour,
}

/// What a subresource does.
pub enum SubresourceBehaviour {
    /// A view of the same object with rules of its own (`status`, `ephemeralcontainers`, `resize`, `approval`,
    /// `finalize`).
    View(Arc<dyn Strategy>),
    /// `scale`.
    Scale(ScalePaths),
    /// Something that is done: `binding`, `eviction`, `token`. The name selects the registry's action.
    Action(&'static str),
    /// A stream or proxied request: `log`, `exec`, `attach`, `portforward`, `proxy`.
    Connect(&'static str),
}

/// Where `scale` finds its fields (dotted JSON paths without a leading dot).
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// Desired replicas.
    pub spec_replicas: String,
    /// Observed replicas.
    pub status_replicas: String,
    /// Serialized or structured label selector; `None` when the kind has none.
    pub selector: Option<String>,
}

/// A kind's rules: pure functions over trees. The tree is in the **request's** version in [`Strategy::default`] and in
/// the **storage** version everywhere else.
///
/// Mirrors `rest.RESTCreateStrategy`, `RESTUpdateStrategy` and `RESTDeleteStrategy`.
pub trait Strategy: Send + Sync {
    /// Fills what is not said (`SetDefaults_*`). Also applied to what is read from the store.
    fn default(&self, version: &GroupVersion, object: &mut Value);
    /// Clears what a creator may not set (status, for most) and sets what the server sets.
    fn prepare_for_create(&self, context: &RequestContext, object: &mut Value);
    /// Restores what an updater may not change, and bumps `metadata.generation` when the spec changed.
    fn prepare_for_update(&self, context: &RequestContext, object: &mut Value, old: &Value);
    /// Mistakes in a new object. Metadata has been checked by the registry with [`Strategy::validate_name`].
    fn validate(&self, context: &RequestContext, object: &Value) -> ErrorList;
    /// Mistakes in a changed object.
    fn validate_update(&self, context: &RequestContext, object: &Value, old: &Value) -> ErrorList;
    /// What to tell the client although the object is accepted.
    fn warnings(&self, _context: &RequestContext, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// What is wrong with a name (`prefix`: it is a `generateName`); most kinds want a DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String>;
    /// Whether PUT creates what is missing.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// Whether an update may come without `resourceVersion`.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// Grace period for a delete: `None` when the kind is deleted at once. `requested` is what the client said.
    /// (pods: `podStrategy.CheckGracefulDelete`).
    fn grace_period_seconds(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// Field paths that apply must not track for this (sub)resource: `spec` for `status`, `status` for the main one.
    fn reset_fields(&self) -> &[&[&str]] {
        &[]
    }
}

/// Makes rows of `Table` answers.
pub trait TableConvertor: Send + Sync {
    /// The columns.
    fn columns(&self) -> &[Column];
    /// One cell for each column. `now` is seconds since the epoch, for ages.
    fn row(&self, object: &Value, now: i64) -> Vec<Value>;
}

/// A column of a table (`metav1.TableColumnDefinition`).
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type.
    pub ty: String,
    /// OpenAPI format.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 is always shown; 1 with `-o wide`.
    pub priority: i32,
}

/// What a hook's answer is awaited as.
pub type HookFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Resources outside the object that a write takes and gives back: cluster IPs and node ports of Services.
///
/// The registry calls [`WriteHooks::begin_create`] and [`WriteHooks::begin_update`] **before** the strategy prepares and
/// validates (upstream: `genericregistry.Store.BeginCreate`, `BeginUpdate`), because validation looks at what they fill
/// in; then exactly one of [`Reservation::commit`] and [`Reservation::roll_back`], by whether the object was stored. A
/// dry run is rolled back. After an attempt that lost the compare-and-set race the reservation is rolled back and the
/// next attempt begins anew. [`WriteHooks::after_delete`] runs once the object is gone from the store.
pub trait WriteHooks: Send + Sync {
    /// May change the object that is about to be created; refuses with an error, having taken nothing.
    fn begin_create<'a>(
        &'a self,
        context: &'a RequestContext,
        object: &'a mut Value,
    ) -> HookFuture<'a, Result<Box<dyn Reservation>, ApiError>>;
    /// The same for an update.
    fn begin_update<'a>(
        &'a self,
        context: &'a RequestContext,
        object: &'a mut Value,
        old: &'a Value,
    ) -> HookFuture<'a, Result<Box<dyn Reservation>, ApiError>>;
    /// Gives back what a deleted object held.
    fn after_delete<'a>(&'a self, context: &'a RequestContext, object: &'a Value) -> HookFuture<'a, ()>;
}

/// What a hook has taken for one write.
pub trait Reservation: Send {
    /// The object was stored: what was taken stays, what it no longer needs is given back.
    fn commit(self: Box<Self>) -> HookFuture<'static, ()>;
    /// The object was not stored: what was taken is given back.
    fn roll_back(self: Box<Self>) -> HookFuture<'static, ()>;
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
