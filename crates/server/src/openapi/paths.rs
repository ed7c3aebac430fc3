//! Paths and their operations.
//!
//! Mirrors `registerResourceHandlers` (apiserver/pkg/endpoints/installer.go), the naming of operations (kube-openapi's
//! `GetOperationIDAndTags`) and `buildPaths` (what all operations of a path have in common stands at the path).

use super::parameters::{self, CONNECT, DELETE, DELETE_COLLECTION, LIST, PATCH, WRITE, parameter, query};
use super::schemas::{Schemas, gvk};
use crate::kinds::{Resource, Scope, Subresource, SubresourceBehaviour};
use crate::registry::answers_with_object;
use skiff_machinery::{GroupVersion, Map, Value, list, object};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const JSON: &[&str] = &["application/json", "application/yaml"];
const BUILTIN: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// `api/v1` or `apis/apps/v1`.
pub(super) fn root(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("api/{}", gv.version) } else { format!("apis/{gv}") }
}

/// `Apps`, `Core`, `RbacAuthorization`.
fn camel_group(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split(['.', '-']).map(upper).collect()
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
fn camel(gv: &GroupVersion) -> String {
    camel_group(&gv.group) + &upper(&gv.version)
}

/// `rbacAuthorization`.
fn lower_camel(group: &str) -> String {
    let text = camel_group(group);
    let mut symbols = text.chars();
    symbols.next().map_or_else(String::new, |first| first.to_lowercase().chain(symbols).collect())
}

fn upper(text: &str) -> String {
    let mut symbols = text.chars();
    symbols.next().map_or_else(String::new, |first| first.to_uppercase().chain(symbols).collect())
}

fn content(schema: &Value, types: &[&str]) -> Value {
    let types: Vec<String> = types.iter().map(|ty| (*ty).to_owned()).collect();
    Value::Object(types.into_iter().map(|ty| (ty, object! { "schema": schema.clone() })).collect())
}

fn responses(codes: &[(&'static str, &str)], schema: &Value, types: &[&str]) -> Value {
    let mut responses = Map::new();
    for (code, description) in codes {
        responses.insert(*code, object! { "description": *description, "content": content(schema, types) });
    }
    responses.insert("401", object! { "description": "Unauthorized" });
    Value::Object(responses)
}

/// One operation under construction.
struct Operation<'a> {
    /// What the id begins with.
    verb: &'a str,
    /// What the id ends with: `NamespacedDeploymentStatus`.
    suffix: String,
    action: &'static str,
    description: String,
    parameters: Vec<Value>,
    body: Option<Value>,
    codes: &'static [(&'static str, &'static str)],
    schema: Value,
    produces: Vec<&'static str>,
}

/// What the operations of a resource share.
struct Place<'a> {
    gv: &'a GroupVersion,
    kind: (String, String, String),
}

impl Operation<'_> {
    fn value(self, place: &Place<'_>) -> Value {
        let mut operation = Map::new();
        operation.insert("description", self.description);
        operation.insert("operationId", format!("{}{}{}", self.verb, camel(place.gv), self.suffix));
        operation.insert("tags", list![tag(place.gv)]);
        operation.insert("parameters", Value::Array(self.parameters));
        if let Some(body) = self.body {
            operation.insert("requestBody", body);
        }
        operation.insert("responses", responses(self.codes, &self.schema, &self.produces));
        operation.insert("x-kubernetes-action", self.action);
        let (group, version, kind) = &place.kind;
        operation.insert("x-kubernetes-group-version-kind", gvk(group, version, kind));
        Value::Object(operation)
    }
}

fn tag(gv: &GroupVersion) -> String {
    format!("{}_{}", lower_camel(&gv.group), gv.version)
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
    object! { "content": content(&schema, &types), "required": true }
}

