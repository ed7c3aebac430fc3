//! What request handlers call (`managedfields/fieldmanager.go` and the managers it is stacked from).

use super::compare::{Comparison, compare};
use super::element::Element;
use super::managed::{Entry, Identity, Managers, Operation};
use super::merge::{field_set, merge, remove, with_named_fields};
use super::set::Set;
use super::typed::{join_errors, validate};
use super::{LAST_APPLIED_ANNOTATION, MAX_UPDATE_MANAGERS};
use crate::codec::json;
use crate::error::{ApiError, Cause, Reason};
use crate::meta::{GroupVersion, GroupVersionKind};
use crate::schema::{StructRef, StructType};
use crate::value::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// An object in another version of its kind.
pub struct Versioned {
    /// The object.
    pub object: Value,
    /// Its type.
    pub ty: StructRef,
    /// Fields that this version never tracks here.
    pub reset_fields: Set,
}

/// Conversion between the versions of a kind.
pub trait Versions {
    /// The object, of whatever version its `apiVersion` says, in `api_version`; `None` when the kind is no longer served in
    /// that, in which case managers that spoke it are forgotten.
    fn convert(&self, object: &Value, api_version: &str) -> Result<Option<Versioned>, ApiError>;
}

/// For kinds with a single version.
pub struct OneVersion;
impl Versions for OneVersion {
    fn convert(&self, _: &Value, _: &str) -> Result<Option<Versioned>, ApiError> {
        Ok(None)
    }
}

/// Keeps the `managedFields` of objects of one kind, in one version, through one (sub)resource.
pub struct FieldManager<'a> {
    /// The type of the objects given.
    pub ty: &'a StructType,
    /// Their kind and version.
    pub gvk: &'a GroupVersionKind,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Fields which writes through here cannot change (`GetResetFields`).
    pub reset_fields: &'a Set,
    /// Other versions.
    pub versions: &'a dyn Versions,
}

/// Fields that are never owned (`stripmeta.go`).
static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// An error that upstream passes on as plain text: 500 without a reason.
fn plain(message: String) -> ApiError {
    ApiError::new(500, Reason::Unknown, message)
}

