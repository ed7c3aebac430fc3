//! Schemas of types: what the table says, in OpenAPI's words.

use crate::kinds::{Resource, Version};
use skiff_machinery::schema::{Field, ListKind, SchemaOr, StructRef, StructType, Type, builtin};
use skiff_machinery::{GroupVersion, Map, Value, list, object};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Where schemas stand in a document.
const PREFIX: &str = "#/components/schemas/";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Kinds by the name of their type.
type KindsByType = BTreeMap<&'static str, Vec<builtin::Kind>>;

/// The types that are kinds.
static KINDS: LazyLock<KindsByType> = LazyLock::new(|| {
    let mut kinds = KindsByType::new();
    for kind in builtin::all_kinds() {
        if let skiff_machinery::Name::Static(name) = &kind.ty.name {
            kinds.entry(name).or_default().push(kind);
        }
    }
    kinds
});

/// The schemas of one document, with everything they refer to.
pub(super) struct Schemas {
    made: BTreeMap<String, Value>,
    wanted: Vec<&'static StructType>,
}

/// `x-kubernetes-group-version-kind` of one kind.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    object! { "group": group, "version": version, "kind": kind }
}

impl Schemas {
    pub(super) fn new() -> Self {
        Self { made: BTreeMap::new(), wanted: Vec::new() }
    }

    /// A reference to a built-in type by name.
    pub(super) fn named(&mut self, name: &str) -> Value {
        match builtin::by_name(name) {
            Some(ty) => self.structure(ty),
            None => self.fixed(name, Value::Object(Map::new())),
        }
    }

    /// A reference to a kind, built in or custom.
    pub(super) fn kind(&mut self, group_version: &GroupVersion, kind: &str) -> Value {
        match builtin::by_kind(&group_version.group, &group_version.version, kind) {
            Some(ty) => self.structure(ty),
            None => reference(&custom_name(group_version, kind)),
        }
    }

    /// A reference to what a resource's version looks like.
    pub(super) fn resource(&mut self, resource: &Resource, version: &Version) -> Value {
        let Some(custom) = &version.custom else { return self.kind(&version.group_version, &resource.kind) };
        let gv = &version.group_version;
        let name = custom_name(gv, &resource.kind);
        if !self.made.contains_key(&name) {
            let metadata = self.named(&format!("{META}ObjectMeta"));
            let mut schema = custom.openapi.clone();
            if schema.as_object().is_none_or(Map::is_empty) {
                schema = object! { "type": "object", "x-kubernetes-preserve-unknown-fields": true };
            }
            if let Some(map) = schema.as_object_mut() {
                let properties = map.object_mut("properties");
                properties.insert("apiVersion", object! { "type": "string" });
                properties.insert("kind", object! { "type": "string" });
                properties.insert("metadata", object! { "allOf": list![metadata.clone()] });
                map.insert("x-kubernetes-group-version-kind", list![gvk(&gv.group, &gv.version, &resource.kind)]);
            }
            self.made.insert(name.clone(), schema);
            let list_metadata = self.named(&format!("{META}ListMeta"));
            let list = object! {
                "type": "object",
                "required": list!["items"],
                "properties": object! {
                    "apiVersion": object! { "type": "string" },
                    "kind": object! { "type": "string" },
                    "metadata": object! { "allOf": list![list_metadata] },
                    "items": object! { "type": "array", "items": reference(&name) },
                },
                "x-kubernetes-group-version-kind": list![gvk(&gv.group, &gv.version, &resource.list_kind)],
            };
            self.made.insert(custom_name(gv, &resource.list_kind), list);
        }
        reference(&name)
    }

    fn structure(&mut self, ty: &'static StructType) -> Value {
        if !self.made.contains_key(ty.name.as_str()) {
            // A place holder, so that types which refer to themselves come to an end.
            self.made.insert(ty.name.as_str().to_owned(), Value::Null);
            self.wanted.push(ty);
        }
        reference(&ty.name)
    }

    fn fixed(&mut self, name: &str, schema: Value) -> Value {
        self.made.entry(name.to_owned()).or_insert(schema);
        reference(name)
    }

    /// All schemas, references followed.
    pub(super) fn finish(mut self) -> Value {
        while let Some(ty) = self.wanted.pop() {
            let schema = self.schema_of(ty);
            self.made.insert(ty.name.as_str().to_owned(), schema);
        }
        Value::Object(self.made.into_iter().collect())
    }

