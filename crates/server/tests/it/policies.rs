//! Admission policies over a whole server: what is refused, warned of and changed, and what a policy must look like.

use crate::api::Answer;
use crate::whole::Whole;
use skiff_machinery::codec::json;
use std::time::{Duration, Instant};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn constraints(operations: &str, group: &str, resource: &str) -> String {
    format!(
        r#""matchConstraints":{{"resourceRules":[{{"operations":[{operations}],"apiGroups":["{group}"],"apiVersions":["v1"],"resources":["{resource}"]}}]}}"#
    )
}

async fn make(server: &Whole, kind: &str, name: &str, spec: &str) -> Answer {
    let plural = match kind.strip_suffix("Policy") {
        Some(kind) => format!("{kind}policies").to_lowercase(),
        None => format!("{kind}s").to_lowercase(),
    };
    let object = format!(
        r#"{{"apiVersion":"admissionregistration.k8s.io/v1","kind":"{kind}","metadata":{{"name":"{name}"}},"spec":{spec}}}"#
    );
    server.post(&format!("{GROUP}/{plural}"), &object).await
}

async fn validating(server: &Whole, spec: &str, binding: &str) {
    make(server, "ValidatingAdmissionPolicy", "p", spec).await.expect(201);
    let spec = format!(r#"{{"policyName":"p",{binding}}}"#);
    make(server, "ValidatingAdmissionPolicyBinding", "b", &spec).await.expect(201);
}

fn map(name: &str, data: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{{data}}}}}"#)
}

