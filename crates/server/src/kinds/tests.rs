//! Manifests in, error texts out.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::builtin::resources;
use crate::request::RequestContext;
use skiff_machinery::codec::json;
use skiff_machinery::{GroupVersion, Value};
use std::sync::Arc;

fn context() -> RequestContext {
    RequestContext {
        user: Arc::default(),
        info: Arc::default(),
        dry_run: false,
        now: "2026-01-02T03:04:05Z".to_owned(),
    }
}

/// Defaults, prepares and validates a new object of a kind.
fn created(resource: &str, manifest: &str) -> (Value, Vec<String>) {
    let resource = resources().into_iter().find(|entry| entry.name.to_string() == resource).unwrap();
    let mut object = json::from_str(manifest).unwrap();
    let version: &GroupVersion = &resource.versions[0].group_version;
    resource.strategy.default(version, &mut object);
    resource.strategy.prepare_for_create(&context(), &mut object);
    let errors = resource.strategy.validate(&context(), &object);
    (object, errors.iter().map(ToString::to_string).collect())
}

fn errors(resource: &str, manifest: &str) -> String {
    created(resource, manifest).1.join("\n")
}

fn pod(spec: &str) -> String {
    format!(r#"{{"metadata":{{"name":"p","namespace":"d"}},"spec":{spec}}}"#)
}

#[test]
fn pods() {
    for (spec, expected) in [
        (r#"{"containers":[{"name":"a","image":"i"}]}"#, ""),
        ("{}", "spec.containers: Required value"),
        (
            r#"{"containers":[{"name":"A","image":"i"}]}"#,
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (r#"{"containers":[{"name":"a"}]}"#, "spec.containers[0].image: Required value"),
        (
            r#"{"restartPolicy":"Sometimes","containers":[{"name":"a","image":"i"},{"name":"a","image":"i"}]}"#,
            "spec.containers[1].name: Duplicate value: \"a\"\nspec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","volumeMounts":[{"name":"v","mountPath":"/x"}]}]}"#,
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"2"},"limits":{"cpu":"1"}}}]}"#,
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"../x"}}}]}"#,
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":""}}}]}"#,
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","livenessProbe":{}}]}"#,
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            r#"{"volumes":[{"name":"v","gitRepo":{"repository":"x"}}],"containers":[{"name":"a","image":"i"}]}"#,
            "spec.volumes[0].gitRepo: Forbidden: gitRepo volumes are not supported: clone in an init container instead",
        ),
        (
            r#"{"hostNetwork":true,"containers":[{"name":"a","image":"i","ports":[{"containerPort":80}]},{"name":"b","image":"i","ports":[{"containerPort":80}]}]}"#,
            "spec.containers[1].ports[0].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (
            r#"{"containers":[{"name":"a","image":"i","env":[{"name":"X","value":"1","valueFrom":{"fieldRef":{"fieldPath":"spec.nope"}}}]}]}"#,
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope\nspec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            r#"{"tolerations":[{"operator":"Equal"}],"containers":[{"name":"a","image":"i"}]}"#,
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
    ] {
        assert_eq!(errors("pods", &pod(spec)), expected, "{spec}");
    }
    let (made, _) = created(
        "pods",
        &pod(r#"{"containers":[{"name":"a","image":"i:1","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]}"#),
    );
    assert_eq!(made.str_at(&["status", "qosClass"]), "Guaranteed");
    assert_eq!(made.items_at(&["spec", "containers"])[0].str_at(&["imagePullPolicy"]), "IfNotPresent");
    assert_eq!(made.at(&["spec", "enableServiceLinks"]), Some(&Value::Bool(true)));
}

#[test]
fn deployments() {
    let manifest = |selector: &str, extra: &str| {
        format!(
            r#"{{"metadata":{{"name":"d"}},"spec":{{"selector":{selector},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"a","image":"i"}}]}}}}{extra}}}}}"#
        )
    };
    assert_eq!(errors("deployments.apps", &manifest(r#"{"matchLabels":{"a":"b"}}"#, "")), "");
    assert_eq!(
        errors("deployments.apps", &manifest(r#"{"matchLabels":{"a":"c"}}"#, r#","replicas":-1"#)),
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0\nspec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
    );
    assert_eq!(
        errors(
            "deployments.apps",
            &manifest(
                r#"{"matchLabels":{"a":"b"}}"#,
                r#","strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":"0%"}}"#
            )
        ),
        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"
    );
    let (made, _) = created("deployments.apps", &manifest(r#"{"matchLabels":{"a":"b"}}"#, ""));
    assert_eq!(made.at(&["metadata", "generation"]), Some(&Value::Int(1)));
    assert_eq!(made.str_at(&["spec", "strategy", "rollingUpdate", "maxSurge"]), "25%");
}

#[test]
fn jobs_select_their_own_pods() {
    let manifest = r#"{"metadata":{"name":"j","uid":"u1"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"a","image":"i"}]}}}}"#;
    let (job, mistakes) = created("jobs.batch", manifest);
    assert_eq!(mistakes, Vec::<String>::new());
    assert_eq!(job.str_at(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"]), "u1");
    assert_eq!(job.str_at(&["spec", "template", "metadata", "labels", "job-name"]), "j");
    assert_eq!(job.at(&["spec", "backoffLimit"]), Some(&Value::Int(6)));
    let always = r#"{"metadata":{"name":"j","uid":"u1"},"spec":{"template":{"spec":{"containers":[{"name":"a","image":"i"}]}}}}"#;
    assert_eq!(
        errors("jobs.batch", always),
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""
    );
}

#[test]
fn services() {
    let service = |spec: &str| format!(r#"{{"metadata":{{"name":"s"}},"spec":{spec}}}"#);
    assert_eq!(
        errors("services", &service(r#"{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ports":[{"port":80}]}"#)),
        ""
    );
    assert_eq!(
        errors("services", &service(r#"{"ports":[{"port":80},{"port":70000,"name":"x"}]}"#)),
        "spec.ports[0].name: Required value\nspec.ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive\nspec.ports[1].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
    );
    assert_eq!(errors("services", &service(r#"{"type":"ExternalName"}"#)), "spec.externalName: Required value");
}
