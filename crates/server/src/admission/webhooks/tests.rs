use super::super::testing::{Case, cluster};
use super::*;
use crate::authz::testing::Fake;
use skiff_machinery::object;

fn configure(cluster: &Fake, webhook: Value) -> Vec<Arc<Hook>> {
    let resource = named("admissionregistration.k8s.io", "validatingwebhookconfigurations");
    let object = object! { "metadata": object! { "name": "c" }, "webhooks": skiff_machinery::list![webhook] };
    cluster.put(&resource, object);
    config::hooks(cluster, &resource)
}

fn webhook(rule: &str, more: &str) -> Value {
    let text = format!(
        r#"{{"name":"a.example.com","clientConfig":{{"url":"https://h"}},"admissionReviewVersions":["v1"],"sideEffects":"None",
        "failurePolicy":"Fail","matchPolicy":"Equivalent","namespaceSelector":{{}},"objectSelector":{{}},"rules":[{rule}]{more}}}"#
    );
    json::from_str(&text).unwrap()
}

fn rule(operations: &str, groups: &str, versions: &str, resources: &str, scope: &str) -> String {
    let list = |items: &str| items.split(',').map(quote).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"operations":[{}],"apiGroups":[{}],"apiVersions":[{}],"resources":[{}],"scope":"{scope}"}}"#,
        list(operations),
        list(groups),
        list(versions),
        list(resources)
    )
}

#[tokio::test]
async fn rules_say_which_requests_are_seen() {
    let pod = object! { "metadata": object! { "name": "p", "labels": object! { "a": "b" } } };
    let create = || Case::create("", "pods", "n", pod.clone());
    let update = || Case::update("", "pods", "n", pod.clone(), pod.clone());
    let namespace = object! { "metadata": object! { "name": "n", "labels": object! { "team": "x" } } };
    for (case, rule, more, wanted) in [
        (create(), rule("CREATE", "", "v1", "pods", "*"), "", true),
        (create(), rule("UPDATE", "", "v1", "pods", "*"), "", false),
        (update(), rule("*", "*", "*", "*", "*"), "", true),
        (create(), rule("CREATE", "apps", "v1", "pods", "*"), "", false),
        (create(), rule("CREATE", "", "v1", "services,pods", "Namespaced"), "", true),
        (create(), rule("CREATE", "", "v1", "pods", "Cluster"), "", false),
        (create(), rule("CREATE", "", "v1", "pods/status", "*"), "", false),
        (update().sub("status"), rule("*", "", "v1", "pods", "*"), "", false),
        (update().sub("status"), rule("*", "", "v1", "pods/status", "*"), "", true),
        (update().sub("status"), rule("*", "", "v1", "*", "*"), "", false),
        (update().sub("status"), rule("*", "", "v1", "*/*", "*"), "", true),
        (update().sub("status"), rule("*", "", "v1", "*/status", "*"), "", true),
        (create(), rule("*", "*", "*", "*", "*"), r#","namespaceSelector":{"matchLabels":{"team":"x"}}"#, true),
        (create(), rule("*", "*", "*", "*", "*"), r#","namespaceSelector":{"matchLabels":{"team":"y"}}"#, false),
        (create(), rule("*", "*", "*", "*", "*"), r#","objectSelector":{"matchLabels":{"a":"b"}}"#, true),
        (create(), rule("*", "*", "*", "*", "*"), r#","objectSelector":{"matchLabels":{"a":"c"}}"#, false),
        // A namespace is told apart by its own labels, and is no namespaced object.
        (
            Case::create("", "namespaces", "", namespace.clone()),
            rule("*", "", "v1", "namespaces", "Cluster"),
            r#","namespaceSelector":{"matchLabels":{"team":"x"}}"#,
            true,
        ),
        (
            Case::create("", "namespaces", "", namespace.clone()),
            rule("*", "", "v1", "namespaces", "Namespaced"),
            "",
            false,
        ),
        // Nobody reviews who reviews.
        (
            Case::create("admissionregistration.k8s.io", "validatingwebhookconfigurations", "", pod.clone()),
            rule("*", "*", "*", "*", "*"),
            "",
            false,
        ),
        // Another version of the same kind.
        (
            Case::create("autoscaling", "horizontalpodautoscalers", "n", pod.clone()),
            rule("*", "autoscaling", "v1", "*", "*"),
            "",
            true,
        ),
    ] {
        let cluster = cluster();
        cluster.put(&named("", "namespaces"), namespace.clone());
        let hook = webhook(&rule, more);
        let hooks = configure(&cluster, hook);
        assert_eq!(hooks.len(), 1);
        let found = case.with_attributes(|attributes| {
            let is_namespace = attributes.is_of("", "namespaces");
            let of = (is_namespace || !attributes.namespace.is_empty()).then_some(&namespace);
            hooks[0].wants(attributes, of).is_some()
        });
        assert_eq!(found, wanted, "{rule} {more}");
    }
}

#[test]
fn requests_tell_everything() {
    let pod = object! { "metadata": object! { "name": "p" } };
    let case = Case::update("", "pods", "n", pod.clone(), pod).sub("status").by("jane", &["dev"]);
    let request = case.with_attributes(|attributes| request(attributes, 0)).unwrap();
    assert_eq!(request.str_at(&["kind", "kind"]), "Pod");
    assert_eq!(request.str_at(&["resource", "resource"]), "pods");
    assert_eq!(request.str_at(&["requestResource", "version"]), "v1");
    assert_eq!((request.text("subResource"), request.text("operation")), ("status", "UPDATE"));
    assert_eq!((request.text("name"), request.text("namespace")), ("p", "n"));
    assert_eq!(request.str_at(&["userInfo", "username"]), "jane");
    assert_eq!(request.str_at(&["object", "apiVersion"]), "v1");
    assert_eq!(request.str_at(&["oldObject", "kind"]), "Pod");
    assert_eq!(request.get("dryRun"), Some(&Value::Bool(false)));
    assert_eq!(request.text("uid").len(), 36);
}

#[tokio::test]
async fn conditions_choose_requests() {
    let pod = object! { "metadata": object! { "name": "p" } };
    let case = Case::create("", "pods", "n", pod).by("jane", &[]);
    for (conditions, policy, wanted) in [
        (r#"[{"name":"x","expression":"object.metadata.name == 'p'"}]"#, "Fail", Ok(true)),
        (r#"[{"name":"x","expression":"request.userInfo.username != 'jane'"}]"#, "Fail", Ok(false)),
        (r#"[{"name":"x","expression":"object.spec.y == 1"}]"#, "Fail", Err(())),
        (r#"[{"name":"x","expression":"object.spec.y == 1"}]"#, "Ignore", Ok(false)),
        (r#"[{"name":"x","expression":"object.spec.y == 1"},{"name":"z","expression":"false"}]"#, "Fail", Ok(false)),
        (r#"[{"name":"x","expression":"oldObject == null"}]"#, "Fail", Ok(true)),
    ] {
        let cluster = cluster();
        let mut hook = webhook(&rule("*", "*", "*", "*", "*"), &format!(r#","matchConditions":{conditions}"#));
        hook.set("failurePolicy", policy);
        let hooks = configure(&cluster, hook);
        let found = case.with_attributes(|attributes| {
            conditions_hold(&hooks[0], &request(attributes, 0).unwrap(), attributes, None)
                .map_err(|error| error.message().to_owned())
        });
        if let Err(why) = &found {
            assert!(why.contains("failed evaluating match conditions"), "{why}");
        }
        assert_eq!(found.map_err(|_| ()), wanted, "{conditions}");
    }
}
