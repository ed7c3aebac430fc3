//! Writes under review, for tests of plug-ins.

use super::{Attributes, Operation, Plugin, Warnings};
use crate::authz::testing::Fake;
use crate::kinds::{Resource, builtin};
use crate::request::{RequestContext, RequestInfo, UserInfo};
use skiff_machinery::{ApiError, Value};
use std::sync::{Arc, OnceLock};

/// Caches with what a test puts into them.
pub(super) fn cluster() -> Arc<Fake> {
    Arc::new(Fake::default())
}

/// One write.
pub(super) struct Case {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    name: String,
    operation: Operation,
    object: Option<Value>,
    old: Option<Arc<Value>>,
    user: UserInfo,
}

impl Case {
    fn new(group: &'static str, resource: &'static str, namespace: &'static str, operation: Operation) -> Self {
        Self {
            group,
            resource,
            subresource: "",
            namespace,
            name: String::new(),
            operation,
            object: None,
            old: None,
            user: UserInfo { name: "tester".to_owned(), ..UserInfo::default() },
        }
    }
    pub(super) fn create(group: &'static str, resource: &'static str, namespace: &'static str, object: Value) -> Self {
        let name = object.str_at(&["metadata", "name"]).to_owned();
        Self { name, object: Some(object), ..Self::new(group, resource, namespace, Operation::Create) }
    }
    pub(super) fn update(
        group: &'static str,
        resource: &'static str,
        namespace: &'static str,
        object: Value,
        old: Value,
    ) -> Self {
        let name = old.str_at(&["metadata", "name"]).to_owned();
        let old = Some(Arc::new(old));
        Self { name, object: Some(object), old, ..Self::new(group, resource, namespace, Operation::Update) }
    }
    pub(super) fn delete(group: &'static str, resource: &'static str, namespace: &'static str, old: Value) -> Self {
        let name = old.str_at(&["metadata", "name"]).to_owned();
        Self { name, old: Some(Arc::new(old)), ..Self::new(group, resource, namespace, Operation::Delete) }
    }
    pub(super) fn sub(self, subresource: &'static str) -> Self {
        Self { subresource, ..self }
    }
    /// As this user.
    pub(super) fn by(mut self, name: &str, groups: &[&str]) -> Self {
        self.user = UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        };
        self
    }

    fn resource(&self) -> &'static Resource {
        static ALL: OnceLock<Vec<Resource>> = OnceLock::new();
        let all = ALL.get_or_init(builtin::resources);
        let matches =
            |resource: &&Resource| resource.name.group == self.group && resource.name.resource == self.resource;
        all.iter().find(matches).expect("a resource of upstream's")
    }

    fn context(&self) -> RequestContext {
        RequestContext {
            user: Arc::new(self.user.clone()),
            info: Arc::new(RequestInfo::default()),
            dry_run: false,
            now: "2026-01-02T03:04:05Z".to_owned(),
        }
    }

    fn attributes<'a>(&'a self, context: &'a RequestContext) -> Attributes<'a> {
        Attributes {
            context,
            resource: self.resource(),
            subresource: self.subresource,
            namespace: self.namespace,
            name: &self.name,
            operation: self.operation,
            object: self.object.clone(),
            old: self.old.clone(),
            options: None,
            warnings: Warnings::default(),
            reinvocation: Default::default(),
        }
    }

    /// What `look` finds in the write as plug-ins get it.
    pub(super) fn with_attributes<T>(&self, look: impl FnOnce(&Attributes<'_>) -> T) -> T {
        let context = self.context();
        look(&self.attributes(&context))
    }

    /// What mutating admission makes of the object; null for deletes.
    pub(super) async fn admit(&self, plugin: &dyn Plugin) -> Result<Value, ApiError> {
        let context = self.context();
        let mut attributes = self.attributes(&context);
        if plugin.handles(self.operation) {
            plugin.admit(&mut attributes).await?;
        }
        Ok(attributes.object.unwrap_or_default())
    }

    /// What validating admission says.
    pub(super) async fn validate(&self, plugin: &dyn Plugin) -> Result<(), ApiError> {
        let context = self.context();
        let attributes = self.attributes(&context);
        if plugin.handles(self.operation) {
            plugin.validate(&attributes).await?;
        }
        Ok(())
    }

    /// What the client is told by a plug-in that lets it pass.
    pub(super) async fn warnings(&self, plugin: &dyn Plugin) -> Vec<String> {
        let context = self.context();
        let mut attributes = self.attributes(&context);
        plugin.admit(&mut attributes).await.expect("it passes");
        plugin.validate(&attributes).await.expect("it passes");
        attributes.warnings.take()
    }
}
