//! Paths and their operations.
//!
//! Mirrors `registerResourceHandlers` (apiserver/pkg/endpoints/installer.go) and the naming of operations
//! (kube-openapi's `GetOperationIDAndTags`).

use super::schemas::{Schemas, gvk};
use crate::kinds::{Resource, Scope, Subresource, SubresourceBehaviour};
use skiff_machinery::{GroupVersion, Map, Value, list, object};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// `api/v1` or `apis/apps/v1`.
pub(super) fn root(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") }
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
fn camel(gv: &GroupVersion) -> String {
    let group = if gv.group.is_empty() { "core" } else { gv.group.strip_suffix(".k8s.io").unwrap_or(&gv.group) };
    group.split(['.', '-']).chain([gv.version.as_str()]).map(upper).collect()
}

fn upper(text: &str) -> String {
    let mut symbols = text.chars();
    symbols.next().map_or_else(String::new, |first| first.to_uppercase().chain(symbols).collect())
}

fn parameter(place: &str, name: &str, ty: &str) -> Value {
    let mut parameter = Map::new();
    parameter.insert("in", place);
    parameter.insert("name", name);
    parameter.insert("schema", object! { "type": ty, "uniqueItems": true });
    if place == "path" {
        parameter.insert("required", true);
    }
    Value::Object(parameter)
}

fn query(names: &[(&str, &str)]) -> Vec<Value> {
    names.iter().map(|(name, ty)| parameter("query", name, ty)).collect()
}

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

fn content(schema: &Value, protobuf: bool, stream: bool) -> Value {
    let mut types = vec!["application/json", "application/yaml"];
    if protobuf {
        types.push("application/vnd.kubernetes.protobuf");
    }
    if stream {
        types.push("application/json;stream=watch");
        if protobuf {
            types.push("application/vnd.kubernetes.protobuf;stream=watch");
        }
    }
    Value::Object(types.into_iter().map(|ty| (ty, object! { "schema": schema.clone() })).collect())
}

fn responses(codes: &[(&'static str, &str)], schema: &Value, protobuf: bool, stream: bool) -> Value {
    let mut responses = Map::new();
    for (code, description) in codes {
        let answer = object! { "description": *description, "content": content(schema, protobuf, stream) };
        responses.insert(*code, answer);
    }
    responses.insert("401", object! { "description": "Unauthorized" });
    Value::Object(responses)
}

/// One operation under construction.
struct Operation<'a> {
    verb: &'a str,
    action: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    codes: &'static [(&'static str, &'static str)],
    schema: Value,
    stream: bool,
}

struct Place<'a> {
    gv: &'a GroupVersion,
    kind: (String, String, String),
    /// What the id ends with: `NamespacedDeploymentStatus`.
    suffix: String,
    protobuf: bool,
}

impl Operation<'_> {
    fn value(self, place: &Place<'_>) -> Value {
        let mut operation = Map::new();
        operation.insert("operationId", format!("{}{}{}", self.verb, camel(place.gv), place.suffix));
        let group = if place.gv.group.is_empty() {
            "core"
        } else {
            place.gv.group.strip_suffix(".k8s.io").unwrap_or(&place.gv.group)
        };
        operation.insert("tags", list![format!("{}_{}", group.replace('.', "_"), place.gv.version)]);
        if !self.parameters.is_empty() {
            operation.insert("parameters", Value::Array(self.parameters));
        }
        if let Some(body) = self.body {
            operation.insert("requestBody", body);
        }
        operation.insert("responses", responses(self.codes, &self.schema, place.protobuf, self.stream));
        operation.insert("x-kubernetes-action", self.action);
        let (group, version, kind) = &place.kind;
        operation.insert("x-kubernetes-group-version-kind", gvk(group, version, kind));
        Value::Object(operation)
    }
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const POSTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

fn body(schema: &Value, required: bool) -> Value {
    let mut body = Map::new();
    body.insert("content", object! { "*/*": object! { "schema": schema.clone() } });
    if required {
        body.insert("required", true);
    }
    Value::Object(body)
}

fn patch_body(schemas: &mut Schemas, strategic: bool) -> Value {
    let schema = schemas.named(&format!("{META}Patch"));
    let mut types = vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if strategic {
        types.push("application/strategic-merge-patch+json");
    }
    let content: Map = types.into_iter().map(|ty| (ty, object! { "schema": schema.clone() })).collect();
    object! { "content": content, "required": true }
}

/// What stands at `get`, `put` and `patch` of a named object or of a view of it.
fn named_operations(
    item: &mut Map,
    schemas: &mut Schemas,
    place: &Place<'_>,
    verbs: &[&str],
    schema: &Value,
    strategic: bool,
) {
    let operation = |verb, action, parameters, body, codes| Operation {
        verb,
        action,
        parameters,
        body,
        codes,
        schema: schema.clone(),
        stream: false,
    };
    if verbs.contains(&"get") {
        item.insert("get", operation("read", "get", Vec::new(), None, OK).value(place));
    }
    if verbs.contains(&"update") {
        let body = Some(body(schema, true));
        item.insert("put", operation("replace", "put", query(WRITE), body, CREATED).value(place));
    }
    if verbs.contains(&"patch") {
        let body = Some(patch_body(schemas, strategic));
        item.insert("patch", operation("patch", "patch", query(PATCH), body, CREATED).value(place));
    }
}

/// Adds the paths of one version of a resource.
pub(super) fn add(paths: &mut Map, schemas: &mut Schemas, resource: &Resource, index: usize) {
    let version = &resource.versions[index];
    let gv = &version.group_version;
    let namespaced = resource.scope == Scope::Namespaced;
    let protobuf = version.custom.is_none();
    let schema = schemas.resource(resource, version);
    let list = schemas.kind(gv, &resource.list_kind);
    let base = format!("/{}", root(gv));
    let plural = &resource.name.resource;
    let (prefix, scope_word) = if namespaced {
        (format!("{base}/namespaces/{{namespace}}/{plural}"), "Namespaced")
    } else {
        (format!("{base}/{plural}"), "")
    };
    let kind = (gv.group.clone(), gv.version.clone(), resource.kind.clone());
    let place = |suffix: String| Place { gv, kind: kind.clone(), suffix, protobuf };
    let mut shared = vec![parameter("query", "pretty", "string")];
    if namespaced {
        shared.insert(0, parameter("path", "namespace", "string"));
    }
    let mut named_shared = shared.clone();
    named_shared.insert(0, parameter("path", "name", "string"));
    let verbs: &[&str] = &resource.verbs;
    let mut collection = Map::new();
    let status = schemas.named(&format!("{META}Status"));
    let options = schemas.named(&format!("{META}DeleteOptions"));
    let in_scope = place(format!("{scope_word}{}", resource.kind));
    let listing = |place: &Place<'_>| {
        let operation = Operation {
            verb: "list",
            action: "list",
            parameters: query(LIST),
            body: None,
            codes: OK,
            schema: list.clone(),
            stream: true,
        };
        operation.value(place)
    };
    if verbs.contains(&"list") {
        collection.insert("get", listing(&in_scope));
    }
    if verbs.contains(&"create") {
        let operation = Operation {
            verb: "create",
            action: "post",
            parameters: query(WRITE),
            body: Some(body(&schema, true)),
            codes: POSTED,
            schema: schema.clone(),
            stream: false,
        };
        collection.insert("post", operation.value(&in_scope));
    }
    if verbs.contains(&"deletecollection") {
        let operation = Operation {
            verb: "delete",
            action: "deletecollection",
            parameters: query(DELETE_COLLECTION),
            body: Some(body(&options, false)),
            codes: OK,
            schema: status.clone(),
            stream: false,
        };
        collection.insert("delete", operation.value(&place(format!("Collection{scope_word}{}", resource.kind))));
    }
    if !collection.is_empty() {
        collection.insert("parameters", Value::Array(shared.clone()));
        paths.insert(prefix.clone(), collection);
    }
    if namespaced && verbs.contains(&"list") {
        let mut all = Map::new();
        all.insert("get", listing(&place(format!("{}ForAllNamespaces", resource.kind))));
        all.insert("parameters", list![parameter("query", "pretty", "string")]);
        paths.insert(format!("{base}/{plural}"), all);
    }
    let mut named = Map::new();
    named_operations(&mut named, schemas, &in_scope, verbs, &schema, protobuf);
    if verbs.contains(&"delete") {
        let operation = Operation {
            verb: "delete",
            action: "delete",
            parameters: query(DELETE),
            body: Some(body(&options, false)),
            codes: DELETED,
            schema: status,
            stream: false,
        };
        named.insert("delete", operation.value(&in_scope));
    }
    if !named.is_empty() {
        named.insert("parameters", Value::Array(named_shared.clone()));
        paths.insert(format!("{prefix}/{{name}}"), named);
    }
    for sub in &resource.subresources {
        let item = subresource(schemas, resource, gv, scope_word, sub, &schema, protobuf);
        if let Some(mut item) = item {
            item.insert("parameters", Value::Array(named_shared.clone()));
            paths.insert(format!("{prefix}/{{name}}/{}", sub.name), item);
        }
    }
}

