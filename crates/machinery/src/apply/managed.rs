//! `metadata.managedFields`: one entry per manager, operation and subresource
//! (`k8s.io/apimachinery/pkg/util/managedfields/internal/managedfields.go`).

use super::set::Set;
use crate::value::{Map, Value};

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

/// One manager's fields at one version.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) identity: Identity,
    /// The version in which the fields are written.
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) set: Set,
    /// `fieldsV1` as it was read, while the set is unchanged.
    fields: Option<Value>,
}

impl Entry {
    pub(super) fn new(identity: Identity, api_version: &str, time: Option<String>, set: Set) -> Self {
        Self { identity, api_version: api_version.to_owned(), time, set, fields: None }
    }
    /// Gives the entry another set.
    pub(super) fn replace(&mut self, set: Set) {
        self.set = set;
        self.fields = None;
    }
    /// Takes fields away.
    pub(super) fn subtract(&mut self, gone: &Set) {
        if self.set.intersects(gone) {
            self.replace(self.set.difference(gone));
        }
    }

    /// `DecodeManagedFields`; the error is upstream's.
    pub(super) fn decode(mut entry: Value, index: usize) -> Result<Self, String> {
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
        let fields = entry.get_mut("fieldsV1").map(std::mem::take).unwrap_or_default();
        let set = Set::from_fields(&fields)
            .ok_or_else(|| format!("error decoding versioned set in managed fields entry {index}"))?;
        let identity =
            Identity::new(entry.str_at(&["manager"]), operation, &api_version, entry.str_at(&["subresource"]));
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { identity, api_version, time, set, fields: Some(fields) })
    }

    fn encode(self) -> Value {
        let mut entry = Map::new();
        entry.insert("apiVersion", self.api_version);
        entry.insert("fieldsType", "FieldsV1");
        entry.insert("fieldsV1", self.fields.unwrap_or_else(|| self.set.to_fields()));
        if !self.identity.manager.is_empty() {
            entry.insert("manager", self.identity.manager);
        }
        entry.insert("operation", self.identity.operation.as_str());
        if !self.identity.subresource.is_empty() {
            entry.insert("subresource", self.identity.subresource);
        }
        if let Some(time) = self.time {
            entry.insert("time", time);
        }
        Value::Object(entry)
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

impl Managers {
    pub(super) fn decode(entries: Vec<Value>) -> Result<Self, String> {
        let mut managers = Self::default();
        for (index, entry) in entries.into_iter().enumerate() {
            let entry = Entry::decode(entry, index)?;
            // Of two entries with one identity the later stands, as in upstream's map.
            managers.entries.retain(|other| other.identity != entry.identity);
            managers.entries.push(entry);
        }
        Ok(managers)
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
        self.entries.retain(|entry| !entry.set.is_empty());
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
        let mut updaters: Vec<Identity> = self
            .entries
            .iter()
            .filter(|entry| entry.identity.operation == Operation::Update && !entry.set.is_empty())
            .map(|entry| entry.identity.clone())
            .collect();
        let mut count = updaters.len();
        if count <= most {
            return;
        }
        let seconds = |time: Option<&str>| {
            time.and_then(|time| crate::time::Timestamp::parse(time).ok()).map_or(0, |time| time.seconds)
        };
        let time_of = |identity: &Identity| {
            let entry = self.entries.iter().find(|entry| entry.identity == *identity);
            seconds(entry.and_then(|entry| entry.time.as_deref()))
        };
        updaters.sort_by_cached_key(|identity| (time_of(identity), identity.clone()));
        // The first updater seen of each version, which becomes the bucket when a second one comes.
        let mut firsts: Vec<Identity> = Vec::new();
        for identity in updaters {
            if count <= most {
                return;
            }
            let Some(first) = firsts.iter().find(|first| first.api_version == identity.api_version) else {
                firsts.push(identity);
                continue;
            };
            let bucket = Identity::new("ancient-changes", Operation::Update, &identity.api_version, "");
            if self.entries.iter().all(|entry| entry.identity != bucket)
                && let Some(mut first) = self.take(&first.clone())
            {
                first.identity = bucket.clone();
                self.entries.push(first);
            }
            if identity == bucket {
                continue;
            }
            if let Some(entry) = self.take(&identity)
                && let Some(bucket) = self.get_mut(&bucket)
            {
                bucket.replace(bucket.set.union(&entry.set));
                bucket.time = entry.time;
                count -= 1;
            }
        }
    }
}
