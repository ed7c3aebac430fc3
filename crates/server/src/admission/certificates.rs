//! `CertificateApproval` and `CertificateSigning`: whoever approves or signs certificate requests needs the right to do so
//! for their signer, beside the right to write the subresource.
//!
//! Mirrors plugin/pkg/admission/certificates/{approval,signing} and pkg/certauthorization.

use super::{AdmissionFuture, Attributes, Operation, Plugin};
use crate::authz::{Authorizer, Question};
use crate::kinds::tree::Tree;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, GroupResource};
use std::sync::Arc;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";

/// Whom a certificate request is for.
pub(super) struct Subject {
    /// The user.
    pub(super) common_name: String,
    /// The groups.
    pub(super) organizations: Vec<String>,
}

impl Subject {
    /// Reads `spec.request`: base64 of PEM.
    pub(super) fn of_request(request: &str) -> Result<Self, String> {
        let pem = STANDARD.decode(request).map_err(|error| error.to_string())?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| error.to_string())?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
        let subject = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|error| error.to_string())
        };
        // Go keeps the last of several common names.
        let common_name = subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        let organizations = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        Ok(Self { common_name, organizations })
    }
}

/// The verb that one subresource needs.
struct SignerRight {
    name: &'static str,
    subresource: &'static str,
    verb: &'static str,
    authorizer: Arc<dyn Authorizer>,
    signers: GroupResource,
}

/// The two plug-ins, over what decides who may do what.
pub fn certificate_plugins(authorizer: &Arc<dyn Authorizer>) -> Vec<Arc<dyn Plugin>> {
    let right = |name, subresource, verb| -> Arc<dyn Plugin> {
        let signers = GroupResource::new(GROUP, "signers");
        Arc::new(SignerRight { name, subresource, verb, authorizer: Arc::clone(authorizer), signers })
    };
    vec![right("CertificateApproval", "approval", "approve"), right("CertificateSigning", "status", "sign")]
}

impl SignerRight {
    async fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        if !attributes.is_of(GROUP, REQUESTS) || attributes.subresource != self.subresource {
            return Ok(());
        }
        // The old object says who signs: the new one is what somebody would like.
        let Some(old) = &attributes.old else { return Ok(()) };
        let changed = |field: &str| old.at(&["status", field]) != attributes.new_object().at(&["status", field]);
        if self.verb == "sign" && !changed("certificate") && !changed("conditions") {
            return Ok(());
        }
        let signer = old.get("spec").map_or("", |spec| spec.text("signerName"));
        // `example.com/*` stands for all signers of a domain.
        let domain = signer.split('/').next().unwrap_or_default();
        for name in [signer, &format!("{domain}/*")] {
            let user = &attributes.context.user;
            let question = Question::on(user, self.verb, &self.signers, "", name);
            if self.authorizer.authorize(&question).await.is_allowed() {
                return Ok(());
            }
        }
        let verb = self.verb;
        Err(attributes.forbidden(format!("user not permitted to {verb} requests with signerName {}", quote(signer))))
    }
}

impl Plugin for SignerRight {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.check(attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use crate::authz::{Decision, DecisionFuture};
    use skiff_machinery::{Value, list, object};

    /// Allows one verb on one signer.
    struct Only(&'static str, &'static str);
    impl Authorizer for Only {
        fn authorize<'a>(&'a self, question: &'a Question<'a>) -> DecisionFuture<'a> {
            let allowed = (question.verb, question.resource, question.name) == (self.0, "signers", self.1);
            let decision = if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) };
            Box::pin(std::future::ready(decision))
        }
    }

    fn request(conditions: Value) -> Value {
        object! {
            "metadata": object! { "name": "r" },
            "spec": object! { "signerName": "example.com/one" },
            "status": object! { "conditions": conditions },
        }
    }

    async fn refusal(right: Only, subresource: &'static str, new: Value) -> Option<String> {
        let authorizer: Arc<dyn Authorizer> = Arc::new(right);
        let case = Case::update(GROUP, REQUESTS, "", new, request(list![])).sub(subresource);
        for plugin in certificate_plugins(&authorizer) {
            if let Err(error) = case.validate(&*plugin).await {
                return Some(error.message().to_owned());
            }
        }
        None
    }

    #[tokio::test]
    async fn signers_have_rights_of_their_own() {
        let approved = || request(list![object! { "type": "Approved" }]);
        assert_eq!(refusal(Only("approve", "example.com/one"), "approval", approved()).await, None);
        assert_eq!(refusal(Only("approve", "example.com/*"), "approval", approved()).await, None);
        let prefix = "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to";
        assert_eq!(
            refusal(Only("sign", "example.com/one"), "approval", approved()).await.unwrap(),
            format!("{prefix} approve requests with signerName \"example.com/one\"")
        );
        assert_eq!(
            refusal(Only("approve", "example.com/one"), "status", approved()).await.unwrap(),
            format!("{prefix} sign requests with signerName \"example.com/one\"")
        );
        assert_eq!(refusal(Only("sign", "example.com/one"), "status", approved()).await, None);
        assert_eq!(refusal(Only("", ""), "status", request(list![])).await, None, "nothing was signed");
        assert_eq!(refusal(Only("", ""), "", approved()).await, None);
    }
}
