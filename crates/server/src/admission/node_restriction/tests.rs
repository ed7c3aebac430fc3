use super::*;
use crate::admission::testing::{Case, cluster};
use base64::Engine;
use skiff_machinery::{list, object};

fn plugin() -> NodeRestriction {
    let cluster = cluster();
    cluster.put(&named("", "nodes"), object! { "metadata": object! { "name": "mine", "uid": "node-uid" } });
    for (name, node) in [("here", "mine"), ("there", "other")] {
        cluster.put(&named("", "pods"), running(name, node));
    }
    NodeRestriction::new(cluster as _)
}

fn running(name: &str, node: &str) -> Value {
    object! {
        "metadata": object! { "name": name, "namespace": "ns", "uid": "pod-uid" },
        "spec": object! {
            "nodeName": node,
            "volumes": list![object! { "projected": object! { "sources": list![
                object! { "serviceAccountToken": object! { "path": "token" } },
                object! { "serviceAccountToken": object! { "path": "v", "audience": "vault" } },
            ] } }],
        },
    }
}

async fn said(case: Case) -> String {
    let case = case.by("system:node:mine", &["system:nodes"]);
    match case.admit(&plugin()).await {
        Ok(_) => String::new(),
        Err(error) => {
            let message = error.message();
            message.split_once(" is forbidden: ").map_or(message, |(_, why)| why).to_owned()
        }
    }
}

fn mirror(change: impl FnOnce(&mut Value)) -> Case {
    let owner = object! { "apiVersion": "v1", "kind": "Node", "name": "mine", "uid": "node-uid", "controller": true };
    let mut pod = object! {
        "metadata": object! {
            "name": "static",
            "namespace": "ns",
            "annotations": object! { "kubernetes.io/config.mirror": "x" },
            "ownerReferences": list![owner],
        },
        "spec": object! { "nodeName": "mine", "containers": list![object! { "name": "c" }] },
    };
    change(&mut pod);
    Case::create("", "pods", "ns", pod)
}

fn owner(change: impl FnOnce(&mut Value)) -> impl FnOnce(&mut Value) {
    |pod| {
        let owners = pod.make("metadata").get_mut("ownerReferences").and_then(Value::as_array_mut).unwrap();
        change(&mut owners[0]);
    }
}

fn volume(source: Value) -> impl FnOnce(&mut Value) {
    move |pod| pod.make("spec").set("volumes", list![source])
}

#[tokio::test]
async fn others_are_not_restricted() {
    let pod = object! { "metadata": object! { "name": "p" } };
    let plain = Case::create("", "pods", "ns", pod.clone());
    plain.admit(&plugin()).await.unwrap();
    let nameless = Case::create("", "pods", "ns", pod).by("system:node:", &["system:nodes"]);
    assert_eq!(
        nameless.admit(&plugin()).await.unwrap_err().message(),
        "pods \"p\" is forbidden: could not determine node from user \"system:node:\""
    );
}

