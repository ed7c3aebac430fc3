//! From a request that passed the filters to a verb on a kind.

use super::create::{Write, Written};
use super::delete::{self, Deleted};
use super::list::ListAnswer;
use super::managed::{self, Writer};
use super::negotiate::{self, Accepted, Format, Offer};
use super::patch::{self, Patch};
use super::respond::{self, Scope};
use super::select::Selection;
use super::table::{IncludeObject, ListMeta, TableOptions};
use super::update::Rules;
use super::{Registry, decode, scale};
use crate::answer;
use crate::front::ApiRequest;
use crate::kinds::{ScalePaths, Strategy, Subresource, SubresourceBehaviour};
use crate::request::Query;
use crate::request::options::{self, DeleteOptions, ListOptions, WriteOptions};
use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{Response, StatusCode};
use parking_lot::Mutex;
use skiff_machinery::codec::{FieldValidation, protobuf};
use skiff_machinery::error::Details;
use skiff_machinery::schema::{StructRef, Type, builtin};
use skiff_machinery::{ApiError, Reason, Value};
use skiff_net::Body;
use std::sync::Arc;

/// Header by which a caller in this process says that it takes objects instead of bytes.
const ACCEPT_IN_PROCESS: &str = "skiff-accept-in-process";

/// 405 in the words of upstream's router.
fn not_allowed() -> ApiError {
    let text = "the server does not allow this method on the requested resource";
    ApiError::new(405, Reason::MethodNotAllowed, text).with_details(Details::default())
}

/// Everything about a request that its verb needs.
struct Asked<'a> {
    request: &'a ApiRequest,
    body: bytes::Bytes,
    query: Query<'a>,
    in_process: bool,
}

impl Asked<'_> {
    fn text(&self, header: &http::HeaderName) -> &str {
        self.request.parts.headers.get(header).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
    fn pretty(&self) -> Option<bool> {
        self.query.get("pretty").map(|text| text != "0" && !text.eq_ignore_ascii_case("false"))
    }
    fn accepted(&self, offer: Offer, list: bool) -> Result<Accepted, ApiError> {
        negotiate::accepted(&self.request.parts.headers, offer, self.pretty(), list)
    }
    fn format(&self, protobuf: bool) -> Result<Format, ApiError> {
        negotiate::body_format(&self.request.parts.headers, protobuf)
    }
    fn manager(&self, options: &WriteOptions) -> String {
        managed::manager_or_user_agent(&options.field_manager, self.text(&USER_AGENT))
    }
}

impl Registry {
    /// Answers a request for a resource.
    pub async fn answer(self: &Arc<Self>, mut request: ApiRequest) -> Response<Body> {
        match self.try_answer(&mut request).await {
            Ok(answer) => answer,
            Err(error) => answer::error(&error, &request.parts.headers),
        }
    }

    async fn try_answer(self: &Arc<Self>, request: &mut ApiRequest) -> Result<Response<Body>, ApiError> {
        let info = Arc::clone(&request.context.info);
        let resources = self.resources();
        let found = resources.find(&info.group, &info.version, &info.resource);
        let (resource, version) = found.ok_or_else(ApiError::generic_not_found)?;
        let subresource = match info.subresource.as_str() {
            "" => None,
            name => Some(
                resource.subresources.iter().find(|sub| sub.name == name).ok_or_else(ApiError::generic_not_found)?,
            ),
        };
        let namespaced = resource.scope == crate::kinds::Scope::Namespaced;
        // A namespace's own path names it twice.
        let is_namespaces = info.group.is_empty() && info.resource == "namespaces";
        if !namespaced && !info.namespace.is_empty() && !is_namespaces {
            return Err(ApiError::generic_not_found());
        }
        let verbs: &[&str] = subresource.map_or(&resource.verbs, |sub| sub.verbs);
        let named_without_namespace =
            namespaced && info.namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch");
        if named_without_namespace && resource.action.is_none() {
            // `/api/v1/pods` can be listed and watched; `/api/v1/pods/x` is no path at all.
            return Err(if info.name.is_empty() { not_allowed() } else { ApiError::generic_not_found() });
        }
        // What is proxied is asked by any method; its own path has to answer OPTIONS too.
        let proxied = info.subresource == "proxy" && request.parts.method == http::Method::OPTIONS;
        if !proxied && !verbs.contains(&info.verb.as_str()) {
            return Err(not_allowed());
        }
        // `POST .../pods/x` and `PUT .../pods` are no routes of upstream's.
        let names_one = !info.name.is_empty();
        let wrong_path = match info.verb.as_str() {
            "create" => names_one && subresource.is_none(),
            "update" | "patch" => !names_one,
            _ => false,
        };
        if wrong_path {
            return Err(not_allowed());
        }
        let deprecation = resource.versions[version].deprecation_warning.clone();
        let mut answer = self.act_on(request, resource, version, subresource).await?;
        respond::warn(&mut answer, deprecation.as_slice());
        Ok(answer)
    }

