//! Volumes: promises, zones, topologies.

use super::{choose, cluster, node, pod};
use crate::cluster::Cluster;
use crate::model::Pod;
use skiff_machinery::Value;
use skiff_machinery::codec::yaml;
use std::sync::Arc;

fn tree(text: &str) -> Arc<Value> {
    Arc::new(yaml::from_slice(text.as_bytes()).unwrap())
}
fn class(cluster: &mut Cluster, name: &str, more: &str) {
    let class = tree(&format!("metadata: {{name: {name}}}\nvolumeBindingMode: WaitForFirstConsumer\n{more}"));
    cluster.storage_mut().set_class(&name.into(), Some(class));
}
fn claim(cluster: &mut Cluster, name: &str, class: &str, volume: &str) {
    let done = if volume.is_empty() { "" } else { "pv.kubernetes.io/bind-completed: 'yes'" };
    let text = format!(
        "metadata: {{name: {name}, namespace: ns, uid: u-{name}, annotations: {{{done}}}}}\nspec: {{storageClassName: {class}, volumeName: '{volume}', accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}"
    );
    cluster.storage_mut().set_claim(("ns".into(), name.into()), Some(tree(&text)));
}
fn volume(cluster: &mut Cluster, name: &str, labels: &str, node: &str) {
    let affinity = format!(
        "nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchFields: [{{key: metadata.name, operator: In, values: [{node}]}}]}}]}}}}"
    );
    let affinity = if node.is_empty() { String::new() } else { affinity };
    let text = format!(
        "metadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  capacity: {{storage: 2Gi}}\n  accessModes: [ReadWriteOnce]\n  storageClassName: local\n  {affinity}\nstatus: {{phase: Available}}"
    );
    cluster.storage_mut().set_volume(&name.into(), Some(tree(&text)));
}
fn uses(name: &str, claim: &str) -> Arc<Pod> {
    let volumes = format!("volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]");
    pod(name, &format!("  containers: [{{name: c, image: i}}]\n  {volumes}"))
}
fn zoned(name: &str, zone: &str) -> Arc<crate::model::NodeFacts> {
    node(&format!(
        "metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nstatus: {{allocatable: {{cpu: '4', memory: 4Gi, pods: '10'}}}}"
    ))
}

#[test]
fn what_is_promised_to_one_pod_is_no_choice_for_another() {
    let mut cluster = cluster(&[zoned("a", "east"), zoned("b", "east")]);
    class(&mut cluster, "local", "provisioner: kubernetes.io/no-provisioner");
    for name in ["one", "two"] {
        claim(&mut cluster, name, "local", "");
    }
    volume(&mut cluster, "disk", "", "b");
    assert_eq!(choose(&cluster, &uses("p", "one")).as_deref(), Ok("b"));
    let first = crate::volumes::promise(&mut cluster, &uses("p", "one"), "b");
    assert_eq!(first.chosen.len(), 1);
    let none = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    assert_eq!(choose(&cluster, &uses("q", "two")).unwrap_err(), none);
    assert_eq!(choose(&cluster, &uses("p", "one")).as_deref(), Ok("b"), "it is still that claim's");
    cluster.storage_mut().forget(&first);
    assert_eq!(choose(&cluster, &uses("q", "two")).as_deref(), Ok("b"));
}

#[test]
fn bound_volumes_say_where_their_pods_go() {
    let mut cluster = cluster(&[zoned("a", "east"), zoned("b", "west")]);
    claim(&mut cluster, "one", "local", "disk");
    let gone = "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).";
    assert_eq!(choose(&cluster, &uses("p", "one")).unwrap_err(), gone);
    volume(&mut cluster, "disk", "topology.kubernetes.io/zone: west__south", "");
    assert_eq!(choose(&cluster, &uses("p", "one")).as_deref(), Ok("b"));
    volume(&mut cluster, "disk", "topology.kubernetes.io/zone: south", "");
    let far = "0/2 nodes are available: 2 node(s) had no available volume zone.";
    assert_eq!(choose(&cluster, &uses("p", "one")).unwrap_err(), far);
    volume(&mut cluster, "disk", "", "a");
    assert_eq!(choose(&cluster, &uses("p", "one")).as_deref(), Ok("a"));
}

#[test]
fn a_provisioner_may_be_for_some_nodes_only() {
    let mut cluster = cluster(&[zoned("a", "east"), zoned("b", "west")]);
    let topology = "allowedTopologies: [{matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [west]}]}]";
    class(&mut cluster, "made", &format!("provisioner: example.com/disk\n{topology}"));
    claim(&mut cluster, "one", "made", "");
    assert_eq!(choose(&cluster, &uses("p", "one")).as_deref(), Ok("b"));
    let bindings = crate::volumes::promise(&mut cluster, &uses("p", "one"), "b");
    assert_eq!((bindings.chosen.len(), bindings.provision.len()), (0, 1));
}