#[tokio::test]
async fn nodes_create_mirror_pods_only() {
    assert_eq!(said(mirror(|_| {})).await, "");
    let cannot = |what: &str| format!("node \"mine\" can not create pods that reference {what}");
    let only = |what: &str| format!("node \"mine\" can only create pods with {what}");
    let cases: Vec<(Case, String)> = vec![
        (
            mirror(|pod| drop(pod.make("metadata").unset("annotations"))),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"mine\" can only create mirror pods"
                .to_owned(),
        ),
        (mirror(|pod| pod.make("spec").set("nodeName", "other")), only("spec.nodeName set to itself")),
        (mirror(|pod| pod.make("spec").set("nodeName", "")), only("spec.nodeName set to itself")),
        (mirror(|pod| drop(pod.make("metadata").unset("ownerReferences"))), only("an owner reference set to itself")),
        (
            mirror(|pod| pod.make("metadata").set("ownerReferences", list![object! {}, object! {}])),
            only("a single owner reference set to itself"),
        ),
        (mirror(owner(|owner| owner.set("name", "other"))), only("an owner reference set to itself")),
        (mirror(owner(|owner| owner.set("kind", "Pod"))), only("an owner reference set to itself")),
        (mirror(owner(|owner| owner.set("apiVersion", "v2"))), only("an owner reference set to itself")),
        (mirror(owner(|owner| owner.set("controller", false))), only("a controller owner reference set to itself")),
        (
            mirror(owner(|owner| owner.set("blockOwnerDeletion", true))),
            "node \"mine\" must not set blockOwnerDeletion on an owner reference".to_owned(),
        ),
        (
            mirror(owner(|owner| owner.set("uid", "old"))),
            "node mine UID mismatch: expected old got node-uid".to_owned(),
        ),
        (mirror(|pod| pod.make("spec").set("serviceAccountName", "x")), cannot("a service account")),
        (mirror(volume(object! { "secret": object! { "secretName": "s" } })), cannot("secrets")),
        (mirror(volume(object! { "configMap": object! { "name": "c" } })), cannot("configmaps")),
        (
            mirror(volume(object! { "persistentVolumeClaim": object! { "claimName": "c" } })),
            cannot("persistentvolumeclaims"),
        ),
        (mirror(volume(object! { "ephemeral": object! {} })), cannot("persistentvolumeclaims")),
        (
            mirror(volume(
                object! { "projected": object! { "sources": list![object! { "clusterTrustBundle": object! {} }] } },
            )),
            cannot("clustertrustbundles"),
        ),
        (
            mirror(volume(
                object! { "projected": object! { "sources": list![object! { "serviceAccountToken": object! {} }] } },
            )),
            cannot("service account tokens"),
        ),
        (
            mirror(|pod| {
                let container = object! { "envFrom": list![object! { "secretRef": object! { "name": "s" } }] };
                pod.make("spec").set("initContainers", list![container]);
            }),
            cannot("secrets"),
        ),
        (
            mirror(|pod| {
                let reference = object! { "configMapKeyRef": object! { "name": "c", "key": "k" } };
                let container = object! { "env": list![object! { "name": "e", "valueFrom": reference }] };
                pod.make("spec").set("containers", list![container]);
            }),
            cannot("configmaps"),
        ),
        (
            mirror(|pod| pod.make("spec").set("resourceClaims", list![object! { "name": "gpu" }])),
            cannot("resourceclaims"),
        ),
    ];
    for (case, why) in cases {
        assert_eq!(said(case).await, why);
    }
}

#[tokio::test]
async fn nodes_end_and_describe_their_own_pods() {
    let (own, other) = (running("here", "mine"), running("there", "other"));
    assert_eq!(said(Case::delete("", "pods", "ns", own.clone())).await, "");
    assert_eq!(
        said(Case::delete("", "pods", "ns", other.clone())).await,
        "node \"mine\" can only delete pods with spec.nodeName set to itself"
    );
    assert_eq!(
        said(Case::update("", "pods", "ns", own.clone(), own.clone())).await,
        "unexpected operation \"UPDATE\", node \"mine\" can only create and delete mirror pods"
    );
    let status = |new: Value, old: &Value| Case::update("", "pods", "ns", new, old.clone()).sub("status");
    assert_eq!(said(status(own.clone(), &own)).await, "");
    assert_eq!(
        said(status(other.clone(), &other)).await,
        "node \"mine\" can only update pod status for pods with spec.nodeName set to itself"
    );
    let mut labelled = own.clone();
    labelled.make("metadata").set("labels", object! { "a": "b" });
    assert_eq!(said(status(labelled, &own)).await, "node \"mine\" cannot update labels through pod status");
    let mut claiming = own.clone();
    claiming.make("status").set("resourceClaimStatuses", list![object! { "name": "gpu" }]);
    assert_eq!(said(status(claiming, &own)).await, "node \"mine\" cannot update resource claim statues");
    assert_eq!(
        said(Case::update("", "pods", "ns", own.clone(), own).sub("ephemeralcontainers")).await,
        "unexpected pod subresource \"ephemeralcontainers\", only 'status' and 'eviction' are allowed"
    );
    let evict =
        |name: &str| Case::create("", "pods", "ns", object! { "metadata": object! { "name": name } }).sub("eviction");
    assert_eq!(said(evict("here")).await, "");
    assert_eq!(said(evict("there")).await, "node mine can only evict pods with spec.nodeName set to itself");
    assert_eq!(said(evict("nowhere")).await, "pods \"nowhere\" not found");
}

