//! Which parameters a binding brings to a request (`CollectParams` in `apiserver/pkg/admission/plugin/policy/generic`).

use super::super::Reader;
use super::compile::{Bound, Policy};
use crate::kinds::Scope;
use crate::kinds::tree::Tree;
use skiff_machinery::Value;

/// The parameters, each of which the policy is asked with. `Null`: it is asked without any.
pub(super) fn collect(
    reader: &dyn Reader,
    policy: &Policy,
    binding: &Bound,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some(kind), Some(wanted)) = (&policy.param_kind, &binding.params) else { return Ok(vec![Value::Null]) };
    let Some((resource, version)) = reader.kind(&kind.group, &kind.version, &kind.kind) else {
        let gv = if kind.group.is_empty() { kind.version.clone() } else { format!("{}/{}", kind.group, kind.version) };
        return Err(format!("paramKind kind `{gv}, Kind={}` not known", kind.kind));
    };
    let space = match resource.scope {
        Scope::Cluster if !wanted.namespace.is_empty() => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        Scope::Cluster => "",
        Scope::Namespaced if !wanted.namespace.is_empty() => wanted.namespace.as_str(),
        Scope::Namespaced if namespace.is_empty() => {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        Scope::Namespaced => namespace,
    };
    let found = match &wanted.selector {
        _ if !wanted.name.is_empty() => reader.get(&resource.name, space, &wanted.name).into_iter().collect(),
        Some(selector) => {
            let mut all = reader.list(&resource.name, (!space.is_empty()).then_some(space));
            all.retain(|object| selector.matches_object(object));
            all
        }
        None => return Err("one of name or selector must be provided".to_owned()),
    };
    if found.is_empty() && wanted.deny_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    let version = &resource.versions[version];
    let shown = |object: std::sync::Arc<Value>| {
        let mut object = (*object).clone();
        if let Some(conversion) = &version.conversion {
            conversion.to_served(&mut object).map_err(|error| error.message().to_owned())?;
        }
        object.set("apiVersion", version.group_version.to_string());
        object.set("kind", resource.kind.as_str());
        Ok(object)
    };
    found.into_iter().map(shown).collect()
}