    async fn act_on(
        self: &Arc<Self>,
        request: &mut ApiRequest,
        resource: &Arc<crate::kinds::Resource>,
        version: usize,
        subresource: Option<&Subresource>,
    ) -> Result<Response<Body>, ApiError> {
        let streams = matches!(subresource.map(|sub| &sub.behaviour), Some(SubresourceBehaviour::Connect(_)));
        let body = if streams { bytes::Bytes::new() } else { request.read_body().await? };
        let in_process = request.peer.in_process.is_some() && request.parts.headers.contains_key(ACCEPT_IN_PROCESS);
        let Some(cache) = self.cache_of(resource) else {
            let asked = Asked { query: Query::of(&request.parts.uri), request, body, in_process };
            return self.virtual_kind(&asked, resource, version).await;
        };
        let slot = cache.codec().slot(resource, version);
        let scope = Scope { resource: Arc::clone(resource), version, cache, slot };
        if let Some(SubresourceBehaviour::Connect(name)) = subresource.map(|sub| &sub.behaviour) {
            return self.connect(request, &scope, name).await;
        }
        let info = Arc::clone(&request.context.info);
        let uri = request.parts.uri.clone();
        let query = Query::of(&uri);
        request.context.dry_run = query.all("dryRun").any(|value| value == "All");
        let asked = Asked { query: Query::of(&uri), request, body, in_process };
        let strategy = &*scope.resource.strategy;
        match (subresource.map(|sub| &sub.behaviour), info.verb.as_str()) {
            (None, "get") => self.answer_get(&asked, &scope).await,
            (None, "list") => self.answer_list(&asked, &scope).await,
            (None, "watch") => self.answer_watch(&asked, &scope).await,
            (None, "create") => self.answer_create(&asked, &scope).await,
            (None, "update") => self.answer_update(&asked, &scope, strategy).await,
            (None, "patch") => self.answer_patch(&asked, &scope, strategy).await,
            (None, "delete") => self.answer_delete(&asked, &scope).await,
            (None, "deletecollection") => self.answer_delete_collection(&asked, &scope).await,
            (Some(SubresourceBehaviour::View(_)), "get") => self.answer_get(&asked, &scope).await,
            (Some(SubresourceBehaviour::View(view)), "update") => self.answer_update(&asked, &scope, &**view).await,
            (Some(SubresourceBehaviour::View(view)), "patch") => self.answer_patch(&asked, &scope, &**view).await,
            (Some(SubresourceBehaviour::Scale(paths)), verb) => self.answer_scale(&asked, &scope, paths, verb).await,
            (Some(SubresourceBehaviour::Action(name)), "create") => self.answer_action(&asked, &scope, name).await,
            _ => Err(not_allowed()),
        }
    }

    fn table_options(&self, asked: &Asked<'_>) -> Result<TableOptions, ApiError> {
        let include = IncludeObject::parse(asked.query.get("includeObject").unwrap_or_default())?;
        let since = self.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(TableOptions { include, now: i64::try_from(since.as_secs()).unwrap_or(i64::MAX) })
    }

    fn offer(scope: &Scope) -> Offer {
        Offer { protobuf: scope.is_builtin(), shapes: true, stream: false }
    }

