//! `metadata.managedFields`: one entry per manager, operation and subresource
//! (`k8s.io/apimachinery/pkg/util/managedfields/internal/managedfields.go`).

use super::merge::{may_need_reconciling, reconcile};
use super::set::Set;
use crate::schema::StructType;
use crate::value::{Map, Name, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// `metav1.ManagedFieldsOperationType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who owns fields. Appliers are the same whatever version they use, so that they can move to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Empty for appliers.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Identity {
    pub(super) fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Self { manager: manager.into(), operation, api_version: api_version.into(), subresource: subresource.into() }
    }
    /// How conflicts name it (`printManager`).
    pub(super) fn shown(&self) -> String {
        let mut text = crate::error::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", crate::error::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// One manager's fields at one version. Most entries of an object pass through a request untouched, so `fieldsV1` is
/// only decoded for those that gain or lose something.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    /// The version in which the fields are written.
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    fields: Fields,
}

#[derive(Clone, Debug)]
enum Fields {
    /// `fieldsV1` in canonical form, as it was stored.
    Stored(Map),
    Decoded(Set),
}

impl Entry {
    pub(super) fn new(identity: Identity, api_version: &str, time: Option<String>, set: Set) -> Self {
        Self { identity, api_version: api_version.to_owned(), time, fields: Fields::Decoded(set) }
    }
    /// Gives the entry another set.
    pub(super) fn replace(&mut self, set: Set) {
        self.fields = Fields::Decoded(set);
    }
    /// The fields.
    pub(super) fn set(&self) -> Cow<'_, Set> {
        match &self.fields {
            Fields::Decoded(set) => Cow::Borrowed(set),
            Fields::Stored(map) => Cow::Owned(Set::from_map(map).unwrap_or_default()),
        }
    }
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        match &self.fields {
            Fields::Decoded(set) => set.is_empty(),
            Fields::Stored(map) => map.is_empty(),
        }
    }
    /// Whether a field of `other` is among them.
    pub(super) fn intersects(&self, other: &Set) -> bool {
        match &self.fields {
            Fields::Decoded(set) => set.intersects(other),
            Fields::Stored(map) => other.intersects_fields(map),
        }
    }
    /// Whether every field of `other` is among them.
    pub(super) fn contains(&self, other: &Set) -> bool {
        match &self.fields {
            Fields::Decoded(set) => other.is_subset(set),
            Fields::Stored(map) => other.is_subset_of_fields(map),
        }
    }
    /// Takes fields away.
    pub(super) fn subtract(&mut self, gone: &Set) {
        if self.intersects(gone) {
            let mut set = self.set().into_owned();
            set.subtract(gone);
            self.replace(set);
        }
    }
    /// Adds fields.
    pub(super) fn add(&mut self, more: Set) {
        if !self.contains(&more) {
            self.replace(self.set().into_owned().joined(more));
        }
    }
    /// Brings the fields up to date with the type.
    pub(super) fn reconcile(&mut self, live: &Value, entry: &StructType) {
        if let Fields::Stored(map) = &self.fields
            && !may_need_reconciling(map, live, entry)
        {
            return;
        }
        if let Some(set) = reconcile(&self.set(), live, entry) {
            self.replace(set);
        }
    }

    /// `DecodeManagedFields`; the error is upstream's. Entries that this server `stored` are in canonical form.
    pub(super) fn decode(mut entry: Value, index: usize, stored: bool) -> Result<Self, String> {
        let operation = match entry.str_at(&["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        let api_version = entry.str_at(&["apiVersion"]);
        if api_version.is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match entry.str_at(&["fieldsType"]) {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
            other => {
                let other = crate::error::quote(other);
                return Err(format!("invalid fieldsType {other} in managed fields entry {index}"));
            }
        }
        let api_version = api_version.to_owned();
        let fields = match entry.get_mut("fieldsV1").map(std::mem::take).unwrap_or_default() {
            Value::Object(map) if stored => Fields::Stored(map),
            other => {
                let set = Set::from_fields(&other);
                Fields::Decoded(
                    set.ok_or_else(|| format!("error decoding versioned set in managed fields entry {index}"))?,
                )
            }
        };
        let identity =
            Identity::new(entry.str_at(&["manager"]), operation, &api_version, entry.str_at(&["subresource"]));
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { identity, api_version, time, fields })
    }

    fn encode(self) -> Value {
        let fields = match self.fields {
            Fields::Stored(map) => Value::Object(map),
            Fields::Decoded(set) => set.to_fields(),
        };
        let mut entry: Vec<(Name, Value)> = Vec::with_capacity(7);
        let mut put = |key: &'static str, value: Value| entry.push((Name::Static(key), value));
        put("apiVersion", self.api_version.into());
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", fields);
        if !self.identity.manager.is_empty() {
            put("manager", self.identity.manager.into());
        }
        put("operation", self.identity.operation.as_str().into());
        if !self.identity.subresource.is_empty() {
            put("subresource", self.identity.subresource.into());
        }
        if let Some(time) = self.time {
            put("time", time.into());
        }
        Value::Object(Map::from_entries(entry).0)
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

impl Managers {
    /// From `metadata.managedFields`; see [`Entry::decode`]. Of two entries with one identity the later stands, as in
    /// upstream's map.
    pub(super) fn decode(entries: Vec<Value>, stored: bool) -> Result<Self, String> {
        let mut decoded: Vec<Entry> = Vec::with_capacity(entries.len() + 1);
        for (index, entry) in entries.into_iter().enumerate() {
            decoded.push(Entry::decode(entry, index, stored)?);
        }
        let mut order: Vec<usize> = (0..decoded.len()).collect();
        order.sort_by(|&left, &right| decoded[left].identity.cmp(&decoded[right].identity));
        let mut overruled: Vec<usize> = order
            .windows(2)
            .filter(|pair| decoded[pair[0]].identity == decoded[pair[1]].identity)
            .map(|pair| pair[0])
            .collect();
        if !overruled.is_empty() {
            overruled.sort_unstable();
            let mut index = 0;
            decoded.retain(|_| {
                index += 1;
                overruled.binary_search(&(index - 1)).is_err()
            });
        }
        Ok(Self { entries: decoded })
    }
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub(super) fn get_mut(&mut self, identity: &Identity) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.identity == *identity)
    }
    pub(super) fn take(&mut self, identity: &Identity) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.identity == *identity)?;
        Some(self.entries.remove(index))
    }
    /// In upstream's order: appliers first, then by time, manager, version, subresource; without those that own nothing.
    pub(super) fn encode(mut self) -> Vec<Value> {
        self.entries.retain(|entry| !entry.is_empty());
        let key = |entry: &Entry| {
            let time = entry.time.as_deref().and_then(|time| crate::time::Timestamp::parse(time).ok());
            (
                entry.identity.operation,
                time.map_or(0, |time| time.seconds),
                entry.identity.manager.clone(),
                entry.api_version.clone(),
                entry.identity.subresource.clone(),
            )
        };
        self.entries.sort_by_cached_key(key);
        self.entries.into_iter().map(Entry::encode).collect()
    }

    /// Makes the oldest updaters one, per version, until there are no more than `most`
    /// (`capmanagers.go`). Appliers are never merged.
    pub(super) fn cap_updaters(&mut self, most: usize) {
        let is_updater = |entry: &Entry| entry.identity.operation == Operation::Update && !entry.is_empty();
        let mut count = self.entries.iter().filter(|entry| is_updater(entry)).count();
        if count <= most {
            return;
        }
        let (mut updaters, mut kept): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.entries).into_iter().partition(is_updater);
        let seconds = |entry: &Entry| {
            let time = entry.time.as_deref().and_then(|time| crate::time::Timestamp::parse(time).ok());
            time.map_or(0, |time| time.seconds)
        };
        updaters.sort_by_cached_key(|entry| (seconds(entry), entry.identity.clone()));
        // Per version the oldest updater, which takes in those that follow and then is one of the "ancient changes".
        let mut buckets: BTreeMap<String, Entry> = BTreeMap::new();
        for entry in updaters {
            if count <= most {
                kept.push(entry);
                continue;
            }
            let Some(bucket) = buckets.get_mut(&entry.api_version) else {
                buckets.insert(entry.api_version.clone(), entry);
                continue;
            };
            bucket.identity = Identity::new("ancient-changes", Operation::Update, &entry.api_version, "");
            bucket.add(entry.set().into_owned());
            bucket.time = entry.time;
            count -= 1;
        }
        // An earlier bucket among those kept is the same manager.
        for bucket in buckets.into_values() {
            match kept.iter_mut().find(|entry| entry.identity == bucket.identity) {
                Some(earlier) => earlier.add(bucket.set().into_owned()),
                None => kept.push(bucket),
            }
        }
        self.entries = kept;
    }
}