fn subresource(
    schemas: &mut Schemas,
    resource: &Resource,
    gv: &GroupVersion,
    scope_word: &str,
    sub: &Subresource,
    whole: &Value,
    protobuf: bool,
) -> Option<Map> {
    let (group, version) = sub.kind_group_version.unwrap_or((&gv.group, &gv.version));
    let kind = (group.to_owned(), version.to_owned(), sub.kind.to_owned());
    let suffix = format!("{scope_word}{}{}", resource.kind, upper(sub.name));
    let place = Place { gv, kind, suffix, protobuf };
    let mut item = Map::new();
    match sub.behaviour {
        SubresourceBehaviour::View(_) => named_operations(&mut item, schemas, &place, sub.verbs, whole, protobuf),
        SubresourceBehaviour::Scale(_) => {
            let schema = schemas.kind(&GroupVersion::new(group, version), sub.kind);
            named_operations(&mut item, schemas, &place, sub.verbs, &schema, true);
        }
        SubresourceBehaviour::Action(_) => {
            let schema = schemas.kind(&GroupVersion::new(group, version), sub.kind);
            let operation = Operation {
                verb: "create",
                action: "post",
                parameters: query(WRITE),
                body: Some(body(&schema, true)),
                codes: POSTED,
                schema,
                stream: false,
            };
            item.insert("post", operation.value(&place));
        }
        SubresourceBehaviour::Connect(_) => {
            for (verb, method) in
                [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")]
            {
                if sub.verbs.contains(&verb) {
                    let text = object! { "type": "string" };
                    let id = if sub.name == "log" { "read".to_owned() } else { format!("connect{}", upper(method)) };
                    let operation = Operation {
                        verb: &id,
                        action: "connect",
                        parameters: Vec::new(),
                        body: None,
                        codes: OK,
                        schema: text,
                        stream: false,
                    };
                    item.insert(method, operation.value(&place));
                }
            }
        }
    }
    (!item.is_empty()).then_some(item)
}

/// `/apis/apps/v1/`: what the group and version serves.
pub(super) fn resource_list(gv: &GroupVersion, schemas: &mut Schemas) -> Value {
    let schema = schemas.named(&format!("{META}APIResourceList"));
    object! {
        "get": object! {
            "operationId": format!("get{}APIResources", camel(gv)),
            "responses": responses(OK, &schema, true, false),
        },
    }
}