/// A path with its operations; what they have in common moves to the path.
fn item(operations: Vec<(&'static str, Value)>) -> Value {
    let of = |operation: &Value| operation.items_at(&["parameters"]).to_vec();
    let mut common: Vec<Value> = operations.first().map(|(_, operation)| of(operation)).unwrap_or_default();
    for (_, operation) in &operations {
        let own = of(operation);
        common.retain(|parameter| own.contains(parameter));
    }
    let mut item = Map::new();
    for (method, mut operation) in operations {
        let mut own = of(&operation);
        own.retain(|parameter| !common.contains(parameter));
        parameters::sort(&mut own);
        if let Some(map) = operation.as_object_mut() {
            if own.is_empty() {
                map.remove("parameters");
            } else {
                map.insert("parameters", Value::Array(own));
            }
        }
        item.insert(method, operation);
    }
    parameters::sort(&mut common);
    if !common.is_empty() {
        item.insert("parameters", Value::Array(common));
    }
    Value::Object(item)
}

/// One version of a resource on its way into the document.
struct Writer<'a, 's> {
    schemas: &'s mut Schemas,
    resource: &'a Resource,
    gv: &'a GroupVersion,
    builtin: bool,
    schema: Value,
    /// `Namespaced`, or nothing.
    scope_word: &'static str,
}

/// Adds the paths of one version of a resource by calling `add` with each.
pub(super) fn add(schemas: &mut Schemas, resource: &Resource, index: usize, mut add: impl FnMut(String, Value)) {
    let version = &resource.versions[index];
    let schema = schemas.resource(resource, version);
    let namespaced = resource.scope == Scope::Namespaced;
    let scope_word = if namespaced { "Namespaced" } else { "" };
    let builtin = version.custom.is_none();
    let mut writer = Writer { schemas, resource, gv: &version.group_version, builtin, schema, scope_word };
    writer.write(namespaced, &mut add);
}

impl Writer<'_, '_> {
    fn place(&self) -> Place<'_> {
        let kind = (self.gv.group.clone(), self.gv.version.clone(), self.resource.kind.clone());
        Place { gv: self.gv, kind }
    }

    fn produces(&self) -> Vec<&'static str> {
        if self.builtin { BUILTIN.to_vec() } else { JSON.to_vec() }
    }

    fn stream_produces(&self) -> Vec<&'static str> {
        let mut types = self.produces();
        types.push("application/json;stream=watch");
        if self.builtin {
            types.push("application/vnd.kubernetes.protobuf;stream=watch");
        }
        types
    }

    fn write(&mut self, namespaced: bool, add: &mut impl FnMut(String, Value)) {
        let base = format!("/{}", root(self.gv));
        let resource = self.resource;
        let plural = &resource.name.resource;
        let pretty = parameters::pretty();
        let (below, shared) = if namespaced {
            (format!("namespaces/{{namespace}}/{plural}"), vec![parameters::namespace(), pretty.clone()])
        } else {
            (plural.clone(), vec![pretty.clone()])
        };
        let mut named_shared = shared.clone();
        named_shared.push(parameters::name(&resource.kind));
        let collection = self.collection(&shared);
        if !collection.is_empty() {
            add(format!("{base}/{below}"), item(collection));
        }
        let named = self.named(&named_shared);
        if !named.is_empty() {
            add(format!("{base}/{below}/{{name}}"), item(named));
        }
        let verbs = &resource.verbs;
        if namespaced && verbs.contains(&"list") {
            let suffix = format!("{}ForAllNamespaces", resource.kind);
            add(format!("{base}/{plural}"), item(vec![("get", self.list(vec![pretty.clone()], suffix))]));
        }
        for sub in &resource.subresources {
            self.subresource(sub, &format!("{base}/{below}/{{name}}/{}", sub.name), &named_shared, add);
        }
        if !verbs.contains(&"watch") {
            return;
        }
        let kind = &resource.kind;
        let one = format!("{}{kind}", self.scope_word);
        let list = format!("{one}List");
        let said = "watch individual changes to a list of";
        add(format!("{base}/watch/{below}"), self.watch(shared, list, "watchlist", said));
        if verbs.contains(&"get") {
            let said = "watch changes to an object of kind";
            add(format!("{base}/watch/{below}/{{name}}"), self.watch(named_shared, one, "watch", said));
        }
        if namespaced {
            let all = format!("{kind}ListForAllNamespaces");
            add(format!("{base}/watch/{plural}"), self.watch(vec![pretty], all, "watchlist", said));
        }
    }

    fn list(&mut self, mut shared: Vec<Value>, suffix: String) -> Value {
        shared.extend(query(LIST));
        let operation = Operation {
            verb: "list",
            suffix,
            action: "list",
            description: format!("list or watch objects of kind {}", self.resource.kind),
            parameters: shared,
            body: None,
            codes: OK,
            schema: self.schemas.kind(self.gv, &self.resource.list_kind),
            produces: self.stream_produces(),
        };
        operation.value(&self.place())
    }

    /// The paths from before watching was a parameter.
    fn watch(&mut self, mut shared: Vec<Value>, suffix: String, action: &'static str, said: &str) -> Value {
        shared.extend(query(LIST));
        let operation = Operation {
            verb: "watch",
            suffix,
            action,
            description: format!("{said} {}. deprecated: use the 'watch' parameter with a list.", self.resource.kind),
            parameters: shared,
            body: None,
            codes: OK,
            schema: self.schemas.named(&format!("{META}WatchEvent")),
            produces: self.stream_produces(),
        };
        item(vec![("get", operation.value(&self.place()))])
    }

    /// What can be done with all objects at once.
    fn collection(&mut self, shared: &[Value]) -> Vec<(&'static str, Value)> {
        let resource = self.resource;
        let verbs = &resource.verbs;
        let kind = &resource.kind;
        let with = |names| [shared.to_vec(), query(names)].concat();
        let mut operations = Vec::new();
        if verbs.contains(&"list") {
            let suffix = format!("{}{kind}", self.scope_word);
            operations.push(("get", self.list(shared.to_vec(), suffix)));
        }
        if verbs.contains(&"create") {
            let operation = Operation {
                verb: "create",
                suffix: format!("{}{kind}", self.scope_word),
                action: "post",
                description: format!("create {kind}"),
                parameters: with(WRITE),
                body: Some(body(&self.schema, true)),
                codes: POSTED,
                schema: self.schema.clone(),
                produces: self.produces(),
            };
            operations.push(("post", operation.value(&self.place())));
        }
        if verbs.contains(&"deletecollection") {
            let options = self.schemas.named(&format!("{META}DeleteOptions"));
            let operation = Operation {
                verb: "delete",
                suffix: format!("Collection{}{kind}", self.scope_word),
                action: "deletecollection",
                description: format!("delete a collection of {kind}"),
                parameters: with(DELETE_COLLECTION),
                body: Some(body(&options, false)),
                codes: OK,
                schema: self.schemas.named(&format!("{META}Status")),
                produces: self.produces(),
            };
            operations.push(("delete", operation.value(&self.place())));
        }
        operations
    }

    /// What can be done with one object.
    fn named(&mut self, shared: &[Value]) -> Vec<(&'static str, Value)> {
        let resource = self.resource;
        let schema = self.schema.clone();
        let suffix = format!("{}{}", self.scope_word, resource.kind);
        let place = (self.gv.group.clone(), self.gv.version.clone(), resource.kind.clone());
        let mut operations = self.view(&resource.verbs, shared, &schema, &suffix, place, &resource.kind);
        if resource.verbs.contains(&"delete") {
            let options = self.schemas.named(&format!("{META}DeleteOptions"));
            let operation = Operation {
                verb: "delete",
                suffix,
                action: "delete",
                description: format!("delete {}", resource.kind),
                parameters: [shared.to_vec(), query(DELETE)].concat(),
                body: Some(body(&options, false)),
                codes: DELETED,
                schema: if answers_with_object(&resource.name) {
                    schema
                } else {
                    self.schemas.named(&format!("{META}Status"))
                },
                produces: self.produces(),
            };
            operations.push(("delete", operation.value(&self.place())));
        }
        operations
    }

    /// `get`, `put` and `patch` of a named object or of a view of it.
    fn view(
        &mut self,
        verbs: &[&str],
        shared: &[Value],
        schema: &Value,
        suffix: &str,
        kind: (String, String, String),
        what: &str,
    ) -> Vec<(&'static str, Value)> {
        let with = |names| [shared.to_vec(), query(names)].concat();
        let place = Place { gv: self.gv, kind };
        let produces = self.produces();
        let operation = |verb, action, said: &str, parameters, body, codes| Operation {
            verb,
            suffix: suffix.to_owned(),
            action,
            description: format!("{said} the specified {what}"),
            parameters,
            body,
            codes,
            schema: schema.clone(),
            produces: produces.clone(),
        };
        let mut operations = Vec::new();
        if verbs.contains(&"get") {
            operations.push(("get", operation("read", "get", "read", shared.to_vec(), None, OK).value(&place)));
        }
        if verbs.contains(&"update") {
            let body = Some(body(schema, true));
            let operation = operation("replace", "put", "replace", with(WRITE), body, CREATED);
            operations.push(("put", operation.value(&place)));
        }
        if verbs.contains(&"patch") {
            let body = Some(patch_body(self.schemas, self.builtin));
            let operation = operation("patch", "patch", "partially update", with(PATCH), body, CREATED);
            operations.push(("patch", operation.value(&place)));
        }
        operations
    }

    fn subresource(&mut self, sub: &Subresource, path: &str, shared: &[Value], add: &mut impl FnMut(String, Value)) {
        let (group, version) = sub.kind_group_version.unwrap_or((&self.gv.group, &self.gv.version));
        let kind = (group.to_owned(), version.to_owned(), sub.kind.to_owned());
        let suffix = format!("{}{}{}", self.scope_word, self.resource.kind, upper(sub.name));
        let what = format!("{} of {}", sub.name, self.resource.kind);
        let operations = match sub.behaviour {
            SubresourceBehaviour::View(_) => {
                let schema = self.schema.clone();
                self.view(sub.verbs, shared, &schema, &suffix, kind, &what)
            }
            SubresourceBehaviour::Scale(_) => {
                let schema = self.schemas.kind(&GroupVersion::new(group, version), sub.kind);
                self.view(sub.verbs, shared, &schema, &suffix, kind, &what)
            }
            SubresourceBehaviour::Action(_) => {
                let schema = self.schemas.kind(&GroupVersion::new(group, version), sub.kind);
                let operation = Operation {
                    verb: "create",
                    suffix,
                    action: "post",
                    description: format!("create {what}"),
                    parameters: [shared.to_vec(), query(WRITE)].concat(),
                    body: Some(body(&schema, true)),
                    codes: POSTED,
                    schema,
                    produces: self.produces(),
                };
                vec![("post", operation.value(&Place { gv: self.gv, kind }))]
            }
            SubresourceBehaviour::Connect("log") => vec![("get", self.log(shared, suffix))],
            SubresourceBehaviour::Connect(_) => {
                // Options of a connection are one kind for each subresource; `pretty` means nothing there.
                let shared: Vec<Value> =
                    shared.iter().filter(|parameter| parameter.str_at(&["name"]) != "pretty").cloned().collect();
                let all = sub.verbs.contains(&"delete");
                if all {
                    let mut below = shared.clone();
                    below.push(parameter("path", "path", "string", "path to the resource"));
                    let operations = self.connect(sub, &below, &format!("{suffix}WithPath"), &kind);
                    add(format!("{path}/{{path}}"), item(operations));
                }
                self.connect(sub, &shared, &suffix, &kind)
            }
        };
        if !operations.is_empty() {
            add(path.to_owned(), item(operations));
        }
    }

    fn connect(
        &self,
        sub: &Subresource,
        shared: &[Value],
        suffix: &str,
        kind: &(String, String, String),
    ) -> Vec<(&'static str, Value)> {
        let mut operations = Vec::new();
        let proxied = sub.verbs.contains(&"delete");
        for (verb, method) in CONNECT {
            if !(sub.verbs.contains(verb) || proxied && verb.is_empty()) {
                continue;
            }
            let operation = Operation {
                verb: "connect",
                suffix: String::new(),
                action: "connect",
                description: format!(
                    "connect {} requests to {} of {}",
                    method.to_uppercase(),
                    sub.name,
                    self.resource.kind
                ),
                parameters: [shared.to_vec(), parameters::options(&kind.0, &kind.1, &kind.2)].concat(),
                body: None,
                codes: OK,
                schema: object! { "type": "string" },
                produces: vec!["*/*"],
            };
            let mut operation = operation.value(&Place { gv: self.gv, kind: kind.clone() });
            if let Some(map) = operation.as_object_mut() {
                // The method stands after the group here.
                map.insert("operationId", format!("connect{}{}{suffix}", camel(self.gv), upper(method)));
            }
            operations.push((*method, operation));
        }
        operations
    }

    fn log(&self, shared: &[Value], suffix: String) -> Value {
        let mut produces = self.produces();
        produces.insert(0, "text/plain");
        let operation = Operation {
            verb: "read",
            suffix,
            action: "get",
            description: "read log of the specified Pod".to_owned(),
            parameters: [shared.to_vec(), parameters::options("", "v1", "PodLogOptions")].concat(),
            body: None,
            codes: OK,
            schema: object! { "type": "string" },
            produces,
        };
        operation.value(&self.place())
    }
}