    async fn answer_get(&self, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), false)?;
        let info = &asked.request.context.info;
        let namespace = object_namespace(scope, &info.namespace);
        let revision = asked.query.get("resourceVersion").unwrap_or_default();
        let entry = self.get_entry(scope, namespace, &info.name, revision).await?;
        respond::object(StatusCode::OK, scope, &entry, accepted, self.table_options(asked)?).await
    }

    async fn answer_list(&self, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), true)?;
        let options = ListOptions::parse(&asked.query, true)?;
        let gzip =
            asked.text(&ACCEPT_ENCODING).split(',').any(|coding| coding.trim().split(';').next() == Some("gzip"));
        let answer = ListAnswer { accepted, table_options: self.table_options(asked)?, gzip };
        self.list(scope, &asked.request.context.info.namespace, &options, answer, asked.in_process).await
    }

    async fn answer_watch(self: &Arc<Self>, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Offer { stream: true, ..Self::offer(scope) }, true)?;
        let mut options = ListOptions::parse(&asked.query, true)?;
        let info = &asked.request.context.info;
        // `/api/v1/watch/namespaces/a/pods/b`: the name is in the path.
        if !options.watch && !info.name.is_empty() && options.field_selector.is_empty() {
            options.field_selector = format!("metadata.name={}", info.name);
        }
        self.watch(scope, &info.namespace, &options, accepted, self.table_options(asked)?, asked.in_process).await
    }

    async fn answer_create(&self, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), false)?;
        let write_options = WriteOptions::parse(&asked.query, options::Write::Create)?;
        let format = asked.format(scope.is_builtin())?;
        let (object, mut warnings) = decode::object(&asked.body, format, scope, write_options.field_validation)?;
        let context = &asked.request.context;
        let manager = asked.manager(&write_options);
        let strategy = &*scope.resource.strategy;
        let writer = Writer { manager: &manager, subresource: "", now: &context.now, reset: strategy.reset_fields() };
        let write = Write {
            scope,
            context,
            namespace: &context.info.namespace,
            name: "",
            subresource: "",
            strategy,
            options: Some(write_options.to_object(options::Write::Create, &asked.query)),
        };
        let written = self.create(&write, object, &writer).await?;
        warnings.extend_from_slice(&written.warnings);
        self.answer_written(asked, scope, &written, accepted, &warnings).await
    }

    async fn answer_written(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        written: &Written,
        accepted: Accepted,
        warnings: &[String],
    ) -> Result<Response<Body>, ApiError> {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut answer = respond::object(status, scope, &written.entry, accepted, self.table_options(asked)?).await?;
        respond::warn(&mut answer, warnings);
        Ok(answer)
    }

    async fn answer_update(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        strategy: &dyn Strategy,
    ) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), false)?;
        let write_options = WriteOptions::parse(&asked.query, options::Write::Update)?;
        let format = asked.format(scope.is_builtin())?;
        let (mut object, mut warnings) = decode::object(&asked.body, format, scope, write_options.field_validation)?;
        let context = &asked.request.context;
        let info = &context.info;
        let namespace = object_namespace(scope, &info.namespace);
        let name = super::meta::text(&object, "name");
        check_name(name, &info.name)?;
        super::meta::match_namespace(&mut object, namespace)?;
        scope.resource.strategy.default(&scope.version().group_version, &mut object);
        let manager = asked.manager(&write_options);
        let writer = Writer {
            manager: &manager,
            subresource: &info.subresource,
            now: &context.now,
            reset: strategy.reset_fields(),
        };
        let write = Write {
            scope,
            context,
            namespace,
            name: &info.name,
            subresource: &info.subresource,
            strategy,
            options: Some(write_options.to_object(options::Write::Update, &asked.query)),
        };
        let create = strategy.allow_create_on_update() && info.subresource.is_empty();
        let make = |old: super::update::Existing<'_>| match old {
            Some(old) => patch::to_storage(scope, &writer, old, object.clone()),
            None => {
                let mut object = object.clone();
                managed::created(scope, &writer, &mut object);
                scope.cache.codec().to_storage(&mut object, scope.slot)?;
                Ok(object)
            }
        };
        let written = self.update(&write, Rules { create, uid_is_precondition: true }, &make).await?;
        warnings.extend_from_slice(&written.warnings);
        self.answer_written(asked, scope, &written, accepted, &warnings).await
    }

    async fn answer_patch(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        strategy: &dyn Strategy,
    ) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), false)?;
        let headers = &asked.request.parts.headers;
        let apply = patch::is_apply(headers);
        let kind = if apply { options::Write::Apply } else { options::Write::Patch };
        let write_options = WriteOptions::parse(&asked.query, kind)?;
        let validation = write_options.field_validation;
        let (patch, mut warnings) = Patch::read(headers, &asked.body, scope, validation)?;
        let context = &asked.request.context;
        let info = &context.info;
        let namespace = object_namespace(scope, &info.namespace);
        let manager = if apply { write_options.field_manager.clone() } else { asked.manager(&write_options) };
        let writer = Writer {
            manager: &manager,
            subresource: &info.subresource,
            now: &context.now,
            reset: strategy.reset_fields(),
        };
        let write = Write {
            scope,
            context,
            namespace,
            name: &info.name,
            subresource: &info.subresource,
            strategy,
            options: Some(write_options.to_object(kind, &asked.query)),
        };
        let told = Mutex::new(Vec::new());
        let written = if let Patch::Apply(applied) = &patch {
            let force = write_options.force == Some(true);
            let make = |old: super::update::Existing<'_>| {
                let (object, texts) = managed::applied(
                    scope,
                    &writer,
                    old.map(|old| &**old),
                    applied,
                    force,
                    validation,
                    (namespace, &info.name),
                )?;
                *told.lock() = texts;
                Ok(object)
            };
            let create = info.subresource.is_empty();
            self.update(&write, Rules { create, uid_is_precondition: true }, &make).await?
        } else {
            let make = |old: super::update::Existing<'_>| {
                let Some(old) = old else { return Err(ApiError::not_found(&scope.resource.name, &info.name)) };
                let served = scope.cache.codec().served(old, scope.slot)?;
                let (object, texts) = patch.patched(&served, scope, validation)?;
                *told.lock() = texts;
                check_patched(scope, &object, &served)?;
                check_name(super::meta::text(&object, "name"), &info.name)?;
                patch::to_storage(scope, &writer, old, object)
            };
            self.update(&write, Rules { create: false, uid_is_precondition: false }, &make).await?
        };
        warnings.append(&mut told.into_inner());
        warnings.extend_from_slice(&written.warnings);
        self.answer_written(asked, scope, &written, accepted, &warnings).await
    }

    fn delete_options(asked: &Asked<'_>) -> Result<DeleteOptions, ApiError> {
        if asked.body.is_empty() {
            return DeleteOptions::parse(&asked.query);
        }
        let format = asked.format(true)?;
        let schema = builtin::by_kind("", "v1", "DeleteOptions")
            .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)));
        let tree = match format {
            Format::Protobuf => protobuf::Envelope::open(&asked.body)
                .map_err(|_| ApiError::bad_request("the options are not in a protobuf envelope"))
                .and_then(|envelope| {
                    super::wire::decode_message(envelope.raw, &schema)
                        .map_err(|error| ApiError::bad_request(error.to_string()))
                })?,
            Format::Yaml => {
                super::wire::decode_yaml(&asked.body, FieldValidation::Ignore)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?
                    .value
            }
            Format::Json => {
                super::wire::decode_json(&asked.body, &schema, FieldValidation::Ignore)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?
                    .value
            }
        };
        DeleteOptions::from_value(&tree)
    }

    async fn answer_delete(&self, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), false)?;
        let delete_options = Self::delete_options(asked)?;
        let mut context = asked.request.context.clone();
        context.dry_run |= delete_options.dry_run;
        let info = Arc::clone(&context.info);
        let strategy = &*scope.resource.strategy;
        let namespace = object_namespace(scope, &info.namespace);
        let write = Write {
            scope,
            context: &context,
            namespace,
            name: &info.name,
            subresource: "",
            strategy,
            options: Some(delete_options.to_object()),
        };
        let deleted = self.delete(&write, &delete_options).await?;
        let pending_code =
            if delete_options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
        let mut answer = match deleted {
            Deleted::Pending(entry) => {
                respond::object(pending_code, scope, &entry, accepted, self.table_options(asked)?).await?
            }
            Deleted::Gone(entry) if delete::returns_object(scope) => {
                respond::object(StatusCode::OK, scope, &entry, accepted, self.table_options(asked)?).await?
            }
            Deleted::Gone(entry) => respond::success(StatusCode::OK, delete::details(scope, &entry)?, None, accepted),
        };
        let warning: Vec<String> = delete::warning(scope, &delete_options).map(str::to_owned).into_iter().collect();
        respond::warn(&mut answer, &warning);
        Ok(answer)
    }

    async fn answer_delete_collection(&self, asked: &Asked<'_>, scope: &Scope) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Self::offer(scope), true)?;
        let list_options = ListOptions::parse(&asked.query, true)?;
        let delete_options = Self::delete_options(asked)?;
        let mut context = asked.request.context.clone();
        context.dry_run |= delete_options.dry_run;
        let selection = Selection::parse(scope, &list_options.label_selector, &list_options.field_selector)?;
        let page = self.list_page(scope, &context.info.namespace, &list_options, &selection).await?;
        let strategy = &*scope.resource.strategy;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let (namespace, name) = (entry.namespace(), entry.name());
            let options = Some(delete_options.to_object());
            let write = Write { scope, context: &context, namespace, name, subresource: "", strategy, options };
            match self.delete(&write, &delete_options).await {
                Ok(Deleted::Gone(entry) | Deleted::Pending(entry)) => entries.push(entry),
                // Somebody else deleted it in between.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let answer = ListAnswer { accepted, table_options: self.table_options(asked)?, gzip: false };
        let meta = ListMeta { revision: page.meta.revision, ..ListMeta::default() };
        super::list::list_answer(scope, super::list::Page { entries, meta }, answer).await
    }

    async fn answer_scale(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        paths: &ScalePaths,
        verb: &str,
    ) -> Result<Response<Body>, ApiError> {
        let accepted = asked.accepted(Offer { protobuf: true, shapes: false, stream: false }, false)?;
        let context = &asked.request.context;
        let info = &context.info;
        let namespace = object_namespace(scope, &info.namespace);
        let codec = scope.cache.codec();
        if verb == "get" {
            let revision = asked.query.get("resourceVersion").unwrap_or_default();
            let entry = self.get_entry(scope, namespace, &info.name, revision).await?;
            let tree = codec.served(&*entry.tree(codec)?, scope.slot)?;
            return Ok(respond::tree(StatusCode::OK, &scale::of(&tree, paths), &scale::schema(), accepted));
        }
        let kind = match verb {
            "update" => options::Write::Update,
            _ if patch::is_apply(&asked.request.parts.headers) => options::Write::Apply,
            _ => options::Write::Patch,
        };
        let write_options = WriteOptions::parse(&asked.query, kind)?;
        let strategy = &*scope.resource.strategy;
        let manager = asked.manager(&write_options);
        let writer = Writer { manager: &manager, subresource: "scale", now: &context.now, reset: &[] };
        let version = scale::version();
        let body = if verb == "update" {
            let (body, _) =
                decode::body(&asked.body, asked.format(true)?, "Scale", &version, write_options.field_validation)?;
            Some(body)
        } else {
            None
        };
        let make = |old: super::update::Existing<'_>| {
            let Some(old) = old else { return Err(ApiError::not_found(&scope.resource.name, &info.name)) };
            let mut object = codec.served(old, scope.slot)?;
            let wanted = match &body {
                Some(body) => body.clone(),
                None => patch::scale(
                    &asked.request.parts.headers,
                    &asked.body,
                    &scale::of(&object, paths),
                    write_options.field_validation,
                )?,
            };
            scale::put(scope, &mut object, &wanted, paths)?;
            patch::to_storage(scope, &writer, old, object)
        };
        let write = Write {
            scope,
            context,
            namespace,
            name: &info.name,
            subresource: "scale",
            strategy,
            options: Some(write_options.to_object(kind, &asked.query)),
        };
        let written = self.update(&write, Rules::default(), &make).await?;
        let tree = codec.served(&*written.entry.tree(codec)?, scope.slot)?;
        Ok(respond::tree(StatusCode::OK, &scale::of(&tree, paths), &scale::schema(), accepted))
    }

    async fn answer_action(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        scope: &Scope,
        name: &str,
    ) -> Result<Response<Body>, ApiError> {
        let info = &asked.request.context.info;
        let accepted = asked.accepted(Offer { protobuf: true, shapes: false, stream: false }, false)?;
        let sub = scope
            .resource
            .subresources
            .iter()
            .find(|sub| sub.name == info.subresource)
            .ok_or_else(ApiError::generic_not_found)?;
        let own = &scope.version().group_version;
        let (group, api_version) = sub.kind_group_version.unwrap_or((&own.group, &own.version));
        let version = bare_version(group, api_version, sub.kind);
        let write_options = WriteOptions::parse(&asked.query, options::Write::Create)?;
        let (object, _) =
            decode::body(&asked.body, asked.format(true)?, sub.kind, &version, write_options.field_validation)?;
        let namespace = object_namespace(scope, &info.namespace);
        // A token, a binding, an eviction is a create of its own kind; what it changes is not reviewed again.
        let mut attributes = crate::admission::Attributes {
            context: &asked.request.context,
            resource: &scope.resource,
            subresource: &info.subresource,
            namespace,
            name: &info.name,
            operation: crate::admission::Operation::Create,
            object: Some(object),
            old: None,
            options: None,
            warnings: crate::admission::Warnings::default(),
            reinvocation: Default::default(),
        };
        self.admit(&mut attributes).await?;
        self.validate(&attributes).await?;
        let object = attributes.object.take().unwrap_or_default();
        drop(attributes);
        match name {
            "binding" => {
                let answer = self.bind(&asked.request.context, scope, namespace, &info.name, &object).await?;
                Ok(respond::success(StatusCode::CREATED, answer, Some(201), accepted))
            }
            "eviction" => {
                let answer = self.evict(&asked.request.context, scope, namespace, &info.name, object).await?;
                Ok(respond::success(StatusCode::CREATED, answer, Some(201), accepted))
            }
            other => {
                let action = self.action(other)?;
                let parent = self.get_entry(scope, namespace, &info.name, "").await?.tree(scope.cache.codec())?;
                let call = super::action::Call {
                    request: asked.request,
                    resource: &scope.resource,
                    registry: self,
                    object,
                    parent: Some(parent),
                };
                let made = action.act(call).await?;
                Ok(respond::tree(StatusCode::CREATED, &made, &version.schema, accepted))
            }
        }
    }

    /// Kinds that are never stored.
    async fn virtual_kind(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        resource: &Arc<crate::kinds::Resource>,
        version: usize,
    ) -> Result<Response<Body>, ApiError> {
        let version = &resource.versions[version];
        let accepted = asked.accepted(Offer { protobuf: true, shapes: false, stream: false }, false)?;
        let Some(name) = resource.action else {
            return if asked.request.context.info.verb == "list" {
                let list = skiff_machinery::object! {
                    "kind": resource.list_kind.as_str(), "apiVersion": version.group_version.to_string(),
                    "metadata": skiff_machinery::Map::new(), "items": skiff_machinery::list![],
                };
                let gv = &version.group_version;
                let schema = builtin::by_kind(&gv.group, &gv.version, &resource.list_kind)
                    .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)));
                Ok(respond::tree(StatusCode::OK, &list, &schema, accepted))
            } else {
                Err(ApiError::not_found(&resource.name, &asked.request.context.info.name))
            };
        };
        let write_options = WriteOptions::parse(&asked.query, options::Write::Create)?;
        let (object, mut warnings) =
            decode::body(&asked.body, asked.format(true)?, &resource.kind, version, write_options.field_validation)?;
        if name == "binding" {
            let info = &asked.request.context.info;
            let pods = self
                .scope_of(&skiff_machinery::GroupResource::new("", "pods"))
                .ok_or_else(ApiError::generic_not_found)?;
            let pod = super::meta::text(&object, "name").to_owned();
            let answer = self.bind(&asked.request.context, &pods, &info.namespace, &pod, &object).await?;
            return Ok(respond::success(StatusCode::CREATED, answer, Some(201), accepted));
        }
        let action = self.action(name)?;
        let call = super::action::Call { request: asked.request, resource, registry: self, object, parent: None };
        let made = action.act(call).await?;
        let mut answer = respond::tree(StatusCode::CREATED, &made, &version.schema, accepted);
        warnings.dedup();
        respond::warn(&mut answer, &warnings);
        Ok(answer)
    }

    async fn connect(
        self: &Arc<Self>,
        request: &mut ApiRequest,
        scope: &Scope,
        name: &str,
    ) -> Result<Response<Body>, ApiError> {
        let connection = self.connection(&format!("{}/{name}", scope.resource.name.resource))?;
        let info = Arc::clone(&request.context.info);
        let namespace = object_namespace(scope, &info.namespace);
        // `SCHEME:NAME:PORT` names the object NAME.
        let asked = if name == "proxy" { crate::server::proxy::Asked::parse(&info.name) } else { None };
        let object_name = asked.map_or(info.name.as_str(), |asked| asked.name);
        let parent = self.get_entry(scope, namespace, object_name, "").await?.tree(scope.cache.codec())?;
        let sub = scope.resource.subresources.iter().find(|sub| sub.name == info.subresource);
        let mut attributes = crate::admission::Attributes {
            context: &request.context,
            resource: &scope.resource,
            subresource: &info.subresource,
            namespace,
            name: &info.name,
            operation: crate::admission::Operation::Connect,
            object: sub
                .and_then(|sub| options::connect_object(sub.kind, &crate::request::Query::of(&request.parts.uri))),
            old: None,
            options: None,
            warnings: crate::admission::Warnings::default(),
            reinvocation: Default::default(),
        };
        if name != "log" {
            self.admit(&mut attributes).await?;
            self.validate(&attributes).await?;
        }
        drop(attributes);
        let (mut parts, ()) = http::Request::new(()).into_parts();
        std::mem::swap(&mut parts, &mut request.parts);
        // The error path still wants to know what the client accepts.
        request.parts.headers = parts.headers.clone();
        let taken = ApiRequest {
            context: request.context.clone(),
            parts,
            body: std::mem::take(&mut request.body),
            peer: request.peer.clone(),
        };
        connection.connect(taken, &scope.resource, parent).await
    }
}