/// `isResetManagedFields`: an empty list, or one empty entry.
fn is_reset(entries: Option<&Value>) -> bool {
    match entries {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [Value::Object(only)] => only.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

fn managed_fields(object: &Value) -> &[Value] {
    object.items_at(&["metadata", "managedFields"])
}

fn without_managed_fields(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn with_managed_fields(mut object: Value, managers: Managers) -> Value {
    let entries = managers.encode();
    if let Some(map) = object.as_object_mut() {
        if entries.is_empty() {
            return without_managed_fields(object);
        }
        map.object_mut("metadata").insert("managedFields", Value::Array(entries));
    }
    object
}

/// The managers a request gives, or the present ones when it gives none that can be read: clients that do not know of
/// `managedFields` must not delete them.
fn decode_or_live(given: Vec<Value>, live: &Value) -> Managers {
    let present = managed_fields(live);
    // What comes back from a client is most often what it was given.
    let stored = given == present;
    match Managers::decode(given, stored) {
        Ok(managers) if !managers.is_empty() => managers,
        _ => Managers::decode(present.to_vec(), true).unwrap_or_default(),
    }
}

/// A conflict: who owns the field.
struct Conflict {
    manager: Identity,
    path: Vec<Element>,
}

/// The live object in versions other than the request's; `None` for those no longer served.
type Lives = BTreeMap<String, Option<Versioned>>;

/// Who writes, when others lose fields.
#[derive(Clone, Copy)]
enum Writer<'w> {
    Updater(&'w Identity),
    Applier { own: &'w Identity, force: bool },
}

/// Why managers could not be brought up to date.
enum Failure {
    Conflicts(Vec<Conflict>),
    Other(ApiError),
}
impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl FieldManager<'_> {
    fn api_version(&self) -> String {
        self.gvk.api_version()
    }

    /// The new object with its `managedFields`, after a create (`live` is `None`), update or patch by `manager`.
    ///
    /// Never fails: when ownership cannot be worked out (a conversion failed) the live object's entries stay, as
    /// upstream's `UpdateNoErrors` does. A request may set `managedFields` itself: `[]` or `[{}]` ends the tracking, other
    /// well-formed entries replace the present ones; through a subresource they are passed over.
    pub fn update(&self, live: Option<&Value>, new: Value, manager: &str, now: &str) -> Value {
        self.update_or(live, new, manager, now, |_| {})
    }

    /// [`FieldManager::update`] that tells `failed` why ownership could not be worked out, for the log.
    pub fn update_or(
        &self,
        live: Option<&Value>,
        mut new: Value,
        manager: &str,
        now: &str,
        failed: impl FnOnce(&ApiError),
    ) -> Value {
        let nothing = Value::Object(Map::new());
        let live = live.unwrap_or(&nothing);
        let created = live.str_at(&["metadata", "uid"]).is_empty();
        let given = new
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .and_then(|metadata| metadata.remove("managedFields"));
        let reset = self.subresource.is_empty() && is_reset(given.as_ref());
        let given = match given {
            Some(Value::Array(entries)) if self.subresource.is_empty() && !reset => entries,
            _ => Vec::new(),
        };
        let mut managers = if reset { Managers::default() } else { decode_or_live(given, live) };
        if managers.is_empty() && !created {
            return new;
        }
        match self.track(live, &new, &mut managers, manager, now) {
            Ok(()) => with_managed_fields(new, managers),
            Err(error) => {
                failed(&error);
                let kept = managed_fields(live);
                if !kept.is_empty()
                    && let Some(map) = new.as_object_mut()
                {
                    map.object_mut("metadata").insert("managedFields", Value::Array(kept.to_vec()));
                }
                new
            }
        }
    }

    /// Gives what changed from `live` to `new` to `manager` and takes it from all others.
    fn track(
        &self,
        live: &Value,
        new: &Value,
        managers: &mut Managers,
        manager: &str,
        now: &str,
    ) -> Result<(), ApiError> {
        let lives = self.reconcile_all(live, managers)?;
        let found = compare(live, new, self.ty).without(self.reset_fields);
        let api_version = self.api_version();
        let identity = Identity::new(manager, Operation::Update, &api_version, self.subresource);
        match self.take_from_others(&lives, new, &found, managers, Writer::Updater(&identity)) {
            Ok(()) => {}
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::Conflicts(_)) => return Err(ApiError::internal("conflict in a forced operation")),
        }
        let mut own = found.added.joined(found.modified);
        own.subtract(&STRIPPED);
        if !own.is_empty() {
            match managers.get_mut(&identity) {
                Some(entry) => {
                    entry.add(own);
                    entry.time = Some(now.to_owned());
                }
                None => managers.entries.push(Entry::new(identity, &api_version, Some(now.to_owned()), own)),
            }
        }
        managers.entries.retain(|entry| !entry.is_empty());
        managers.cap_updaters(MAX_UPDATE_MANAGERS);
        Ok(())
    }

    /// `Updater.update`: fields that changed are lost to every manager but the writer; without force that is a conflict
    /// where they were owned. Managers of versions no longer served are dropped.
    fn take_from_others(
        &self,
        lives: &Lives,
        new: &Value,
        found: &Comparison,
        managers: &mut Managers,
        writer: Writer<'_>,
    ) -> Result<(), Failure> {
        let api_version = self.api_version();
        let mut versions: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        let mut conflicts = Vec::new();
        let mut losses: Vec<(usize, Set)> = Vec::new();
        let mut dropped = Vec::new();
        for (index, entry) in managers.entries.iter().enumerate() {
            let own = matches!(writer, Writer::Updater(own) | Writer::Applier { own, .. } if *own == entry.identity);
            if own && matches!(writer, Writer::Applier { .. }) {
                continue;
            }
            if entry.api_version != api_version && !versions.contains_key(&entry.api_version) {
                let comparison = self.compare_in(lives, new, &entry.api_version)?;
                versions.insert(entry.api_version.clone(), comparison);
            }
            let comparison = if entry.api_version == api_version {
                found
            } else {
                match versions.get(&entry.api_version).and_then(Option::as_ref) {
                    Some(comparison) => comparison,
                    None => {
                        dropped.push(index);
                        continue;
                    }
                }
            };
            if entry.intersects(&comparison.removed) {
                losses.push((index, comparison.removed.clone()));
            }
            // What an updater changed becomes its own again at once.
            if own || !(entry.intersects(&comparison.modified) || entry.intersects(&comparison.added)) {
                continue;
            }
            let taken = entry.set().intersection(&comparison.modified.union(&comparison.added));
            if matches!(writer, Writer::Applier { force: false, .. }) {
                taken.for_each(|path| {
                    conflicts.push(Conflict { manager: entry.identity.clone(), path: path.to_vec() });
                });
            }
            losses.push((index, taken));
        }
        if !conflicts.is_empty() {
            return Err(Failure::Conflicts(conflicts));
        }
        for (index, lost) in losses {
            managers.entries[index].subtract(&lost);
        }
        for index in dropped {
            managers.entries[index].replace(Set::new());
        }
        managers.entries.retain(|entry| !entry.is_empty());
        Ok(())
    }

    fn compare_in(&self, lives: &Lives, new: &Value, api_version: &str) -> Result<Option<Comparison>, ApiError> {
        let Some(Some(old)) = lives.get(api_version) else { return Ok(None) };
        let Some(new) = self.versions.convert(new, api_version)? else { return Ok(None) };
        Ok(Some(compare(&old.object, &new.object, &old.ty).without(&old.reset_fields)))
    }

    /// Brings sets up to date with types that changed since they were written. Returns the live object in the versions
    /// that managers speak, each converted once.
    fn reconcile_all(&self, live: &Value, managers: &mut Managers) -> Result<Lives, ApiError> {
        let api_version = self.api_version();
        let mut lives = Lives::new();
        for entry in &mut managers.entries {
            if entry.api_version == api_version {
                entry.reconcile(live, self.ty);
                continue;
            }
            if !lives.contains_key(&entry.api_version) {
                let converted = self.versions.convert(live, &entry.api_version)?;
                lives.insert(entry.api_version.clone(), converted);
            }
            if let Some(Some(versioned)) = lives.get(&entry.api_version) {
                entry.reconcile(&versioned.object, &versioned.ty);
            }
        }
        Ok(lives)
    }

    /// The object after `manager` applied `patch`, with its `managedFields`. The result is not yet what is stored: the
    /// caller decodes it over the type and sets defaults, as after any patch.
    ///
    /// `patch` is the request's tree as it was written, not decoded over the type: what is not in it, and what is there
    /// with a zero value, are different things here.
    pub fn apply(
        &self,
        live: Option<&Value>,
        patch: &Value,
        manager: &str,
        force: bool,
        now: &str,
    ) -> Result<Value, ApiError> {
        let nothing = Value::Object(Map::new());
        let live = live.unwrap_or(&nothing);
        self.check_patch(patch)?;
        let mut managers = Managers::decode(managed_fields(live).to_vec(), true)
            .map_err(|error| plain(format!("failed to decode managed fields: {error}")))?;
        if managers.is_empty() {
            self.track(&nothing, &without_managed_fields(live.clone()), &mut managers, "before-first-apply", now)?;
        }
        let applied = match self.apply_once(live, patch, managers.clone(), manager, force, now) {
            Err(Failure::Conflicts(conflicts)) if manager == "kubectl" => {
                // Coming from client-side apply: what that applied and nobody changed since was kubectl's all along.
                match self.owned_by_last_applied(live) {
                    None => Err(Failure::Conflicts(conflicts)),
                    Some(owned) => {
                        let rest: Vec<Conflict> =
                            conflicts.into_iter().filter(|conflict| !owned.contains(&conflict.path)).collect();
                        if rest.is_empty() {
                            self.apply_once(live, patch, managers, manager, true, now)
                        } else {
                            Err(Failure::Conflicts(rest))
                        }
                    }
                }
            }
            other => other,
        };
        let (mut object, managers) = match applied {
            Ok(applied) => applied,
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::Conflicts(conflicts)) => return Err(conflict_error(conflicts)),
        };
        if manager == "kubectl" {
            refresh_last_applied(&mut object, patch);
        }
        Ok(with_managed_fields(object, managers))
    }

    fn check_patch(&self, patch: &Value) -> Result<(), ApiError> {
        let stated = patch.str_at(&["apiVersion"]);
        let (stated_version, kind) = (GroupVersion::parse(stated), patch.str_at(&["kind"]));
        let expected = self.gvk.group_version();
        if kind != self.gvk.kind {
            let stated = stated_version.unwrap_or_default().kind(kind);
            return Err(ApiError::bad_request(format!("invalid object type: {stated}")));
        }
        if stated_version.as_ref() != Some(&expected) {
            return Err(ApiError::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {stated}, expected: {expected}"
            )));
        }
        if patch.at(&["metadata", "managedFields"]).is_some_and(|entries| !entries.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let errors = validate(patch, self.ty);
        if !errors.is_empty() {
            return Err(plain(format!(
                "failed to create typed patch object ({}/{}; {}): {}",
                patch.str_at(&["metadata", "namespace"]),
                patch.str_at(&["metadata", "name"]),
                self.gvk,
                join_errors(&errors)
            )));
        }
        Ok(())
    }

    /// `Updater.Apply`.
    fn apply_once(
        &self,
        live: &Value,
        patch: &Value,
        mut managers: Managers,
        manager: &str,
        force: bool,
        now: &str,
    ) -> Result<(Value, Managers), Failure> {
        let lives = self.reconcile_all(live, &mut managers)?;
        let api_version = self.api_version();
        let identity = Identity::new(manager, Operation::Apply, &api_version, self.subresource);
        let merged = merge(without_managed_fields(live.clone()), patch, self.ty);
        let mut set = field_set(patch, self.ty);
        set.subtract_below(self.reset_fields);
        let last = managers.take(&identity);
        managers.entries.push(Entry::new(identity.clone(), &api_version, None, set));
        let new = match &last {
            Some(last) if !last.is_empty() => self.prune(merged, &managers, &identity, last)?,
            _ => merged,
        };
        let found = compare(live, &new, self.ty);
        let changed = changes(&found);
        let found = found.without(self.reset_fields);
        let writer = Writer::Applier { own: &identity, force };
        self.take_from_others(&lives, &new, &found, &mut managers, writer)?;
        if let Some(entry) = managers.get_mut(&identity) {
            entry.subtract(&STRIPPED);
            entry.time = if changed { Some(now.to_owned()) } else { last.and_then(|last| last.time) };
        }
        managers.entries.retain(|entry| !entry.is_empty());
        Ok((new, managers))
    }

    /// Removes what the manager applied last time, does not apply now, and no other manager owns (`Updater.prune`).
    fn prune(&self, merged: Value, managers: &Managers, identity: &Identity, last: &Entry) -> Result<Value, ApiError> {
        let api_version = self.api_version();
        let Some(own) = managers.entries.iter().find(|entry| entry.identity == *identity) else { return Ok(merged) };
        let last_set = last.set();
        if last.api_version == api_version && last_set.is_subset(&own.set()) {
            return Ok(merged);
        }
        // In the version in which the manager applied last.
        let converted;
        let (base, ty): (&Value, &StructType) = if last.api_version == api_version {
            (&merged, self.ty)
        } else {
            match self.versions.convert(&merged, &last.api_version)? {
                Some(versioned) => {
                    converted = versioned;
                    (&converted.object, &converted.ty)
                }
                None => return Ok(merged),
            }
        };
        let last_set = with_named_fields(&last_set, ty);
        let mut pruned = remove(base.clone(), &last_set, ty);
        let mut by_version: BTreeMap<&str, Set> = BTreeMap::new();
        for entry in &managers.entries {
            let set = by_version.entry(&entry.api_version).or_default();
            *set = std::mem::take(set).joined(entry.set().into_owned());
        }
        // The version at hand first, so that what conversion needs is back before anything is converted.
        let mut owned: Vec<(&str, Set)> = by_version.into_iter().collect();
        owned.sort_by_key(|(version, _)| *version != last.api_version);
        for (version, set) in &owned {
            if *version == last.api_version {
                pruned = add_back(base, &pruned, set, ty);
            } else if *version == api_version {
                // From the other version back: compared and restored in the words of the request's version.
                if let Some(ours) = self.versions.convert(&pruned, &api_version)? {
                    let restored = add_back(&merged, &ours.object, set, self.ty);
                    if let Some(back) = self.versions.convert(&restored, &last.api_version)? {
                        pruned = back.object;
                    }
                }
            } else if let (Some(full), Some(less)) =
                (self.versions.convert(base, version)?, self.versions.convert(&pruned, version)?)
            {
                let restored = add_back(&full.object, &less.object, set, &full.ty);
                if let Some(back) = self.versions.convert(&restored, &last.api_version)? {
                    pruned = back.object;
                }
            }
        }
        // Only what the manager itself had applied may go.
        let kept = with_named_fields(&field_set(&pruned, ty), ty);
        let all = with_named_fields(&field_set(base, ty), ty);
        let gone = all.difference(&kept).intersection(&last_set);
        let pruned = remove(base.clone(), &gone, ty);
        if last.api_version == api_version {
            return Ok(pruned);
        }
        Ok(self.versions.convert(&pruned, &api_version)?.map_or(merged, |versioned| versioned.object))
    }

    /// Fields of the last-applied annotation that are as they were applied
    /// (`allowedConflictsFromLastApplied`); `None` without a usable annotation.
    fn owned_by_last_applied(&self, live: &Value) -> Option<Set> {
        let annotation = live.str_at(&["metadata", "annotations", LAST_APPLIED_ANNOTATION]);
        if annotation.is_empty() {
            return None;
        }
        let applied = json::from_str(annotation).ok()?;
        if applied.str_at(&["apiVersion"]) != self.api_version() || !validate(&applied, self.ty).is_empty() {
            return None;
        }
        let found = compare(&applied, live, self.ty);
        let set = field_set(&applied, self.ty);
        Some(set.difference(&found.modified).difference(&found.added).difference(&found.removed))
    }
}

