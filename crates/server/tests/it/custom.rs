//! Custom resources, from definition to deletion.

use crate::api::{Api, call};
use crate::kubectl::Kubectl;
use skiff_machinery::codec::json;
use skiff_machinery::{Value, object};
use skiff_server::crd::Reconciler;
use skiff_testkit::until;
use std::sync::Arc;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

pub(crate) fn definition() -> Value {
    json::from_str(
        r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"widgets.example.com"},
        "spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget","shortNames":["wd"]},
        "versions":[{"name":"v1","served":true,"storage":true,
          "subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas"}},
          "additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}],
          "selectableFields":[{"jsonPath":".spec.color"}],
          "schema":{"openAPIV3Schema":{"type":"object","properties":{
            "spec":{"type":"object","required":["size"],"properties":{
              "size":{"type":"integer","minimum":1},"color":{"type":"string","default":"red"},"replicas":{"type":"integer"},
              "parts":{"type":"array","items":{"type":"object","properties":{"name":{"type":"string"}}}}}},
            "status":{"type":"object","properties":{"ready":{"type":"boolean"},"replicas":{"type":"integer"}}}}}}}]}}"#,
    )
    .unwrap()
}

fn widget(name: &str, spec: Value) -> Value {
    object! { "apiVersion": "example.com/v1", "kind": "Widget", "metadata": object! { "name": name }, "spec": spec }
}

async fn api() -> Api {
    let api = Api::new().await;
    Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    api.post(DEFINITIONS, &definition()).await.expect(201);
    until("served", async || api.get(WIDGETS).await.status == 200).await;
    api
}

