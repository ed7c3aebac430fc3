//! Pods with claims: bound volumes say where, others are chosen with the node, and what cannot be says why.

use crate::cluster::{Cluster, condition};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, object};

const CLAIM: &str = "  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]";

fn volume(name: &str, size: &str, node: &str) -> String {
    format!(
        "metadata: {{name: {name}}}\nspec:\n  capacity: {{storage: {size}}}\n  accessModes: [ReadWriteOnce]\n  storageClassName: local\n  local: {{path: /srv/{name}}}\n  nodeAffinity:\n    required:\n      nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: ['{node}']}}]}}]"
    )
}
fn claim(name: &str, class: &str, mode: &str) -> String {
    format!(
        "metadata: {{name: {name}}}\nspec: {{storageClassName: '{class}', accessModes: [{mode}], resources: {{requests: {{storage: 1Gi}}}}}}"
    )
}

impl Cluster {
    async fn storage(&self, resource: &str, text: &str) {
        let namespace = if resource == "persistentvolumeclaims" { "shop" } else { "" };
        self.make("", resource, namespace, text).await;
    }
    async fn class(&self, name: &str, provisioner: &str) {
        let text =
            format!("metadata: {{name: {name}}}\nprovisioner: {provisioner}\nvolumeBindingMode: WaitForFirstConsumer");
        self.make("storage.k8s.io", "storageclasses", "", &text).await;
    }
    /// A volume is there for whoever wants it, as the binder says it.
    async fn volume(&self, name: &str, size: &str, node: &str) {
        self.storage("persistentvolumes", &volume(name, size, node)).await;
        let patch = object! { "status": object! { "phase": "Available" } };
        let volumes = self.api("", "persistentvolumes", "");
        volumes.patch(name, "status", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }
    /// Waits until the pod's condition begins with this.
    async fn refused_for(&self, pod: &str, why: &str) {
        let said = |pod: &Value| {
            let condition = condition(pod, "PodScheduled", "Unschedulable");
            condition.is_some_and(|condition| condition.str_at(&["message"]).starts_with(why))
        };
        self.until(pod, why, said).await;
    }
    /// What the binder does once a volume is a claim's.
    async fn complete(&self, name: &str, volume: &str) {
        let mut annotations = skiff_machinery::Map::new();
        annotations.insert("pv.kubernetes.io/bind-completed", "yes");
        let patch = object! {
            "metadata": object! { "annotations": annotations }, "spec": object! { "volumeName": volume },
        };
        let claims = self.api("", "persistentvolumeclaims", "shop");
        claims.patch(name, "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_chosen_with_the_node_and_bound_before_the_pod() {
    let cluster = Cluster::start().await;
    cluster.class("local", "kubernetes.io/no-provisioner").await;
    cluster.node("a", "4").await;
    cluster.node("b", "4").await;
    cluster.pod("p", "web", "1", CLAIM).await;
    let missing = "0/2 nodes are available: persistentvolumeclaim \"data\" not found.";
    cluster.refused_for("p", missing).await;
    cluster.storage("persistentvolumeclaims", &claim("data", "local", "ReadWriteOnce")).await;
    cluster
        .refused_for("p", "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.")
        .await;
    cluster.volume("large", "9Gi", "b").await;
    let volumes = cluster.api("", "persistentvolumes", "");
    let taken = skiff_testkit::eventually("the volume to be taken", async || {
        let volume = volumes.fetch("large").await.unwrap();
        if volume.str_at(&["spec", "claimRef", "name"]) == "data" { Ok(volume) } else { Err(volume) }
    })
    .await;
    assert_eq!(taken.str_at(&["metadata", "annotations", "pv.kubernetes.io/bound-by-controller"]), "yes");
    assert_eq!(
        cluster.pods().fetch("p").await.unwrap().str_at(&["spec", "nodeName"]),
        "",
        "the claim is not bound yet"
    );
    cluster.complete("data", "large").await;
    assert_eq!(cluster.bound("p").await, "b");
    // The next pod with the claim has to go where the volume is.
    cluster.pod("q", "web", "1", &format!("{CLAIM}\n  nodeSelector: {{kubernetes.io/hostname: a}}")).await;
    let why = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match Pod's node affinity/selector.";
    cluster.refused_for("q", why).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisioners_are_told_the_node_and_immediate_claims_are_not_waited_with() {
    let cluster = Cluster::start().await;
    cluster.class("made", "example.com/disk").await;
    cluster.node("a", "4").await;
    cluster.storage("persistentvolumeclaims", &claim("data", "", "ReadWriteOnce")).await;
    cluster.pod("p", "web", "1", CLAIM).await;
    let why = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    cluster.refused_for("p", why).await;
    cluster.end_pod("p").await;
    cluster.storage("persistentvolumeclaims", &claim("later", "made", "ReadWriteOnce")).await;
    cluster.pod("q", "web", "1", &CLAIM.replace("claimName: data", "claimName: later")).await;
    let claims = cluster.api("", "persistentvolumeclaims", "shop");
    skiff_testkit::until("the node to be told", async || {
        let claim = claims.fetch("later").await.unwrap();
        claim.str_at(&["metadata", "annotations", "volume.kubernetes.io/selected-node"]) == "a"
    })
    .await;
    cluster.storage("persistentvolumes", &volume("made", "1Gi", "a").replace("Name: local", "Name: made")).await;
    cluster.complete("later", "made").await;
    assert_eq!(cluster.bound("q").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_one_pod_is_one_pods() {
    let cluster = Cluster::start().await;
    cluster.node("a", "4").await;
    cluster.storage("persistentvolumeclaims", &claim("data", "local", "ReadWriteOncePod")).await;
    let text = volume("disk", "1Gi", "a").replace("ReadWriteOnce", "ReadWriteOncePod");
    cluster.storage("persistentvolumes", &text).await;
    cluster.complete("data", "disk").await;
    cluster.pod("first", "web", "1", CLAIM).await;
    assert_eq!(cluster.bound("first").await, "a");
    cluster.pod("second", "web", "1", CLAIM).await;
    let why = "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.";
    cluster.refused_for("second", why).await;
    cluster.end_pod("first").await;
    assert_eq!(cluster.bound("second").await, "a");
    let second: Value = cluster.pods().fetch("second").await.unwrap();
    assert_eq!(second.str_at(&["spec", "nodeName"]), "a");
}
