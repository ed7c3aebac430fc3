//! Workloads that tests put on a cluster: a web server, as a Deployment behind a Service.

use crate::cluster::wait;
use crate::http::{Answer, Api, As, fetch};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SETS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";

pub(crate) fn must(answer: Answer) -> Value {
    assert!(answer.code < 300, "{}: {}", answer.code, String::from_utf8_lossy(&answer.body));
    answer.json()
}

pub(crate) fn create(api: &Api, path: &str, object: &Value) -> Value {
    must(api.request(As::Admin, "POST", path, Some(object)).unwrap())
}

pub(crate) fn items(api: &Api, path: &str) -> Vec<Value> {
    must(api.get(path).unwrap())["items"].as_array().expect("a list").clone()
}

pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": "localhost/web:1", "command": ["httpd", "-f", "-p", "8080", "-h", "/"],
                "readinessProbe": {"httpGet": {"path": "/version", "port": 8080}, "periodSeconds": 1},
            }]},
        }},
    })
}

/// What must not change while only the server is gone: pod, container and restarts by name.
pub(crate) fn lives_of(api: &Api, app: &str) -> BTreeMap<String, (String, String, u64)> {
    let pods = items(api, &format!("{PODS}?labelSelector=app%3D{app}"));
    let life = |pod: &Value| {
        let container = &pod["status"]["containerStatuses"][0];
        let id = (text(pod, "/metadata/uid").to_owned(), text(container, "/containerID").to_owned());
        (text(pod, "/metadata/name").to_owned(), (id.0, id.1, container["restartCount"].as_u64().unwrap_or(99)))
    };
    pods.iter().map(life).collect()
}

pub(crate) fn available(api: &Api, name: &str, replicas: u64) {
    wait(&format!("{replicas} of {name}"), 2 * MINUTE, || {
        let set = api.get(&format!("{SETS}/{name}")).ok()?.json();
        let observed = set["status"]["observedGeneration"] == set["metadata"]["generation"];
        (observed && set["status"]["availableReplicas"] == replicas && set["status"]["replicas"] == replicas)
            .then_some(())
    });
}

pub(crate) fn serve(api: &Api, name: &str, replicas: u32) -> String {
    create(api, SETS, &deployment(name, replicas));
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}});
    let made = create(api, SERVICES, &service);
    available(api, name, u64::from(replicas));
    let address = format!("{}:80", text(&made, "/spec/clusterIP"));
    wait("an answer of the service", MINUTE, || {
        fetch(&address, "/version").ok().filter(|page| page.ends_with("\r\n1\n"))
    });
    address
}

pub(crate) fn delete_all(api: &Api, names: &[String]) {
    for name in names {
        must(api.request(As::Admin, "DELETE", &format!("{SETS}/{name}"), None).unwrap());
    }
    wait("the last pod", 2 * MINUTE, || items(api, PODS).is_empty().then_some(()));
}
