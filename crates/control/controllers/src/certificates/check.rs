//! What a request has to be, pure (`pkg/apis/certificates/helpers.go`, `isRequestForSignerFn`).

use skiff_base::pki::CertificateRequest;
use std::collections::BTreeSet;

pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Why a signer does not sign, in the words of its condition; `None` for a signer that is not ours.
pub(super) fn for_signer(signer: &str, request: &CertificateRequest, usages: &[&str]) -> Option<Result<(), String>> {
    Some(match signer {
        KUBELET_CLIENT => kubelet_client(request, usages),
        KUBELET_SERVING => kubelet_serving(request, usages),
        CLIENT => client(usages),
        LEGACY => Ok(()),
        _ => return None,
    })
}

fn refuse_if(is: bool, why: &str) -> Result<(), String> {
    if is { Err(why.to_owned()) } else { Ok(()) }
}

fn of_nodes(request: &CertificateRequest) -> Result<(), String> {
    refuse_if(request.organizations != ["system:nodes"], "subject organization is not system:nodes")
}
fn of_a_node(request: &CertificateRequest) -> Result<(), String> {
    let named = request.common_name.starts_with("system:node:");
    refuse_if(!named, "subject common name does not begin with system:node:")
}
/// The usages are these, with or without `key encipherment`, which only RSA keys can do.
fn exactly(usages: &[&str], purpose: &str) -> Result<(), String> {
    let said: BTreeSet<&str> = usages.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    let wanted = BTreeSet::from(["digital signature", purpose]);
    let mut all: Vec<&str> = wanted.iter().copied().chain(["key encipherment"]).collect();
    all.sort_unstable();
    refuse_if(said != wanted, &format!("usages did not match [{}]", all.join(" ")))
}

/// `ValidateKubeletClientCSR`.
pub(super) fn kubelet_client(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    of_nodes(request)?;
    refuse_if(!request.dns_names.is_empty(), "DNS subjectAltNames are not allowed")?;
    refuse_if(!request.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse_if(!request.ip_addresses.is_empty(), "IP subjectAltNames are not allowed")?;
    refuse_if(!request.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    of_a_node(request)?;
    exactly(usages, "client auth")
}

/// `ValidateKubeletServingCSR`.
fn kubelet_serving(request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
    of_nodes(request)?;
    let nameless = request.dns_names.is_empty() && request.ip_addresses.is_empty();
    refuse_if(nameless, "DNS or IP subjectAltName is required")?;
    refuse_if(!request.email_addresses.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse_if(!request.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    exactly(usages, "server auth")?;
    of_a_node(request)
}

/// `validAPIServerClientUsages`.
fn client(usages: &[&str]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    refuse_if(!usages.contains(&"client auth"), "missing required usage for client certificate: client auth")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> CertificateRequest {
        let mut node = CertificateRequest::default();
        node.common_name.push_str("system:node:n1");
        node.organizations.push("system:nodes".to_owned());
        node
    }
    const NODE: [&str; 2] = ["client auth", "digital signature"];

    #[test]
    fn a_node_asks_for_itself_and_for_nothing_more() {
        assert_eq!(kubelet_client(&node(), &NODE), Ok(()));
        assert_eq!(kubelet_client(&node(), &["digital signature", "key encipherment", "client auth"]), Ok(()));
        let refused = |change: fn(&mut CertificateRequest)| {
            let mut request = node();
            change(&mut request);
            kubelet_client(&request, &NODE).unwrap_err()
        };
        assert_eq!(
            refused(|request| request.organizations.push("a".into())),
            "subject organization is not system:nodes"
        );
        assert_eq!(refused(|request| request.dns_names.push("a".into())), "DNS subjectAltNames are not allowed");
        assert_eq!(refused(|request| request.uris.push("a".into())), "URI subjectAltNames are not allowed");
        assert_eq!(
            refused(|request| request.common_name = "admin".into()),
            "subject common name does not begin with system:node:"
        );
        assert_eq!(
            kubelet_client(&node(), &["client auth", "digital signature", "server auth"]).unwrap_err(),
            "usages did not match [client auth digital signature key encipherment]"
        );
    }

    #[test]
    fn a_server_has_a_name_and_a_client_only_clients_usages() {
        let serving = |request: &CertificateRequest, usages: &[&str]| for_signer(KUBELET_SERVING, request, usages);
        let usages = ["digital signature", "server auth"];
        assert_eq!(serving(&node(), &usages), Some(Err("DNS or IP subjectAltName is required".to_owned())));
        let mut named = node();
        named.dns_names.push("n1".into());
        assert_eq!(serving(&named, &usages), Some(Ok(())));
        assert!(serving(&named, &NODE).unwrap().is_err());
        let client = |usages: &[&str]| for_signer(CLIENT, &CertificateRequest::default(), usages).unwrap();
        assert_eq!(client(&["client auth"]), Ok(()));
        assert_eq!(
            client(&["digital signature"]).unwrap_err(),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(
            client(&["client auth", "server auth"]).unwrap_err(),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(for_signer("example.com/mine", &node(), &NODE), None);
    }
}