#[tokio::test]
async fn nodes_change_little_of_themselves() {
    let node = |name: &str| object! { "metadata": object! { "name": name } };
    let labelled = |labels: Value| object! { "metadata": object! { "name": "mine", "labels": labels } };
    let create = |node: Value| Case::create("", "nodes", "", node);
    let update = |new: Value, old: Value| Case::update("", "nodes", "", new, old);
    assert_eq!(said(create(node("mine"))).await, "");
    assert_eq!(said(create(node("other"))).await, "node \"mine\" is not allowed to modify node \"other\"");
    assert_eq!(
        said(update(node("other"), node("other"))).await,
        "node \"mine\" is not allowed to modify node \"other\""
    );
    for (label, allowed) in [
        ("zone", true),
        ("example.com/a", true),
        ("kubernetes.io/hostname", true),
        ("topology.kubernetes.io/zone", true),
        ("kubelet.kubernetes.io/a", true),
        ("a.node.kubernetes.io/a", true),
        ("notkubernetes.io/a", true),
        ("node-restriction.kubernetes.io/a", false),
        ("a.node-restriction.kubernetes.io/a", false),
        ("kubernetes.io/role", false),
        ("node-role.kubernetes.io/master", false),
        ("other.k8s.io/a", false),
    ] {
        let labels: Map = [(label.to_owned(), Value::from("x"))].into_iter().collect();
        let labels = Value::Object(labels);
        let why = |text: String| if allowed { String::new() } else { text };
        assert_eq!(
            said(create(labelled(labels.clone()))).await,
            why(format!("node \"mine\" is not allowed to set the following labels: {label}"))
        );
        let text = why(format!("is not allowed to modify labels: {label}"));
        assert_eq!(said(update(labelled(labels.clone()), node("mine"))).await, text);
        assert_eq!(said(update(node("mine"), labelled(labels.clone()))).await, text);
        assert_eq!(said(update(labelled(labels.clone()), labelled(labels))).await, "");
    }
    let mut tainted = node("mine");
    tainted.make("spec").set("taints", list![object! { "key": "a" }]);
    for (new, old) in [(tainted.clone(), node("mine")), (node("mine"), tainted.clone())] {
        assert_eq!(said(update(new, old).sub("status")).await, "node \"mine\" is not allowed to modify taints");
    }
    assert_eq!(said(create(tainted)).await, "");
    let mut owned = node("mine");
    owned.make("metadata").set("ownerReferences", list![object! { "kind": "Node" }]);
    assert_eq!(said(update(owned, node("mine"))).await, "node \"mine\" is not allowed to modify ownerReferences");
    assert_eq!(said(Case::delete("", "nodes", "", node("mine"))).await, "node \"mine\" is not allowed to delete nodes");
}

