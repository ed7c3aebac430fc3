//! Owners go, and what they owned goes with them, whenever it was made.

use crate::cluster::{Cluster, deployment};
use skiff_client::api::delete_options;

/// Deployments whose pods are killed while they are deleted: the replacements that their ReplicaSets make at the last
/// moment must go too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacements_made_while_the_owner_goes_do_not_stay() {
    let cluster = Cluster::with_controllers().await;
    let deployments = cluster.api("apps", "v1", "deployments", "shop");
    let pods = cluster.pods();
    let rounds: usize = std::env::var("ROUNDS").map_or(8, |text| text.parse().unwrap());
    for round in 0..rounds {
        let names: Vec<String> = (0..4).map(|number| format!("web-{round}-{number}")).collect();
        for name in &names {
            cluster.create(&deployments, deployment(name, 3)).await;
        }
        cluster.until("pods", || async { cluster.items(&pods).await.len() >= 12 }).await;
        let doomed = cluster.items(&pods).await;
        for (number, name) in names.iter().enumerate() {
            let policy = if number % 2 == 0 { "Background" } else { "Foreground" };
            let killer = async {
                for pod in doomed.iter().filter(|pod| pod.str_at(&["metadata", "labels", "app"]) == name) {
                    drop(pods.delete(pod.str_at(&["metadata", "name"]), None).await);
                }
            };
            let owner = async { deployments.delete(name, Some(&delete_options("", policy))).await.unwrap() };
            tokio::join!(killer, owner);
        }
        cluster.until("no pod to be left", || async { cluster.items(&pods).await.is_empty() }).await;
        let sets = cluster.api("apps", "v1", "replicasets", "shop");
        cluster.until("no set to be left", || async { cluster.items(&sets).await.is_empty() }).await;
        cluster.until("no deployment to be left", || async { cluster.items(&deployments).await.is_empty() }).await;
    }
}