/// A path that answers one thing to a GET and takes nothing.
fn plain(id: String, tag: String, description: &str, schema: &Value, types: &[&str]) -> Value {
    let get = object! {
        "description": description.to_owned(),
        "operationId": id,
        "tags": list![tag],
        "responses": responses(OK, schema, types),
    };
    object! { "get": get }
}

/// `/apis/apps/v1/`: what the group and version serves.
pub(super) fn resource_list(gv: &GroupVersion, schemas: &mut Schemas) -> (String, Value) {
    let schema = schemas.named(&format!("{META}APIResourceList"));
    let id = format!("get{}APIResources", camel(gv));
    (format!("/{}/", root(gv)), plain(id, tag(gv), "get available resources", &schema, BUILTIN))
}

/// `/apis/apps/`: the versions of a group.
pub(super) fn group(group: &str, schemas: &mut Schemas) -> (String, Value) {
    let schema = schemas.named(&format!("{META}APIGroup"));
    let id = format!("get{}APIGroup", camel_group(group));
    (format!("/apis/{group}/"), plain(id, lower_camel(group), "get information of a group", &schema, BUILTIN))
}

/// The path of a document that belongs to no group.
pub(super) fn other(document: &str, schemas: &mut Schemas) -> (String, Value) {
    let text = object! { "type": "string" };
    let (id, tag, said, schema, types): (_, _, _, _, &[&str]) = match document {
        "api" => {
            let schema = schemas.named(&format!("{META}APIVersions"));
            ("getCoreAPIVersions", "core", "get available API versions", schema, BUILTIN)
        }
        "apis" => {
            let schema = schemas.named(&format!("{META}APIGroupList"));
            ("getAPIVersions", "apis", "get available API groups", schema, BUILTIN)
        }
        "version" => {
            let schema = schemas.named("io.k8s.apimachinery.pkg.version.Info");
            ("getCodeVersion", "version", "get the version of this server", schema, &JSON[..1])
        }
        "openid/v1/jwks" => {
            let said = "get the keys that verify tokens of service accounts";
            ("getServiceAccountIssuerOpenIDKeyset", "openid", said, text, &["application/jwk-set+json"])
        }
        _ => {
            let said = "get the OpenID configuration of the issuer of service account tokens";
            ("getServiceAccountIssuerOpenIDConfiguration", "WellKnown", said, text, &JSON[..1])
        }
    };
    (format!("/{document}/"), plain(id.to_owned(), tag.to_owned(), said, &schema, types))
}
