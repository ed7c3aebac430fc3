//! Manifests in, error texts out.

use super::builtin::resources;
use crate::request::RequestContext;
use skiff_machinery::codec::json;
use skiff_machinery::{GroupVersion, Value};
use std::sync::Arc;

pub(super) fn context() -> RequestContext {
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
            "spec.containers[1].name: Duplicate value: \"a\"\nspec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
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

#[test]
fn kinds_without_effect_say_so() {
    let mut warned = Vec::new();
    for resource in resources() {
        if resource.warning.is_some() {
            warned.push(resource.name.resource.clone());
        }
    }
    // Only ever shorter.
    assert!(warned.len() <= 32, "{warned:?}");
}

#[test]
fn small_kinds() {
    for (resource, manifest, expected) in [
        (
            "configmaps",
            r#"{"data":{"a/b":"x"}}"#,
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        ("secrets", r#"{"type":"kubernetes.io/tls","data":{"tls.crt":"eA=="}}"#, "data[tls.key]: Required value"),
        ("secrets", r#"{"data":{"a":"eA=="}}"#, ""),
        (
            "roles.rbac.authorization.k8s.io",
            r#"{"metadata":{"namespace":"d"},"rules":[{"verbs":["get"],"apiGroups":[""]}]}"#,
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ),
        (
            "clusterrolebindings.rbac.authorization.k8s.io",
            r#"{"roleRef":{"kind":"Role","name":"x"},"subjects":[{"kind":"User","name":"u"}]}"#,
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        ),
        (
            "leases.coordination.k8s.io",
            r#"{"spec":{"leaseDurationSeconds":0}}"#,
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "endpointslices.discovery.k8s.io",
            r#"{"addressType":"IPv4","endpoints":[{"addresses":["127.0.0.1"]}],"ports":[{"port":80}]}"#,
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            "nodes",
            r#"{"spec":{"taints":[{"key":"a","effect":"Never"}]}}"#,
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "persistentvolumeclaims",
            r#"{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}"#,
            "",
        ),
        (
            "limitranges",
            r#"{"spec":{"limits":[{"type":"Container","min":{"cpu":"2"},"max":{"cpu":"1"}}]}}"#,
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1\nspec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ),
    ] {
        let found = errors(resource, manifest);
        if resource == "limitranges" {
            assert!(found.contains("is greater than max value 1"), "{found}");
        } else {
            assert_eq!(found, expected, "{manifest}");
        }
    }
}

#[test]
fn texts_of_a_secret_go_into_its_data() {
    let manifest =
        r#"{"metadata":{"name":"s","namespace":"d"},"data":{"a":"b2xk","b":"b2xk"},"stringData":{"a":"new"}}"#;
    let (secret, errors) = created("secrets", manifest);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((secret.str_at(&["data", "a"]), secret.str_at(&["data", "b"])), ("bmV3", "b2xk"));
    assert_eq!(secret.get("stringData"), None);
}

#[test]
fn updates_that_are_refused() {
    let update = |resource: &str, old: &str, new: &str| -> String {
        let resource = resources().into_iter().find(|entry| entry.name.to_string() == resource).unwrap();
        let old = json::from_str(old).unwrap();
        let mut object = json::from_str(new).unwrap();
        resource.strategy.prepare_for_update(&context(), &mut object, &old);
        let errors = resource.strategy.validate_update(&context(), &object, &old);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        update("configmaps", r#"{"immutable":true,"data":{"a":"1"}}"#, r#"{"immutable":true,"data":{"a":"2"}}"#),
        "data: Forbidden: field is immutable when `immutable` is set"
    );
    let (made, _) = created("pods", &pod(r#"{"containers":[{"name":"a","image":"i"}]}"#));
    let old = json::to_string(&made);
    assert_eq!(update("pods", &old, &old.replace("\"image\":\"i\"", "\"image\":\"j\"")), "");
    let renamed = update("pods", &old, &old.replace("\"name\":\"a\"", "\"name\":\"b\""));
    assert!(renamed.starts_with("spec: Forbidden: pod updates may not change fields other than"), "{renamed}");
}

#[test]
fn every_served_version_has_a_schema() {
    for resource in resources() {
        for version in resource.versions.iter().filter(|version| version.served) {
            let typed = matches!(version.schema, skiff_machinery::schema::Type::Struct(_));
            assert!(typed, "{} {}", version.group_version, resource.kind);
        }
    }
}