async fn world() -> Whole {
    let server = Whole::start().await;
    for name in ["default", "shop"] {
        server.post("/api/v1/namespaces", &format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)).await;
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_refuses() {
    let server = world().await;
    let rules = constraints(r#""CREATE","UPDATE""#, "", "configmaps");
    let spec = format!(
        r#"{{{rules},"matchConditions":[{{"name":"not-exempt","expression":"!object.metadata.name.startsWith('free')"}}],
        "variables":[{{"name":"size","expression":"has(object.data) ? object.data.size() : 0"}},{{"name":"twice","expression":"variables.size * 2"}}],
        "validations":[
            {{"expression":"variables.twice <= 2","messageExpression":"'twice is ' + string(variables.twice)","reason":"Forbidden"}},
            {{"expression":"namespaceObject.metadata.name != 'shop'","message":"not in the shop"}},
            {{"expression":"authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()"}},
            {{"expression":"oldObject == null || request.operation == 'UPDATE'"}}
        ],"auditAnnotations":[{{"key":"size","valueExpression":"string(variables.size)"}}]}}"#
    );
    validating(&server, &spec, r#""validationActions":["Deny"]"#).await;
    server.post(MAPS, &map("fits", r#""a":"1""#)).await.expect(201);
    skiff_testkit::until("checked", async || {
        let policy = server.get(&format!("{GROUP}/validatingadmissionpolicies/p")).await.json();
        policy.at(&["status", "observedGeneration"]).is_some() && policy.at(&["status", "typeChecking"]).is_some()
    })
    .await;
    let refused = server.post(MAPS, &map("big", r#""a":"1","b":"2""#)).await.expect(403);
    let said = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: twice is 4";
    assert_eq!(refused.at(&["message"]), format!("configmaps \"big\" is forbidden: {said}"));
    assert_eq!(refused.at(&["reason"]), "Forbidden");
    assert_eq!(refused.json().items_at(&["details", "causes"])[0].str_at(&["message"]), said);
    server.post(MAPS, &map("free", r#""a":"1","b":"2""#)).await.expect(201);
    let refused = server.post("/api/v1/namespaces/shop/configmaps", &map("any", "")).await.expect(422);
    assert!(refused.at(&["message"]).ends_with("denied request: not in the shop"), "{}", refused.text());
    assert_eq!(refused.at(&["reason"]), "Invalid");
    let merge = |body: &str| {
        server.root("PATCH", &format!("{MAPS}/fits")).body("application/merge-patch+json", body.to_owned())
    };
    server.send(merge(r#"{"data":{"a":"2"}}"#)).await.expect(200);
    server.send(merge(r#"{"data":{"b":"2"}}"#)).await.expect(403);
    // Somebody who may not delete secrets.
    let role = r#"{"metadata":{"name":"maps"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["*"]}]}"#;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    server.post(&format!("{rbac}/roles"), role).await.expect(201);
    let binding = r#"{"metadata":{"name":"maps"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"maps"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"jane"}]}"#;
    server.post(&format!("{rbac}/rolebindings"), binding).await.expect(201);
    let by_jane = server.ask("POST", MAPS).token("jane").body("application/json", map("hers", ""));
    let refused = server.send(by_jane).await.expect(422);
    let expected = "denied request: failed expression: authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()";
    assert!(refused.at(&["message"]).ends_with(expected), "{}", refused.text());
    // Whoever is locked out lets himself in again.
    let gone = server.root("DELETE", &format!("{GROUP}/validatingadmissionpolicybindings/b"));
    server.send(gone).await.expect(200);
    server.post(MAPS, &map("big", r#""a":"1","b":"2""#)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_failures_and_what_is_left_out() {
    let server = world().await;
    let rules = constraints(r#""*""#, "", "configmaps");
    let spec = format!(
        r#"{{{rules},"failurePolicy":"Ignore","validations":[{{"expression":"object.data.a == '1'","message":"a is one"}}]}}"#
    );
    let outside = r#""validationActions":["Warn","Audit"],"matchResources":{"objectSelector":{"matchExpressions":[{"key":"off","operator":"DoesNotExist"}]}}"#;
    validating(&server, &spec, outside).await;
    let made = server.post(MAPS, &map("two", r#""a":"2""#)).await.expect(201);
    let said = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': a is one";
    assert_eq!(made.warnings(), [format!("299 - \"{said}\"")]);
    // Without data the expression fails, and failures are ignored.
    assert!(server.post(MAPS, &map("none", "")).await.expect(201).warnings().is_empty());
    let off = r#"{"metadata":{"name":"off","labels":{"off":"1"}},"data":{"a":"2"}}"#;
    assert!(server.post(MAPS, off).await.expect(201).warnings().is_empty());
    // The same with the strict failure policy.
    let path = format!("{GROUP}/validatingadmissionpolicies/p");
    let strict = server.root("PATCH", &path);
    server.send(strict.body("application/merge-patch+json", r#"{"spec":{"failurePolicy":"Fail"}}"#)).await.expect(200);
    let made = server.post(MAPS, &map("more", "")).await.expect(201);
    assert!(made.warnings()[0].contains("expression 'object.data.a == '1'' resulted in error: no such key: data"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_come_from_objects() {
    let server = world().await;
    let rules = constraints(r#""CREATE""#, "", "secrets");
    let spec = format!(
        r#"{{{rules},"paramKind":{{"apiVersion":"v1","kind":"ConfigMap"}},"validations":[{{"expression":"object.metadata.name.startsWith(params.data.prefix)","messageExpression":"'wants ' + params.data.prefix"}}]}}"#
    );
    let binding = r#""validationActions":["Deny"],"paramRef":{"selector":{"matchLabels":{"for":"p"}},"parameterNotFoundAction":"Deny"}"#;
    validating(&server, &spec, binding).await;
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let refused = server.post(SECRETS, &map("x-1", "")).await.expect(422);
    assert!(
        refused.at(&["message"]).ends_with("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{}",
        refused.text()
    );
    for (name, prefix) in [("one", "x"), ("two", "x-")] {
        let object =
            format!(r#"{{"metadata":{{"name":"{name}","labels":{{"for":"p"}}}},"data":{{"prefix":"{prefix}"}}}}"#);
        server.post(MAPS, &object).await.expect(201);
    }
    server.post(SECRETS, &map("x-1", "")).await.expect(201);
    let refused = server.post(SECRETS, &map("x1", "")).await.expect(422);
    assert!(refused.at(&["message"]).ends_with("denied request: wants x-"), "every parameter: {}", refused.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_policies_change_in_order_and_again() {
    let server = world().await;
    let rules = constraints(r#""CREATE""#, "apps", "deployments");
    let apply = format!(
        r#"{{{rules},"reinvocationPolicy":"IfNeeded","variables":[{{"name":"replicas","expression":"object.spec.replicas"}}],"mutations":[
            {{"patchType":"ApplyConfiguration","applyConfiguration":{{"expression":"Object{{spec: Object.spec{{replicas: variables.replicas < 2 ? 2 : variables.replicas}}}}"}}}},
            {{"patchType":"ApplyConfiguration","applyConfiguration":{{"expression":"Object{{metadata: Object.metadata{{annotations: {{'replicas': string(variables.replicas)}}}}}}"}}}}]}}"#
    );
    let patch = format!(
        r#"{{{rules},"reinvocationPolicy":"Never","matchConditions":[{{"name":"c","expression":"!has(object.metadata.labels) || !('grown' in object.metadata.labels)"}}],"mutations":[
            {{"patchType":"JSONPatch","jsonPatch":{{"expression":"[JSONPatch{{op: 'add', path: '/metadata/labels', value: {{'grown': 'yes'}}}}, JSONPatch{{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + 1}}]"}}}}]}}"#
    );
    for (name, spec) in [("one", &apply), ("two", &patch)] {
        make(&server, "MutatingAdmissionPolicy", name, spec).await.expect(201);
        let binding = format!(r#"{{"policyName":"{name}"}}"#);
        make(&server, "MutatingAdmissionPolicyBinding", name, &binding).await.expect(201);
    }
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = r#"{"metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    let made = server.post(path, deployment).await.expect(201).json();
    assert_eq!(made.at(&["spec", "replicas"]).unwrap().as_int(), Some(3));
    assert_eq!(made.str_at(&["metadata", "labels", "grown"]), "yes");
    assert_eq!(made.str_at(&["metadata", "annotations", "replicas"]), "3", "asked again after the second");
    let owners = json::to_string(made.at(&["metadata", "managedFields"]).unwrap());
    assert!(owners.contains("f:replicas"), "{owners}");
    // What is owned as a whole is not merged into.
    let broken = format!(
        r#"{{{rules},"reinvocationPolicy":"Never","mutations":[{{"patchType":"ApplyConfiguration","applyConfiguration":{{"expression":"Object{{spec: Object.spec{{selector: Object.spec.selector{{}}}}}}"}}}}]}}"#
    );
    make(&server, "MutatingAdmissionPolicy", "whole", &broken).await.expect(201);
    make(&server, "MutatingAdmissionPolicyBinding", "whole", r#"{"policyName":"whole"}"#).await.expect(201);
    let refused = server.post(path, &deployment.replace(r#""d""#, r#""e""#)).await.expect(422);
    let message = refused.at(&["message"]);
    assert!(
        message.contains("policy 'whole' with binding 'whole' denied request: ")
            && message.contains("may not mutate atomic arrays, maps or structs: .spec.selector"),
        "{message}"
    );
}

/// 1,000 writes under ten policies that hold, beside as many without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_cost_little() {
    let server = world().await;
    let write = async |prefix: &str| {
        let begun = Instant::now();
        for number in 0..300 {
            server.post(MAPS, &map(&format!("{prefix}{number}"), r#""a":"1""#)).await.expect(201);
        }
        begun.elapsed()
    };
    let without = write("before").await;
    for number in 0..10 {
        let rules = constraints(r#""*""#, "", "configmaps");
        let name = format!("p{number}");
        let spec = format!(
            r#"{{{rules},"validations":[{{"expression":"object.data.all(k, object.data[k].size() < 100)"}}]}}"#
        );
        make(&server, "ValidatingAdmissionPolicy", &name, &spec).await.expect(201);
        let binding = format!(r#"{{"policyName":"{name}","validationActions":["Deny"]}}"#);
        make(&server, "ValidatingAdmissionPolicyBinding", &name, &binding).await.expect(201);
    }
    let with = write("after").await;
    eprintln!("300 creates: {without:?}, under ten policies {with:?}");
    assert!(with < without * 4 + Duration::from_secs(1), "{with:?} after {without:?}");
}