/// The namespace in an object's key: a namespace itself has none, though its path names one.
fn object_namespace<'a>(scope: &Scope, namespace: &'a str) -> &'a str {
    match scope.resource.scope {
        crate::kinds::Scope::Namespaced => namespace,
        crate::kinds::Scope::Cluster => "",
    }
}

/// A version that only serves to decode a body.
fn bare_version(group: &str, version: &str, kind: &str) -> crate::kinds::Version {
    crate::kinds::Version {
        group_version: skiff_machinery::GroupVersion::new(group, version),
        served: true,
        schema: builtin::by_kind(group, version, kind)
            .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found))),
        conversion: None,
        deprecation_warning: None,
        custom: None,
    }
}

/// `checkName` (apiserver/pkg/endpoints/handlers/rest.go).
fn check_name(own: &str, asked: &str) -> Result<(), ApiError> {
    if own.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
        )));
    }
    if own != asked {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({asked})"
        )));
    }
    Ok(())
}

/// A patch must leave kind and version alone.
fn check_patched(scope: &Scope, patched: &Value, served: &Value) -> Result<(), ApiError> {
    let (version, kind) = (patched.str_at(&["apiVersion"]), patched.str_at(&["kind"]));
    if version == served.str_at(&["apiVersion"]) && kind == served.str_at(&["kind"]) {
        return Ok(());
    }
    Err(patch::invalid_patch(
        patched,
        &decode::another_kind(version, kind, &scope.resource.name.group, &scope.resource.kind),
    ))
}
