//! Type checking of validating policies: what their expressions would find wrong with the kinds that they are for, told in
//! `status.typeChecking`. It refuses nothing.
//!
//! Mirrors `apiserver/pkg/admission/plugin/policy/validating/typechecking.go` and the controller
//! `validatingadmissionpolicy-status-controller`. Kinds named by wildcards are not checked, nor are parameters.

use super::compile::{Compiler, Place};
use crate::admission::Reader;
use crate::admission::attributes::named;
use crate::kinds::tree::Tree;
use crate::registry::Registry;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::schema::Type;
use skiff_machinery::{ApiError, GroupResource, Map, Value, object};
use std::sync::Arc;
use std::time::Duration;

/// Most kinds that one policy is checked against.
const MOST_KINDS: usize = 10;
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(50);

fn policies() -> GroupResource {
    named("admissionregistration.k8s.io", "validatingadmissionpolicies")
}

/// A kind that a policy is for, as warnings name it.
pub(super) struct Checked {
    pub(super) name: String,
    pub(super) schema: Type,
}

/// `expressionWarnings` of a policy.
pub(super) fn warnings(policy: &Value, kinds: &[Checked]) -> Vec<Value> {
    let spec = policy.get("spec").unwrap_or(&Value::Null);
    let mut expressions: Vec<(String, String, Place)> = Vec::new();
    for (index, validation) in spec.items("validations").iter().enumerate() {
        for (field, place) in [("expression", Place::Validation), ("messageExpression", Place::Message)] {
            let text = validation.text(field);
            if !text.trim().is_empty() {
                expressions.push((format!("spec.validations[{index}].{field}"), text.to_owned(), place));
            }
        }
    }
    let mut out = Vec::new();
    for (reference, text, place) in expressions {
        let mut wrong = Vec::new();
        for kind in kinds {
            let mut compiler = Compiler::typed(policy, &kind.schema);
            for variable in spec.items("variables") {
                // What is wrong with a variable shows where it is used.
                let _known = compiler.variable(variable.text("name"), variable.text("expression"));
            }
            if let Err(error) = compiler.compile(&text, place) {
                wrong.push(format!("{}: {error}", kind.name));
            }
        }
        if !wrong.is_empty() {
            out.push(object! { "fieldRef": reference, "warning": wrong.join("\n") });
        }
    }
    out
}

/// The kinds that a policy names in its rules.
fn kinds(registry: &Registry, policy: &Value) -> Vec<Checked> {
    let mut out: Vec<Checked> = Vec::new();
    let resources = registry.resources();
    for rule in policy.items_at(&["spec", "matchConstraints", "resourceRules"]) {
        let texts = |field: &str| rule.items(field).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        for group in texts("apiGroups") {
            for version in texts("apiVersions") {
                for resource in texts("resources") {
                    let Some((found, index)) = resources.find(group, version, resource) else { continue };
                    let version = &found.versions[index];
                    let name = format!("{}, Kind={}", version.group_version, found.kind);
                    if out.len() < MOST_KINDS && out.iter().all(|own| own.name != name) {
                        out.push(Checked { name, schema: version.schema.clone() });
                    }
                }
            }
        }
    }
    out
}

async fn look(registry: &Registry) -> Result<(), ApiError> {
    for policy in Reader::list(registry, &policies(), None) {
        let generation = policy.at(&["metadata", "generation"]).and_then(Value::as_int);
        if policy.at(&["status", "observedGeneration"]).and_then(Value::as_int) == generation {
            continue;
        }
        let mut shown = (*policy).clone();
        shown.set("kind", "ValidatingAdmissionPolicy");
        let warnings = warnings(&shown, &kinds(registry, &shown));
        let change = Box::new(move |stored: &Value| {
            if stored.at(&["metadata", "generation"]).and_then(Value::as_int) != generation {
                // Changed in between: it is looked at again.
                return Ok(None);
            }
            let mut next = stored.clone();
            let status = next.make("status");
            status.set("observedGeneration", generation.unwrap_or(0));
            let mut checking = Map::new();
            if !warnings.is_empty() {
                checking.insert("expressionWarnings", warnings.clone());
            }
            status.set("typeChecking", checking);
            Ok(Some(next))
        });
        match Reader::update(registry, &policies(), "", policy.str_at(&["metadata", "name"]), change).await {
            // Deleted in between.
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Checks policies as they change, until the supervisor ends.
pub(crate) fn spawn(registry: &Arc<Registry>, supervisor: &Supervisor) {
    let (registry, token) = (Arc::clone(registry), supervisor.token().clone());
    supervisor.spawn("types of admission policies", OnFailure::EndComponent, async move {
        let mut progress = registry.progress();
        let mut seen = None;
        loop {
            let generation = Some(Reader::generation(&*registry, &policies()));
            if generation != seen {
                // Read before the look: a change during it is looked at again.
                seen = generation;
                if let Err(error) = look(&registry).await {
                    tracing::warn!(%error, "admission policies could not be checked; it is tried again");
                    seen = None;
                }
            }
            tokio::select! {
                () = token.cancelled() => return,
                changed = progress.changed() => if changed.is_err() { return },
                () = registry.clock().sleep(Duration::from_secs(1)), if seen.is_none() => {}
            }
            if Some(Reader::generation(&*registry, &policies())) != seen {
                registry.clock().sleep(GATHER).await;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;
    use skiff_machinery::schema::builtin;

    #[test]
    fn fields_that_a_kind_has_not_are_told() {
        let policy = json::from_str(
            r#"{"kind":"ValidatingAdmissionPolicy","spec":{"variables":[{"name":"n","expression":"object.spec.replicas"}],"validations":[
            {"expression":"object.replicas > 1"},
            {"expression":"variables.n > 1 && object.spec.template.spec.containers.all(c, c.image != '')"},
            {"expression":"variables.n == 'x'","messageExpression":"'has ' + object.spec.replicas"},
            {"expression":"object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')"}]}}"#,
        )
        .unwrap();
        let schema = Type::from(builtin::by_kind("apps", "v1", "Deployment").unwrap());
        let found = warnings(&policy, &[Checked { name: "apps/v1, Kind=Deployment".to_owned(), schema }]);
        let told: Vec<String> = found
            .iter()
            .map(|warning| {
                let first = warning.text("warning").lines().next().unwrap_or_default().to_owned();
                format!("{} {first}", warning.text("fieldRef"))
            })
            .collect();
        assert_eq!(
            told,
            [
                "spec.validations[0].expression apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'",
                "spec.validations[2].expression apps/v1, Kind=Deployment: ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, string)'",
                "spec.validations[2].messageExpression apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'",
            ]
        );
        assert!(
            found[0].text("warning").ends_with(" | object.replicas > 1\n | ......^"),
            "{}",
            found[0].text("warning")
        );
    }
}
