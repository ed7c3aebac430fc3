//! Schemas of types: what the table says, in OpenAPI's words.

use crate::kinds::{Resource, Version};
use skiff_machinery::schema::{Field, ListKind, SchemaOr, StructRef, StructType, Type, builtin};
use skiff_machinery::{GroupVersion, Map, Value, list, object};
use skiff_openapi_docs::Docs;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Where schemas stand in a document.
const PREFIX: &str = "#/components/schemas/";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Type, discriminator, and fields with their names in it.
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Types of which one field at most is set: the discriminator, if there is one, and what each field is called in it.
/// (`+union` markers in Go comments.)
const UNIONS: &[Union] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "io.k8s.api.flowcontrol.v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplateReference", "", &[("workload", "Workload")]),
];

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
    docs: Docs,
    /// The versions whose document this is: `DeleteOptions` and `WatchEvent` are kinds of every one.
    group_versions: Vec<GroupVersion>,
    made: BTreeMap<String, Value>,
    wanted: Vec<&'static StructType>,
}

/// `x-kubernetes-group-version-kind` of one kind.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    object! { "group": group, "version": version, "kind": kind }
}

impl Schemas {
    pub(super) fn new(group_versions: Vec<GroupVersion>) -> Self {
        Self { docs: Docs::unpack(), group_versions, made: BTreeMap::new(), wanted: Vec::new() }
    }

    /// A reference to a built-in type by name.
    pub(super) fn named(&mut self, name: &str) -> Value {
        match builtin::by_name(name) {
            Some(ty) => self.structure(ty),
            // `metav1.Patch`: any object.
            None => self.fixed(name, object! { "type": "object" }),
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
            let mut schema = custom.openapi.unpack();
            if schema.as_object().is_none_or(Map::is_empty) {
                schema = object! { "type": "object", "x-kubernetes-preserve-unknown-fields": true };
            }
            self.embed(&mut schema, true);
            let metadata = self.field_of(&format!("{META}ObjectMeta"), "Standard object's metadata.");
            if let Some(map) = schema.as_object_mut() {
                let properties = map.object_mut("properties");
                self.identify(properties);
                properties.insert("metadata", metadata);
                map.insert("x-kubernetes-group-version-kind", list![gvk(&gv.group, &gv.version, &resource.kind)]);
            }
            self.made.insert(name.clone(), schema);
            let list = self.custom_list(gv, resource, &name);
            self.made.insert(custom_name(gv, &resource.list_kind), list);
        }
        reference(&name)
    }

    fn custom_list(&mut self, gv: &GroupVersion, resource: &Resource, item: &str) -> Value {
        let mut properties = Map::new();
        self.identify(&mut properties);
        properties.insert("metadata", self.field_of(&format!("{META}ListMeta"), "Standard list metadata."));
        let items = object! {
            "type": "array",
            "items": reference(item),
            "description": format!("List of {}.", resource.name.resource),
        };
        properties.insert("items", items);
        object! {
            "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
            "type": "object",
            "required": list!["items"],
            "properties": properties,
            "x-kubernetes-group-version-kind": list![gvk(&gv.group, &gv.version, &resource.list_kind)],
        }
    }