#[tokio::test]
async fn tokens_are_for_pods_that_run_here() {
    let request = |pod: &str, uid: &str, audiences: Value| {
        let bound = object! { "apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid };
        let spec = object! { "boundObjectRef": bound, "audiences": audiences };
        Case::create("", "serviceaccounts", "ns", object! { "spec": spec }).sub("token")
    };
    assert_eq!(said(request("here", "pod-uid", list![])).await, "");
    assert_eq!(said(request("here", "pod-uid", list!["vault"])).await, "");
    for (case, why) in [
        (request("", "pod-uid", list![]), "node requested token not bound to a pod"),
        (
            Case::create("", "serviceaccounts", "ns", object! { "spec": object! {} }).sub("token"),
            "node requested token not bound to a pod",
        ),
        (request("here", "", list![]), "node requested token with a pod binding without a uid"),
        (
            request("here", "old", list![]),
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (request("there", "pod-uid", list![]), "node requested token bound to a pod scheduled on a different node"),
        (request("nowhere", "pod-uid", list![]), "pods \"nowhere\" not found"),
        (request("here", "pod-uid", list!["vault", ""]), "node may only request 0 or 1 audiences"),
        (
            request("here", "pod-uid", list!["else"]),
            "audience \"else\" not found in pod spec volume, system:node:mine is not authorized to request tokens for this audience",
        ),
    ] {
        assert_eq!(said(case).await, why);
    }
}

#[tokio::test]
async fn the_rest_of_what_nodes_write() {
    let called = |name: &str| object! { "metadata": object! { "name": name } };
    let lease = |namespace, name| Case::create("coordination.k8s.io", "leases", namespace, called(name));
    assert_eq!(said(lease("kube-node-lease", "mine")).await, "");
    let same = "can only access node lease with the same name as the requesting node";
    assert_eq!(said(lease("kube-node-lease", "other")).await, same);
    assert_eq!(
        said(lease("kube-system", "mine")).await,
        "can only access leases in the \"kube-node-lease\" system namespace"
    );
    let csi = |name| Case::delete("storage.k8s.io", "csinodes", "", called(name));
    assert_eq!(said(csi("mine")).await, "");
    assert_eq!(said(csi("other")).await, "can only access CSINode with the same name as the requesting node");
    let mut claim = called("c");
    claim.make("status").set("capacity", object! { "storage": "1Gi" });
    let status = |new: Value| Case::update("", "persistentvolumeclaims", "ns", new, called("c")).sub("status");
    assert_eq!(said(status(claim.clone())).await, "");
    claim.make("metadata").set("finalizers", list!["x"]);
    assert_eq!(
        said(status(claim.clone())).await,
        "node \"mine\" is not allowed to update fields other than status.capacity and status.conditions"
    );
    assert_eq!(
        said(Case::update("", "persistentvolumeclaims", "ns", claim.clone(), claim)).await,
        "may only update PVC status"
    );
    let slice = |node: &str| object! { "metadata": object! { "name": "s" }, "spec": object! { "nodeName": node } };
    assert_eq!(said(Case::create("resource.k8s.io", "resourceslices", "", slice("mine"))).await, "");
    assert_eq!(
        said(Case::create("resource.k8s.io", "resourceslices", "", slice(""))).await,
        "can only create ResourceSlice with the same NodeName as the requesting node"
    );
    assert_eq!(
        said(Case::delete("resource.k8s.io", "resourceslices", "", slice("other"))).await,
        "can only delete ResourceSlice with the same NodeName as the requesting node"
    );
    let request = |signer: &str, name: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(request_for(name));
        let spec = object! { "signerName": signer, "request": text };
        let request = object! { "metadata": object! { "name": "r" }, "spec": spec };
        Case::create("certificates.k8s.io", "certificatesigningrequests", "", request)
    };
    for signer in KUBELET_SIGNERS {
        assert_eq!(said(request(signer, "system:node:mine")).await, "");
        assert_eq!(
            said(request(signer, "system:node:other")).await,
            "can only create a node CSR with CN=system:node:mine"
        );
    }
    assert_eq!(said(request("example.com/x", "system:node:other")).await, "");
    assert!(said(request(KUBELET_SIGNERS[0], "").sub("")).await.starts_with("can only create a node CSR"));
    let broken = object! {
        "metadata": object! { "name": "r" },
        "spec": object! { "signerName": KUBELET_SIGNERS[0], "request": "eA==" },
    };
    let broken = Case::create("certificates.k8s.io", "certificatesigningrequests", "", broken);
    assert!(said(broken).await.starts_with("unable to parse csr: "));
}

/// PEM of a certificate request for a common name; its key and signature are nobody's, which is not looked at here.
fn request_for(name: &str) -> String {
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        let length = content.len();
        if length < 128 {
            out.push(u8::try_from(length).unwrap());
        } else {
            out.extend([0x81, u8::try_from(length).unwrap()]);
        }
        out.extend_from_slice(content);
        out
    }
    let common_name = [der(6, &[0x55, 4, 3]), der(12, name.as_bytes())].concat();
    let subject = der(0x30, &der(0x31, &der(0x30, &common_name)));
    let ed25519 = der(0x30, &der(6, &[0x2b, 0x65, 0x70]));
    let key = der(0x30, &[ed25519.clone(), der(3, &[0; 33])].concat());
    let info = der(0x30, &[der(2, &[0]), subject, key, der(0xa0, &[])].concat());
    let request = der(0x30, &[info, ed25519, der(3, &[0; 65])].concat());
    let text = base64::engine::general_purpose::STANDARD.encode(request);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}
