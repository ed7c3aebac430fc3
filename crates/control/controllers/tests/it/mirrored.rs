//! Endpoints that people write for services without selector are mirrored to slices.

use crate::cluster::Cluster;
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Map, Value, list, object};

const SERVICE: &str = "kubernetes.io/service-name";

fn endpoints(address: &str) -> Value {
    object! {
        "metadata": object! { "name": "db", "labels": object! { "team": "a" } },
        "subsets": list![object! {
            "addresses": list![object! { "ip": address }], "ports": list![object! { "port": 5432 }],
        }],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_without_selector_have_a_mirror_that_follows_and_goes() {
    let cluster = Cluster::with_controllers().await;
    let services = cluster.api("", "v1", "services", "shop");
    let all = cluster.api("", "v1", "endpoints", "shop");
    let slices = cluster.api("discovery.k8s.io", "v1", "endpointslices", "shop");
    let options = WriteOptions::default();
    let mirrors = || async {
        let slices = cluster.items(&slices).await;
        slices
            .into_iter()
            .filter(|slice| {
                let by = slice.str_at(&["metadata", "labels", "endpointslice.kubernetes.io/managed-by"]);
                by == "endpointslicemirroring-controller.k8s.io"
                    && slice.str_at(&["metadata", "labels", SERVICE]) == "db"
            })
            .collect::<Vec<_>>()
    };
    let address = |slice: &Value| {
        let endpoint = slice.items_at(&["endpoints"]).first().cloned().unwrap_or_default();
        endpoint.items_at(&["addresses"]).first().and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    // Endpoints alone are nobody's: a mirror needs a service.
    cluster.create(&all, endpoints("192.0.2.1")).await;
    let spec = object! { "ports": list![object! { "port": 5432 }] };
    cluster.create(&services, object! { "metadata": object! { "name": "db" }, "spec": spec }).await;
    cluster.until("a mirror", || async { mirrors().await.len() == 1 }).await;
    let made = mirrors().await.remove(0);
    assert_eq!((address(&made).as_str(), made.str_at(&["metadata", "labels", "team"])), ("192.0.2.1", "a"));
    assert_eq!(made.items_at(&["ports"])[0].get("port").and_then(Value::as_int), Some(5432));
    all.replace("db", "", &endpoints("192.0.2.2"), &options).await.unwrap();
    cluster
        .until("the mirror to follow", || async {
            let mirrors = mirrors().await;
            mirrors.len() == 1 && address(&mirrors[0]) == "192.0.2.2"
        })
        .await;
    // A mirror that somebody deletes is made again.
    let name = mirrors().await[0].str_at(&["metadata", "name"]).to_owned();
    slices.delete(&name, None).await.unwrap();
    cluster.until("the mirror to be back", || async { mirrors().await.len() == 1 }).await;
    let mut labels = Map::new();
    labels.insert("endpointslice.kubernetes.io/skip-mirror", "true");
    let patch = object! { "metadata": object! { "labels": labels } };
    all.patch("db", "", &Patch::Merge(&patch), &options).await.unwrap();
    cluster.until("the mirror to go", || async { mirrors().await.is_empty() }).await;
    let mut labels = Map::new();
    labels.insert("endpointslice.kubernetes.io/skip-mirror", Value::Null);
    let patch = object! { "metadata": object! { "labels": labels } };
    all.patch("db", "", &Patch::Merge(&patch), &options).await.unwrap();
    cluster.until("the mirror to come again", || async { mirrors().await.len() == 1 }).await;
    services.delete("db", None).await.unwrap();
    cluster.until("the mirror to go with the service", || async { mirrors().await.is_empty() }).await;
}