#[tokio::test]
async fn a_definition_becomes_a_kind_and_goes_again() {
    let api = api().await;
    let shown = api.get(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200).json();
    assert_eq!(shown.str_at(&["apiVersion"]), "apiextensions.k8s.io/v1");
    assert_eq!(shown.str_at(&["status", "acceptedNames", "listKind"]), "WidgetList");
    let conditions: Vec<String> = shown
        .items_at(&["status", "conditions"])
        .iter()
        .map(|condition| format!("{} {}", condition.str_at(&["type"]), condition.str_at(&["status"])))
        .collect();
    assert_eq!(conditions, ["NamesAccepted True", "Established True"]);
    assert_eq!(shown.items_at(&["status", "storedVersions"])[0].as_str(), Some("v1"));

    let made = api.post(WIDGETS, &widget("a", object! { "size": 3, "bogus": 1 })).await.expect(201);
    assert_eq!(made.warnings(), ["299 - \"unknown field \\\"spec.bogus\\\"\""]);
    let made = made.json();
    assert_eq!(made.get("spec"), Some(&object! { "size": 3, "color": "red" }));
    assert_eq!(made.at(&["metadata", "generation"]).and_then(Value::as_int), Some(1));
    let text = api.get(&format!("{WIDGETS}/a")).await.expect(200).text();
    assert!(text.starts_with("{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{"), "{text}");
    let list = api.get(WIDGETS).await.expect(200).text();
    assert!(list.starts_with("{\"apiVersion\":\"example.com/v1\",\"items\":[{\"apiVersion\":"), "{list}");
    assert!(
        list.contains("],\"kind\":\"WidgetList\",\"metadata\":{\"continue\":\"\",\"resourceVersion\":\""),
        "{list}"
    );

    let bad = api.post(WIDGETS, &widget("b", object! { "size": 0 })).await.expect(422);
    assert!(
        bad.at(&["message"]).starts_with("Widget.example.com \"b\" is invalid: spec.size: Invalid value: "),
        "{}",
        bad.text()
    );
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let refused = api.post(&strict, &widget("b", object! { "size": 1, "bogus": 1 })).await.expect(400);
    assert!(
        refused.at(&["message"]).contains("strict decoding error: unknown field \"spec.bogus\""),
        "{}",
        refused.text()
    );
    let strategic = api.patch(&format!("{WIDGETS}/a"), "strategic-merge-patch+json", "{}").await.expect(415);
    assert!(!strategic.at(&["message"]).contains("strategic"), "{}", strategic.text());

    let status = api
        .patch(&format!("{WIDGETS}/a/status"), "merge-patch+json", r#"{"spec":{"size":9},"status":{"ready":true}}"#)
        .await;
    let status = status.expect(200).json();
    assert_eq!(
        (status.at(&["spec", "size"]), status.at(&["status", "ready"])),
        (Some(&Value::Int(3)), Some(&Value::Bool(true)))
    );
    let scaled =
        api.patch(&format!("{WIDGETS}/a/scale"), "merge-patch+json", r#"{"spec":{"replicas":4}}"#).await.expect(200);
    assert_eq!(scaled.at(&["kind"]), "Scale");
    let now = api.get(&format!("{WIDGETS}/a")).await.expect(200).json();
    assert_eq!(now.at(&["spec", "replicas"]), Some(&Value::Int(4)));
    assert_eq!(now.at(&["metadata", "generation"]), Some(&Value::Int(2)));
    let red = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.expect(200).json();
    let blue = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.expect(200).json();
    assert_eq!((red.items_at(&["items"]).len(), blue.items_at(&["items"]).len()), (1, 0));
    let unversioned = widget("a", object! { "size": 5 });
    let refused = api.put(&format!("{WIDGETS}/a"), &unversioned).await.expect(422);
    assert!(
        refused
            .at(&["message"])
            .ends_with("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{}",
        refused.text()
    );
    let apply = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: {size: 7}\n";
    let applied = api
        .send(
            call("PATCH", &format!("{WIDGETS}/a?fieldManager=x&force=true"))
                .body("application/apply-patch+yaml", apply),
        )
        .await;
    assert_eq!(applied.expect(200).json().at(&["spec", "size"]), Some(&Value::Int(7)));

    const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com";
    until("an APIService", async || api.get(SERVICE).await.status == 200).await;
    api.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    until("gone", async || api.get(&format!("{DEFINITIONS}/widgets.example.com")).await.status == 404).await;
    until("no APIService", async || api.get(SERVICE).await.status == 404).await;
    until("no longer served", async || api.get(WIDGETS).await.status == 404).await;
    api.post(DEFINITIONS, &definition()).await.expect(201);
    until("served again", async || api.get(WIDGETS).await.status == 200).await;
    assert_eq!(api.get(WIDGETS).await.json().items_at(&["items"]).len(), 0, "its objects went with it");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name() {
    let api = Api::new().await;
    let with = |path: &[&str], value: Value| {
        let mut changed = definition();
        let mut at = &mut changed;
        for key in path {
            at = match key.parse::<usize>() {
                Ok(index) => &mut at.as_array_mut().unwrap()[index],
                Err(_) => at.as_object_mut().unwrap().entry((*key).to_owned(), || Value::Null),
            };
        }
        *at = value;
        changed
    };
    let schema = ["spec", "versions", "0", "schema", "openAPIV3Schema"];
    let rule = skiff_machinery::list![object! { "rule": "self.size > 1" }];
    let cases = [
        (with(&["metadata", "name"], "gadgets.example.com".into()), "must be spec.names.plural+\".\"+spec.group"),
        (
            with(
                &["spec", "conversion"],
                object! { "strategy": "Webhook", "webhook": object! { "conversionReviewVersions": skiff_machinery::list!["v1"] } },
            ),
            "required when strategy is set to Webhook",
        ),
        (with(&[&schema[..], &["x-kubernetes-validations"]].concat(), rule), "undefined field 'size'"),
        (
            with(&["spec", "versions", "0", "storage"], false.into()),
            "must have exactly one version marked as storage version",
        ),
        (with(&["spec", "preserveUnknownFields"], true.into()), "cannot set to true"),
        (
            with(
                &["spec", "versions", "0", "selectableFields"],
                skiff_machinery::list![object! { "jsonPath": ".spec.parts" }],
            ),
            "must point to a field of type string, boolean or integer",
        ),
        (
            with(&["spec", "versions", "0", "subresources", "scale", "specReplicasPath"], ".status.x".into()),
            "should be a json path under .spec",
        ),
        (
            with(&["spec", "versions", "0", "additionalPrinterColumns", "0", "type"], "text".into()),
            "must be one of boolean,date,integer,number,string",
        ),
        (with(&["spec", "scope"], "Global".into()), "supported values: \"Cluster\", \"Namespaced\""),
    ];
    for (definition, expected) in cases {
        let refused = api.post(DEFINITIONS, &definition).await.expect(422);
        assert!(refused.at(&["message"]).contains(expected), "{expected}: {}", refused.text());
    }
}

#[tokio::test]
async fn protected_groups_want_an_approval_and_stored_versions_stay() {
    let api = Api::new().await;
    Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    let mut protected = definition();
    let map = protected.as_object_mut().unwrap();
    map.object_mut("metadata").insert("name", "widgets.example.k8s.io");
    map.object_mut("spec").insert("group", "example.k8s.io");
    let refused = api.post(DEFINITIONS, &protected).await.expect(422);
    assert!(
        refused.at(&["message"]).contains("metadata.annotations[api-approved.kubernetes.io]: Required value"),
        "{}",
        refused.text()
    );
    let annotations = object! { "api-approved.kubernetes.io": "unapproved, a test" };
    protected.as_object_mut().unwrap().object_mut("metadata").insert("annotations", annotations);
    api.post(DEFINITIONS, &protected).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.example.k8s.io");
    let mut shown = Value::Null;
    until("the approval is looked at", async || {
        shown = api.get(&path).await.expect(200).json();
        shown.items_at(&["status", "conditions"]).iter().any(|condition| {
            condition.str_at(&["type"]) == "KubernetesAPIApprovalPolicyConformant"
                && condition.str_at(&["reason"]) == "UnapprovedAnnotation"
        })
    })
    .await;
    // The stored version cannot go as long as the status says that something is stored in it.
    let renamed = r#"[{"op":"replace","path":"/spec/versions/0/name","value":"v2"}]"#;
    let refused = api.patch(&path, "json-patch+json", renamed).await.expect(422);
    assert!(
        refused
            .at(&["message"])
            .contains("status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn rules_in_cel_hold() {
    let api = Api::new().await;
    Reconciler::new(Arc::clone(&api.registry), &api.supervisor).spawn(&api.supervisor);
    let mut ruled = definition();
    let spec = ruled.as_object_mut().unwrap().object_mut("spec").get_mut("versions").unwrap().as_array_mut().unwrap();
    let schema = spec[0].as_object_mut().unwrap().object_mut("schema").object_mut("openAPIV3Schema");
    let spec = schema.object_mut("properties").object_mut("spec");
    let rules = skiff_machinery::list![
        object! { "rule": "self.size < 10", "messageExpression": "'size %d is too much'.format([self.size])" },
        object! { "rule": "self.size >= oldSelf.size", "message": "it cannot shrink", "fieldPath": ".size" },
    ];
    spec.insert("x-kubernetes-validations", rules);
    api.post(DEFINITIONS, &ruled).await.expect(201);
    until("served", async || api.get(WIDGETS).await.status == 200).await;
    let refused = api.post(WIDGETS, &widget("a", object! { "size": 11 })).await.expect(422);
    assert_eq!(
        refused.at(&["message"]),
        "Widget.example.com \"a\" is invalid: spec: Invalid value: \"object\": size 11 is too much"
    );
    api.post(WIDGETS, &widget("a", object! { "size": 5 })).await.expect(201);
    let path = format!("{WIDGETS}/a");
    api.patch(&path, "merge-patch+json", r#"{"spec":{"size":6}}"#).await.expect(200);
    let refused = api.patch(&path, "merge-patch+json", r#"{"spec":{"size":5}}"#).await.expect(422);
    assert!(
        refused.at(&["message"]).contains("spec.size: Invalid value: \"object\": it cannot shrink"),
        "{}",
        refused.text()
    );
    api.patch(&path, "merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_knows_them() {
    let api = api().await;
    let Some(kubectl) = Kubectl::serve(&api).await else { return };
    let manifest =
        "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a, namespace: default}\nspec: {size: 3}\n";
    assert_eq!(kubectl.run("apply -f -", manifest).await.unwrap(), "widget.example.com/a created\n");
    assert_eq!(kubectl.run("get wd", "").await.unwrap(), "NAME   SIZE\na      3\n");
    let more = manifest.replace("size: 3", "size: 4");
    assert_eq!(kubectl.run("apply -f -", &more).await.unwrap(), "widget.example.com/a configured\n");
    let explained = kubectl.run("explain widget.spec", "").await.unwrap();
    assert!(explained.contains("size\t<integer> -required-"), "{explained}");
    let typo = manifest.replace("size: 3", "sice: 3");
    let refused = kubectl.run("apply -f -", &typo).await.unwrap_err();
    assert!(refused.contains("unknown field \"spec.sice\""), "{refused}");
    assert_eq!(kubectl.run("delete widget a", "").await.unwrap(), "widget.example.com \"a\" deleted\n");
}