    fn schema_of(&mut self, ty: &'static StructType) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in ty.fields.iter() {
            if field.name.as_str() != "kind" && field.name.as_str() != "apiVersion" && is_required(field) {
                required.push(Value::from(field.name.as_str()));
            }
            properties.insert(field.name.clone(), self.field(field));
        }
        let mut schema = Map::new();
        schema.insert("type", "object");
        if !properties.is_empty() {
            schema.insert("properties", properties);
        }
        if !required.is_empty() {
            schema.insert("required", Value::Array(required));
        }
        if ty.atomic {
            schema.insert("x-kubernetes-map-type", "atomic");
        }
        if let Some(kinds) = KINDS.get(ty.name.as_str()) {
            let kinds: Vec<Value> = kinds.iter().map(|kind| gvk(kind.group, kind.version, kind.kind)).collect();
            schema.insert("x-kubernetes-group-version-kind", Value::Array(kinds));
        }
        Value::Object(schema)
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.ty(&field.ty, field.always && !field.pointer);
        let Some(map) = schema.as_object_mut() else { return schema };
        if let Some(default) = &field.default {
            map.insert("default", default.clone());
        }
        match &field.list {
            ListKind::Atomic => {}
            ListKind::Set => {
                map.insert("x-kubernetes-list-type", "set");
            }
            ListKind::Map(keys) => {
                map.insert("x-kubernetes-list-type", "map");
                let keys: Vec<Value> = keys.iter().map(|key| key.as_str().into()).collect();
                map.insert("x-kubernetes-list-map-keys", Value::Array(keys));
            }
        }
        if field.atomic {
            map.insert("x-kubernetes-map-type", "atomic");
        }
        let strategy =
            [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")];
        let strategy: Vec<&str> = strategy.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !strategy.is_empty() {
            map.insert("x-kubernetes-patch-strategy", strategy.join(","));
        }
        if !field.merge_key.is_empty() {
            map.insert("x-kubernetes-patch-merge-key", field.merge_key.as_str());
        }
        schema
    }

    fn ty(&mut self, ty: &Type, value: bool) -> Value {
        let formatted = |ty: &str, format: &str| object! { "type": ty, "format": format };
        match ty {
            Type::Bool => object! { "type": "boolean" },
            Type::Int32 => formatted("integer", "int32"),
            Type::Int64 => formatted("integer", "int64"),
            Type::Double => formatted("number", "double"),
            Type::String => object! { "type": "string" },
            Type::Bytes => formatted("string", "byte"),
            Type::Time => self.wrapped(&format!("{META}Time"), formatted("string", "date-time")),
            Type::MicroTime => self.wrapped(&format!("{META}MicroTime"), formatted("string", "date-time")),
            Type::Duration => self.wrapped(&format!("{META}Duration"), object! { "type": "string" }),
            Type::Quantity => {
                let schema = object! { "oneOf": list![object! { "type": "string" }, object! { "type": "number" }] };
                self.wrapped("io.k8s.apimachinery.pkg.api.resource.Quantity", schema)
            }
            Type::IntOrString => {
                let either = list![object! { "type": "integer" }, object! { "type": "string" }];
                let schema = object! { "format": "int-or-string", "oneOf": either };
                self.wrapped("io.k8s.apimachinery.pkg.util.intstr.IntOrString", schema)
            }
            Type::RawExtension => {
                self.wrapped("io.k8s.apimachinery.pkg.runtime.RawExtension", object! { "type": "object" })
            }
            Type::FieldsV1 => self.wrapped(&format!("{META}FieldsV1"), object! { "type": "object" }),
            Type::Json => self.wrapped(&format!("{EXTENSIONS}JSON"), Value::Object(Map::new())),
            Type::SchemaOr(either, _) => {
                let name = match either {
                    SchemaOr::Bool => "JSONSchemaPropsOrBool",
                    SchemaOr::Array => "JSONSchemaPropsOrArray",
                    SchemaOr::StringArray => "JSONSchemaPropsOrStringArray",
                };
                self.wrapped(&format!("{EXTENSIONS}{name}"), Value::Object(Map::new()))
            }
            Type::Struct(StructRef::Builtin(ty)) => {
                let reference = self.structure(ty);
                if value {
                    object! { "allOf": list![reference], "default": Map::new() }
                } else {
                    object! { "allOf": list![reference] }
                }
            }
            Type::Struct(StructRef::Custom(_)) => object! { "type": "object" },
            Type::List(item) => {
                let item = self.ty(item, true);
                object! { "type": "array", "items": item }
            }
            Type::Map(item) => {
                let item = self.ty(item, true);
                object! { "type": "object", "additionalProperties": item }
            }
        }
    }

    fn wrapped(&mut self, name: &str, schema: Value) -> Value {
        object! { "allOf": list![self.fixed(name, schema)] }
    }
}

/// Whether a field has to be given: what Go always writes and is no struct.
fn is_required(field: &Field) -> bool {
    field.always && !field.pointer && !matches!(field.ty, Type::Struct(_) | Type::Time | Type::MicroTime)
}

fn reference(name: &str) -> Value {
    object! { "$ref": format!("{PREFIX}{name}") }
}

/// The name of a custom kind's schema: `com.example.v1.Widget` (`util.ToRESTFriendlyName`'s order).
fn custom_name(gv: &GroupVersion, kind: &str) -> String {
    let mut parts: Vec<&str> = gv.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{kind}", parts.join("."), gv.version)
}
