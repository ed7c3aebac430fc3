//! Certificate requests: approved for nodes, signed by the authority that the server believes, failed with a reason.

use crate::cluster::Cluster;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use skiff_client::WriteOptions;
use skiff_machinery::{Value, list, object};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

fn request(name: &str, signer: &str, subject: (&str, &str), dns: Option<&str>, usages: Value) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, subject.0);
    params.distinguished_name.push(DnType::CommonName, subject.1);
    params.subject_alt_names = dns.map(|name| SanType::DnsName(name.try_into().unwrap())).into_iter().collect();
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    object! {
        "metadata": object! { "name": name },
        "spec": object! { "signerName": signer, "request": STANDARD.encode(pem), "usages": usages },
    }
}
fn condition<'r>(request: &'r Value, ty: &str) -> Option<&'r Value> {
    request.items_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == ty)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_certificate_and_nobody_elses() {
    let cluster = Cluster::with_controllers().await;
    let requests = cluster.all("certificates.k8s.io", "v1", "certificatesigningrequests");
    let usages = || list!["client auth", "digital signature"];
    let node = |name: &str, of: &str| {
        request(name, KUBELET_CLIENT, ("system:nodes", &format!("system:node:{of}")), None, usages())
    };
    let door = cluster.door();
    let as_node = |name: &str| {
        let client = door.client(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
        client.all("certificates.k8s.io", "v1", "certificatesigningrequests")
    };
    // A node may renew its own certificate; the role is bound to all nodes by those who want renewal.
    let binding = object! {
        "metadata": object! { "name": "renewal" },
        "roleRef": object! {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        },
        "subjects": list![object! {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes",
        }],
    };
    cluster.create(&cluster.all("rbac.authorization.k8s.io", "v1", "clusterrolebindings"), binding).await;
    as_node("n1").create(&node("own", "n1"), &WriteOptions::default()).await.unwrap();
    let own = cluster.when(&requests, "own", "issued", |it| !it.str_at(&["status", "certificate"]).is_empty()).await;
    let approved = condition(&own, "Approved").unwrap();
    assert_eq!(approved.str_at(&["reason"]), "AutoApproved");
    assert!(approved.str_at(&["message"]).starts_with("Auto approving self kubelet client certificate"));
    let pem = STANDARD.decode(own.str_at(&["status", "certificate"])).unwrap();
    let pem = rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    let certificate: rustls_pki_types::CertificateDer<'static> = pem;
    assert_eq!(
        skiff_base::pki::subject(&certificate),
        Some(("system:node:n1".to_owned(), vec!["system:nodes".to_owned()]))
    );
    // Somebody else's is not approved by itself, but can be by somebody who may.
    requests.create(&node("other", "n2"), &WriteOptions::default()).await.unwrap();
    // The administrator may do everything, `nodeclient` too.
    let other = cluster.when(&requests, "other", "approved", |it| condition(it, "Approved").is_some()).await;
    let approved = condition(&other, "Approved").unwrap();
    assert!(approved.str_at(&["message"]).starts_with("Auto approving kubelet client certificate"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approved_requests_are_signed_or_say_why_not() {
    let cluster = Cluster::with_controllers().await;
    let requests = cluster.all("certificates.k8s.io", "v1", "certificatesigningrequests");
    let approve = async |name: &str| {
        let mut standing = requests.fetch(name).await.unwrap();
        let condition = object! { "type": "Approved", "status": "True", "reason": "Test", "message": "ok" };
        standing.as_object_mut().unwrap().object_mut("status").insert("conditions", list![condition]);
        requests.replace(name, "approval", &standing, &WriteOptions::default()).await.unwrap();
    };
    let make = async |name: &str, signer: &str, subject: (&str, &str), dns: Option<&str>, usages: Value| {
        cluster.create(&requests, request(name, signer, subject, dns, usages)).await;
        approve(name).await;
    };
    make("jane", CLIENT, ("dev", "jane"), None, list!["client auth"]).await;
    make(
        "server",
        KUBELET_SERVING,
        ("system:nodes", "system:node:n1"),
        Some("n1"),
        list!["server auth", "digital signature"],
    )
    .await;
    make(
        "nameless",
        KUBELET_SERVING,
        ("system:nodes", "system:node:n1"),
        None,
        list!["server auth", "digital signature"],
    )
    .await;
    make("greedy", CLIENT, ("dev", "jane"), None, list!["client auth", "server auth"]).await;
    make("foreign", "example.com/mine", ("dev", "jane"), None, list!["client auth"]).await;
    for name in ["jane", "server"] {
        cluster.when(&requests, name, "issued", |it| !it.str_at(&["status", "certificate"]).is_empty()).await;
    }
    for (name, why) in [
        ("nameless", "DNS or IP subjectAltName is required"),
        ("greedy", "invalid usage for client certificate: server auth"),
    ] {
        let failed = cluster.when(&requests, name, "refused", |it| condition(it, "Failed").is_some()).await;
        let failed = condition(&failed, "Failed").unwrap();
        assert_eq!((failed.str_at(&["reason"]), failed.str_at(&["message"])), ("SignerValidationFailure", why));
    }
    let foreign = requests.fetch("foreign").await.unwrap();
    assert_eq!(foreign.str_at(&["status", "certificate"]), "", "another signer's");
}