    /// Objects in objects have the fields of every object (`addEmbeddedProperties`, apiextensions' builder).
    fn embed(&mut self, schema: &mut Value, top: bool) {
        let embedded = schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool) == Some(true);
        let Some(map) = schema.as_object_mut() else { return };
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get_mut(key) {
                self.embed(inner, false);
            }
        }
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            for (_, inner) in properties.iter_mut() {
                self.embed(inner, false);
            }
        }
        if embedded && !top {
            let metadata = self.field_of(&format!("{META}ObjectMeta"), "Standard object's metadata.");
            let properties = map.object_mut("properties");
            self.identify(properties);
            properties.insert("metadata", metadata);
        }
    }

    /// `kind` and `apiVersion`.
    fn identify(&self, properties: &mut Map) {
        for field in ["apiVersion", "kind"] {
            let mut schema = object! { "type": "string" };
            let said = self.docs.of_field("io.k8s.api.core.v1.Pod", field);
            if let (Some(map), Some(said)) = (schema.as_object_mut(), said) {
                map.insert("description", said);
            }
            properties.insert(field, schema);
        }
    }

    fn field_of(&mut self, ty: &str, description: &str) -> Value {
        object! { "allOf": list![self.named(ty)], "description": description }
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
        if !self.made.contains_key(name) {
            let mut schema = schema;
            if let (Some(map), Some(said)) = (schema.as_object_mut(), self.docs.of_type(name)) {
                map.insert("description", said);
            }
            self.made.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    /// Calls `each` with every schema, references followed. Whatever has been said is not kept.
    pub(super) fn finish(mut self, mut each: impl FnMut(&str, Value)) {
        while let Some(ty) = self.wanted.pop() {
            let schema = self.schema_of(ty);
            each(&ty.name, schema);
        }
        for (name, schema) in self.made {
            if !schema.is_null() {
                each(&name, schema);
            }
        }
    }

    fn schema_of(&mut self, ty: &'static StructType) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        let list = List::of(ty);
        for field in ty.fields.iter() {
            if field.published.required {
                required.push(Value::from(field.name.as_str()));
            }
            let mut schema = self.field(field);
            let said = self.docs.of_field(&ty.name, &field.name).or_else(|| match &list {
                Some(list) => list.says(&field.name, &self.docs),
                None => undescribed(ty, field),
            });
            if let Some(map) = schema.as_object_mut() {
                if let Some(said) = said {
                    map.insert("description", said);
                }
                bare_reference(map);
            }
            properties.insert(field.name.clone(), schema);
        }
        let mut schema = Map::new();
        schema.insert("type", "object");
        if let Some(said) = self.docs.of_type(&ty.name).or_else(|| Some(list?.describe())) {
            schema.insert("description", said);
        }
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
            schema.insert("x-kubernetes-group-version-kind", Value::Array(self.group_version_kinds(ty, kinds)));
        }
        if let Some((_, discriminator, fields)) = UNIONS.iter().find(|(name, _, _)| *name == ty.name.as_str()) {
            let fields: Map = fields.iter().map(|(field, name)| (*field, Value::from(*name))).collect();
            let mut union = object! { "fields-to-discriminateBy": fields };
            if let (Some(map), false) = (union.as_object_mut(), discriminator.is_empty()) {
                map.insert("discriminator", *discriminator);
            }
            schema.insert("x-kubernetes-unions", list![union]);
        }
        Value::Object(schema)
    }

    fn group_version_kinds(&self, ty: &StructType, kinds: &[builtin::Kind]) -> Vec<Value> {
        let mut all: Vec<Value> = kinds.iter().map(|kind| gvk(kind.group, kind.version, kind.kind)).collect();
        let name = ty.go_name();
        if matches!(name, "DeleteOptions" | "WatchEvent") && ty.name.starts_with(META) {
            let others = self.group_versions.iter().filter(|gv| !(gv.group.is_empty() && gv.version == "v1"));
            all.extend(others.map(|gv| gvk(&gv.group, &gv.version, name)));
        }
        all
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.ty(&field.ty);
        let Some(map) = schema.as_object_mut() else { return schema };
        if field.published.default {
            map.insert("default", field.default.clone().unwrap_or_else(|| zero(&field.ty)));
        }
        match &field.list {
            ListKind::Atomic if field.published.list_atomic => {
                map.insert("x-kubernetes-list-type", "atomic");
            }
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
        for (on, kind) in [(field.published.map_atomic, "atomic"), (field.published.map_granular, "granular")] {
            if on {
                map.insert("x-kubernetes-map-type", kind);
            }
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

    fn ty(&mut self, ty: &Type) -> Value {
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
            Type::Struct(StructRef::Builtin(ty)) => object! { "allOf": list![self.structure(ty)] },
            Type::Struct(StructRef::Custom(_)) => object! { "type": "object" },
            Type::List(item) => object! { "type": "array", "items": self.inner(item) },
            Type::Map(item) => object! { "type": "object", "additionalProperties": self.inner(item) },
        }
    }

    /// The type of an item or of a value.
    fn inner(&mut self, ty: &Type) -> Value {
        let mut schema = self.ty(ty);
        if let Some(map) = schema.as_object_mut() {
            bare_reference(map);
        }
        schema
    }

    fn wrapped(&mut self, name: &str, schema: Value) -> Value {
        object! { "allOf": list![self.fixed(name, schema)] }
    }
}

/// What the source of descriptions has not as a struct: an event of a watch.
fn undescribed(ty: &StructType, field: &Field) -> Option<String> {
    let event =
        ty.name.as_str() == "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent" && field.name.as_str() == "object";
    event.then(|| "The object as it is after the change, or was before a deletion; a Status after an error.".to_owned())
}

/// A reference stands in `allOf` only beside something else.
fn bare_reference(map: &mut Map) {
    if map.len() == 1
        && let Some(Value::Array(items)) = map.get("allOf")
        && let [only] = items.as_slice()
        && let Some(target) = only.get("$ref").cloned()
    {
        map.remove("allOf");
        map.insert("$ref", target);
    }
}

/// What Go has where nothing is given.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double => Value::Int(0),
        Type::String => Value::String(String::new()),
        _ => Value::Object(Map::new()),
    }
}

/// A list of objects of a kind, which the descriptions leave out.
struct List {
    name: String,
    kind: String,
}

impl List {
    fn of(ty: &StructType) -> Option<Self> {
        let name = ty.go_name();
        let kind = name.strip_suffix("List").filter(|_| ty.field("items").is_some())?;
        Some(Self { name: name.to_owned(), kind: kind.to_owned() })
    }

    fn describe(&self) -> String {
        format!("{} is a list of {}.", self.name, self.kind)
    }

    fn says(&self, field: &str, docs: &Docs) -> Option<String> {
        match field {
            "kind" | "apiVersion" => docs.of_field("io.k8s.api.core.v1.Pod", field),
            "metadata" => Some("Standard list metadata.".to_owned()),
            "items" => Some(format!("List of {}.", self.kind)),
            _ => None,
        }
    }
}

fn reference(name: &str) -> Value {
    object! { "$ref": format!("{PREFIX}{name}") }
}

/// The name of a custom kind's schema: `com.example.v1.Widget` (`util.ToRESTFriendlyName`'s order).
pub(super) fn custom_name(gv: &GroupVersion, kind: &str) -> String {
    let mut parts: Vec<&str> = gv.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{kind}", parts.join("."), gv.version)
}
