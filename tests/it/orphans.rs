//! Owners that are deleted while their controllers make more: nobody's pods must not stay.

use crate::cluster::{Cluster, wait};
use crate::http::{Api, As};
use crate::world::within;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/deployments";
const APPS: usize = 25;

/// Once two replacements that were made just when their ReplicaSet went stayed for ever. Here pods are deleted all the
/// time, so that replacements are always on their way, while one Deployment after the other goes.
#[test]
fn replacements_go_with_their_owner() {
    within("orphans::replacements_go_with_their_owner", 300, |world| {
        let cluster = Cluster::start(world);
        cluster.node_ready();
        for round in 0..4 {
            one_round(&cluster.api, round);
        }
        let complaints = cluster.complaints(&[]);
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
    });
}

fn pods(api: &Api) -> Vec<Value> {
    api.get(PODS).unwrap().json()["items"].as_array().cloned().unwrap_or_default()
}

fn one_round(api: &Api, round: u32) {
    for number in 0..APPS {
        let name = format!("app-{number}");
        let set = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}},
                // Never runs: what is deleted goes at once, and its replacement comes at once.
                "spec": {"nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "none"}]},
            }},
        });
        assert_eq!(api.request(As::Admin, "POST", SETS, Some(&set)).unwrap().code, 201);
    }
    wait("all pods", Duration::from_secs(30), || (pods(api).len() == 2 * APPS).then_some(()));
    let done = AtomicBool::new(false);
    let removed = std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(Ordering::Relaxed) {
                for pod in pods(api) {
                    let path = format!("{PODS}/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
                    let code = api.request(As::Admin, "DELETE", &path, None).unwrap().code;
                    assert!(matches!(code, 200 | 404), "{code}");
                    removed += u32::from(code == 200);
                }
            }
            removed
        });
        for number in 0..APPS {
            let policy = ["Background", "Foreground"][number % 2];
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
            let code = api
                .request(As::Admin, "DELETE", &format!("{SETS}/app-{number}"), Some(&options))
                .map(|answer| answer.code);
            if code.as_ref().is_ok_and(|code| *code != 200) || code.is_err() {
                done.store(true, Ordering::Relaxed);
                panic!("{code:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
        remover.join().expect("pods are deleted")
    });
    println!("round {round}: {removed} pods were deleted meanwhile");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let left = pods(api);
        if left.is_empty() {
            return;
        }
        let left: Vec<&Value> = left.iter().map(|pod| &pod["metadata"]).collect();
        assert!(Instant::now() < end, "round {round}: without an owner, and there: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
