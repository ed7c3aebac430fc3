//! What stands in the store, as a tree; and a tree, as what clients and the store get.

use super::{Encoding, Entry, Facts, Media, Slot};
use crate::kinds::{Resource, SelectableField, StorageEncoding};
use crate::registry::wire;
use bytes::Bytes;
use skiff_machinery::schema::{StructRef, Type, builtin};
use skiff_machinery::{ApiError, GroupVersion, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One version of one resource that is served over a storage prefix. (Events are served by two resources.)
pub struct ServedVersion {
    /// The resource.
    pub resource: Arc<Resource>,
    /// Index into [`Resource::versions`].
    pub index: usize,
    /// What objects say in `apiVersion`.
    pub api_version: String,
    /// The same tree and `apiVersion` as in the store.
    same_as_storage: bool,
}

impl ServedVersion {
    fn version(&self) -> &crate::kinds::Version {
        &self.resource.versions[self.index]
    }
}

/// Trees and bytes of one storage prefix.
pub struct Codec {
    /// No two have the same.
    id: u64,
    prefix: String,
    storage: GroupVersion,
    storage_api_version: String,
    storage_encoding: StorageEncoding,
    storage_schema: Type,
    kind: String,
    versions: Vec<ServedVersion>,
    fields: Vec<SelectableField>,
}

impl Codec {
    /// For the resources that share a storage prefix; the first one's rules count for what comes from the store.
    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        let first = Arc::clone(resources.first().expect("a prefix belongs to a resource"));
        let storage_api_version = first.storage.to_string();
        let mut versions = Vec::new();
        let mut fields: Vec<SelectableField> = Vec::new();
        for resource in &resources {
            for (index, version) in resource.versions.iter().enumerate() {
                let api_version = version.group_version.to_string();
                let same_as_storage = version.conversion.is_none() && api_version == storage_api_version;
                versions.push(ServedVersion { resource: Arc::clone(resource), index, api_version, same_as_storage });
            }
            for field in &resource.selectable_fields {
                if !fields.iter().any(|own| own.name == field.name) {
                    fields.push(SelectableField { name: field.name.clone(), value: field.value });
                }
            }
        }
        let storage_schema = match versions.iter().find(|version| version.api_version == storage_api_version) {
            Some(version) => version.version().schema.clone(),
            None => builtin_type(&first.storage, &first.kind),
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            prefix: first.storage_prefix.clone(),
            storage: first.storage.clone(),
            storage_encoding: first.storage_encoding,
            kind: first.kind.clone(),
            storage_api_version,
            storage_schema,
            versions,
            fields,
        }
    }

    /// Tells codecs apart: a kind that is defined anew has another.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// `/registry/pods/`.
    pub fn key_prefix(&self) -> Bytes {
        format!("{}{}/", super::feed::ROOT, self.prefix).into()
    }
    /// The versions served over this prefix; a [`Slot`] is an index.
    pub fn versions(&self) -> &[ServedVersion] {
        &self.versions
    }
    /// The slot of a resource's version.
    pub fn slot(&self, resource: &Resource, index: usize) -> Slot {
        let found =
            self.versions.iter().position(|version| version.index == index && version.resource.name == resource.name);
        u8::try_from(found.expect("the cache was made for its resources")).expect("a kind has few versions")
    }
    /// Whether objects in this version are the stored trees.
    pub fn is_storage(&self, slot: Slot) -> bool {
        self.versions[usize::from(slot)].same_as_storage
    }
    /// The fields that selectors may name; values are in [`Facts::fields`] in this order.
    pub fn fields(&self) -> &[SelectableField] {
        &self.fields
    }

    /// What selectors look at, of a tree in the storage version.
    pub fn facts(&self, tree: &Value) -> Facts {
        let labels = tree.object_at(&["metadata", "labels"]).map(|labels| {
            labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into())).collect()
        });
        let fields = self.fields.iter().map(|field| (field.value)(tree, &field.name).into_boxed_str()).collect();
        Facts { labels: labels.unwrap_or_default(), fields }
    }

    /// The tree of a stored value in the storage version: defaults filled in as upstream does on every read, with type
    /// meta and resource version.
    pub fn decode(&self, entry: &Entry) -> Result<Value, ApiError> {
        let broken = |what: String| {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            tracing::error!(key, what, "a stored object cannot be decoded");
            ApiError::internal(format!("the stored object {key} cannot be decoded: {what}"))
        };
        let mut tree = self.decode_bytes(entry.stored()).map_err(broken)?;
        let Some(map) = tree.as_object_mut() else { return Err(broken("it is no object".to_owned())) };
        map.object_mut("metadata").insert("resourceVersion", entry.revision().to_string());
        Ok(tree)
    }

    /// The same of bytes, without resource version.
    pub fn decode_bytes(&self, stored: &[u8]) -> Result<Value, String> {
        let (api_version, mut tree) = wire::decode_stored(stored, |api_version| self.stored_type(api_version))?;
        if api_version != self.storage_api_version
            && let Some(found) = self.versions.iter().find(|version| version.api_version == api_version)
            && let Some(conversion) = &found.version().conversion
        {
            conversion.to_storage(&mut tree).map_err(|error| error.message().to_owned())?;
        }
        self.versions[0].resource.strategy.default(&self.storage, &mut tree);
        let Some(map) = tree.as_object_mut() else { return Err("it is no object".to_owned()) };
        map.insert("apiVersion", self.storage_api_version.as_str());
        map.insert("kind", self.kind.as_str());
        Ok(tree)
    }

    fn stored_type(&self, api_version: &str) -> Type {
        if api_version == self.storage_api_version {
            return self.storage_schema.clone();
        }
        match self.versions.iter().find(|version| version.api_version == api_version) {
            Some(found) => found.version().schema.clone(),
            None => GroupVersion::parse(api_version).map_or(Type::Json, |gv| builtin_type(&gv, &self.kind)),
        }
    }

    /// What is written to the store: the tree in the storage version without resource version and self link, which
    /// are taken out.
    pub fn encode_stored(&self, tree: &mut Value) -> Bytes {
        if let Some(metadata) = tree.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("selfLink");
        }
        match self.storage_encoding {
            StorageEncoding::Protobuf => {
                exact(&wire::encode_protobuf(tree, &self.storage_schema, &self.storage_api_version, &self.kind))
            }
            StorageEncoding::Json => exact(&wire::encode_json(tree, &self.storage_schema)),
        }
    }

    /// A tree of the storage version in a served version.
    pub fn served(&self, tree: &Value, slot: Slot) -> Result<Value, ApiError> {
        let served = &self.versions[usize::from(slot)];
        let mut tree = tree.clone();
        if !served.same_as_storage {
            if let Some(conversion) = &served.version().conversion {
                conversion.to_served(&mut tree)?;
            }
            if let Some(map) = tree.as_object_mut() {
                map.insert("apiVersion", served.api_version.as_str());
                map.insert("kind", served.resource.kind.as_str());
            }
        }
        Ok(tree)
    }

    /// A tree of a served version in the storage version.
    pub fn to_storage(&self, tree: &mut Value, slot: Slot) -> Result<(), ApiError> {
        let served = &self.versions[usize::from(slot)];
        if served.same_as_storage {
            return Ok(());
        }
        if let Some(conversion) = &served.version().conversion {
            conversion.to_storage(tree)?;
        }
        if let Some(map) = tree.as_object_mut() {
            map.insert("apiVersion", self.storage_api_version.as_str());
        }
        Ok(())
    }

    /// What converts to a served version by asking somebody, if it does.
    pub fn asking(&self, slot: Slot) -> Option<&Arc<dyn crate::kinds::Conversion>> {
        self.versions[usize::from(slot)].version().conversion.as_ref().filter(|conversion| conversion.asks_others())
    }

    /// A tree of the storage version, which holds its resource version, as clients of a served version see it.
    pub fn encode_served(&self, tree: &Value, slot: Slot, media: Media) -> Result<Encoding, ApiError> {
        let served = &self.versions[usize::from(slot)];
        let converted;
        let tree = if served.same_as_storage {
            tree
        } else {
            converted = self.served(tree, slot)?;
            &converted
        };
        encode_tree(tree, &served.version().schema, media)
    }
}

/// A served tree as bytes with their parts.
pub fn encode_tree(tree: &Value, schema: &Type, media: Media) -> Result<Encoding, ApiError> {
    let (bytes, parts) = match media {
        Media::Json => {
            let bytes = wire::encode_json(tree, schema);
            let parts = wire::json_parts(&bytes);
            (bytes, parts)
        }
        Media::Protobuf => {
            let bytes = wire::encode_protobuf(tree, schema, tree.str_at(&["apiVersion"]), tree.str_at(&["kind"]));
            let parts = wire::protobuf_parts(&bytes);
            (bytes, parts)
        }
    };
    let parts = parts.ok_or_else(|| ApiError::internal("an object was encoded without metadata"))?;
    Ok(Encoding::new(exact(&bytes), parts))
}

/// What stays in memory takes what it needs: buffers grown while writing are up to twice as large.
fn exact(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn builtin_type(group_version: &GroupVersion, kind: &str) -> Type {
    builtin::by_kind(&group_version.group, &group_version.version, kind)
        .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)))
}