/// Whether an object changed, entries of `managedFields` aside (the new one has none here).
fn changes(found: &Comparison) -> bool {
    static ENTRIES: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&[&["metadata", "managedFields"]]));
    !(found.added.is_empty() && found.modified.is_empty() && found.removed.is_subset(&ENTRIES))
}

/// `addBackOwnedItemsForVersion`: of what was pruned, what somebody owns comes back.
fn add_back(full: &Value, pruned: &Value, owned: &Set, ty: &StructType) -> Value {
    let all = with_named_fields(&field_set(full, ty), ty);
    let kept = with_named_fields(&field_set(pruned, ty), ty);
    let gone = all.difference(&kept.union(&with_named_fields(owned, ty)));
    remove(full.clone(), &gone, ty)
}

/// `NewConflictError`.
fn conflict_error(mut conflicts: Vec<Conflict>) -> ApiError {
    conflicts.sort_by(|left, right| left.manager.cmp(&right.manager));
    let path = |conflict: &Conflict| conflict.path.iter().map(ToString::to_string).collect::<String>();
    let causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager.shown()),
            field: path(conflict),
        })
        .collect();
    let message = match conflicts.as_slice() {
        [only] => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager.shown(), path(only))
        }
        many => {
            let mut lines = Vec::new();
            for (index, conflict) in many.iter().enumerate() {
                if index == 0 || many[index - 1].manager != conflict.manager {
                    lines.push(format!("conflicts with {}:", conflict.manager.shown()));
                }
                lines.push(format!("- {}", path(conflict)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    ApiError::apply_conflict(causes, message)
}

/// Keeps the annotation of client-side apply in step, so that both ways of applying can be mixed
/// (`lastappliedupdater.go`). Dropped when annotations would become too large.
fn refresh_last_applied(object: &mut Value, patch: &Value) {
    const MAX_ANNOTATIONS: usize = 256 * 1024;
    let Some(annotations) =
        object.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations")).and_then(Value::as_object_mut)
    else {
        return;
    };
    if annotations.get(LAST_APPLIED_ANNOTATION).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = patch.clone();
    if let Some(own) =
        applied.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations")).and_then(Value::as_object_mut)
    {
        own.remove(LAST_APPLIED_ANNOTATION);
    }
    let text = format!("{}\n", json::to_string(&applied));
    annotations.insert(LAST_APPLIED_ANNOTATION, text);
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED_ANNOTATION);
    }
}
