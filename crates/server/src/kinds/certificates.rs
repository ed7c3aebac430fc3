//! Certificate requests: what may be asked for, who may decide, and what never changes again.
//!
//! The specification is fixed at creation; approvals come by the `approval` view only and are never taken back; the
//! certificate comes by the `status` view only and is set once.
//!
//! Mirrors `pkg/apis/certificates/validation/validation.go` and `pkg/registry/certificates/certificates/strategy.go`.

use super::check::{Report, each};
use super::strategy::{only, restore};
use super::tree::Tree;
use crate::request::RequestContext;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_machinery::error::quote;
use skiff_machinery::names::{is_dns1123_label, is_dns1123_subdomain};
use skiff_machinery::{ErrorList, FieldPath, Map, Value};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const STATUS: FieldPath<'static> = FieldPath::new("status");
/// Conditions that are true or absent.
const ONLY_TRUE: [&str; 3] = ["Approved", "Denied", "Failed"];
/// Conditions that only the `approval` view sets.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The requester is who asks, whatever the object says.
pub(super) fn create(context: &RequestContext, object: &mut Value) {
    let user = &context.user;
    let spec = object.make("spec");
    for key in ["username", "uid", "groups", "extra"] {
        spec.unset(key);
    }
    spec.set("username", user.name.as_str());
    if !user.uid.is_empty() {
        spec.set("uid", user.uid.as_str());
    }
    if !user.groups.is_empty() {
        spec.set("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra: Map = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect();
        spec.set("extra", extra);
    }
}

/// Nothing but metadata of a request can be changed.
pub(super) fn update(_: &RequestContext, object: &mut Value, old: &Value) {
    restore(object, old, "spec");
    restore(object, old, "status");
}

/// The `status` view keeps decisions as they are. One that is added or taken away stays so, for validation to refuse.
pub(super) fn update_status(context: &RequestContext, object: &mut Value, old: &Value) {
    only(object, old, "status");
    let mut conditions = object.items_at(&["status", "conditions"]).to_vec();
    for decision in DECISIONS {
        let before: Vec<&Value> = of_type(old, decision).collect();
        let mut after: Vec<&mut Value> =
            conditions.iter_mut().filter(|condition| condition.text("type") == decision).collect();
        if before.len() == after.len() {
            after.iter_mut().zip(before).for_each(|(new, old)| **new = old.clone());
        }
    }
    set_conditions(object, conditions, old, &context.now);
}

/// The `approval` view changes the conditions only.
pub(super) fn update_approval(context: &RequestContext, object: &mut Value, old: &Value) {
    let conditions = object.items_at(&["status", "conditions"]).to_vec();
    let metadata = object.get("metadata").cloned();
    *object = old.clone();
    if let Some(metadata) = metadata {
        object.set("metadata", metadata);
    }
    set_conditions(object, conditions, old, &context.now);
}

fn of_type<'a>(object: &'a Value, ty: &'a str) -> impl Iterator<Item = &'a Value> {
    object.items_at(&["status", "conditions"]).iter().filter(move |condition| condition.text("type") == ty)
}

/// `populateConditionTimestamps`.
fn set_conditions(object: &mut Value, mut conditions: Vec<Value>, old: &Value, now: &str) {
    for condition in &mut conditions {
        let same = of_type(old, condition.text("type")).find(|other| other.text("status") == condition.text("status"));
        let before = same.map(|other| other.text("lastTransitionTime")).filter(|time| !time.is_empty());
        let transition = before.unwrap_or(now).to_owned();
        condition.fill_text("lastTransitionTime", &transition);
        condition.fill_text("lastUpdateTime", now);
    }
    if conditions.is_empty() {
        if object.get("status").is_some() {
            object.make("status").unset("conditions");
        }
    } else {
        object.make("status").set("conditions", conditions);
    }
}

/// What a change may do beyond metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Nothing,
    Sign,
    Decide,
}

/// Mistakes that an object may keep because it had them before.
#[derive(Clone, Copy, Default)]
struct Kept<'o> {
    old: Option<&'o Value>,
}

impl Kept<'_> {
    fn any(self, had: impl FnOnce(&Value) -> bool) -> bool {
        self.old.is_some_and(had)
    }
}

/// `ValidateCertificateSigningRequestCreate`.
pub(super) fn validate(_: &RequestContext, object: &Value) -> ErrorList {
    request(object, Kept::default())
}

/// `ValidateCertificateSigningRequestUpdate`.
pub(super) fn validate_update(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    changed(object, old, May::Nothing)
}

/// `ValidateCertificateSigningRequestStatusUpdate`.
pub(super) fn validate_status(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    changed(object, old, May::Sign)
}

/// `ValidateCertificateSigningRequestApprovalUpdate`.
pub(super) fn validate_approval(_: &RequestContext, object: &Value, old: &Value) -> ErrorList {
    changed(object, old, May::Decide)
}

fn changed(object: &Value, old: &Value, may: May) -> ErrorList {
    let mut errors = request(object, Kept { old: Some(old) });
    let path = STATUS.child("conditions");
    for ty in ONLY_TRUE {
        if of_type(object, ty).count() < of_type(old, ty).count() {
            errors.forbidden(&path, format!("updates may not remove a condition of type {}", quote(ty)));
        }
    }
    for ty in DECISIONS.into_iter().filter(|_| may != May::Decide) {
        let (new, before) = (of_type(object, ty).count(), of_type(old, ty).count());
        if new > before {
            errors.forbidden(&path, format!("updates may not add a condition of type {}", quote(ty)));
        } else if new == before && !of_type(object, ty).eq(of_type(old, ty)) {
            errors.forbidden(&path, format!("updates may not modify a condition of type {}", quote(ty)));
        }
    }
    let certificate = |object: &Value| object.str_at(&["status", "certificate"]).to_owned();
    if certificate(object) != certificate(old) {
        let path = STATUS.child("certificate");
        if may != May::Sign {
            errors.forbidden(&path, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
    errors
}

fn request(object: &Value, kept: Kept<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Object(Map::new());
    let spec = object.get("spec").unwrap_or(&empty);
    if let Err(why) = check_request(spec.text("request")) {
        errors.invalid(&SPEC.child("request"), spec.text("request"), why);
    }
    usages(&mut errors, spec, kept);
    signer_name(&mut errors, spec.text("signerName"));
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&SPEC.child("expirationSeconds"), seconds, detail);
    }
    conditions(&mut errors, object, kept);
    let certificate = object.str_at(&["status", "certificate"]);
    // One that stays is not looked at again, and one beside it may be as bad.
    let arbitrary = kept.any(|old| {
        let old = old.str_at(&["status", "certificate"]);
        old == certificate || check_certificate(old).is_err()
    });
    if !arbitrary && let Err(why) = check_certificate(certificate) {
        errors.invalid(&STATUS.child("certificate"), "<certificate data>", why);
    }
    errors
}

fn usages(errors: &mut ErrorList, spec: &Value, kept: Kept<'_>) {
    let all: Vec<&str> = spec.items("usages").iter().filter_map(Value::as_str).collect();
    let path = SPEC.child("usages");
    if all.is_empty() {
        errors.required(&path, "");
    }
    let had = |old: &Value, wrong: &dyn Fn(&[&str]) -> bool| {
        let old: Vec<&str> = old.items_at(&["spec", "usages"]).iter().filter_map(Value::as_str).collect();
        wrong(&old)
    };
    if !kept.any(|old| had(old, &|all| all.iter().any(|usage| !USAGES.contains(usage)))) {
        for (index, usage) in all.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
            errors.not_supported(&path.index(index), *usage, &USAGES);
        }
    }
    let repeated = |all: &[&str], index: usize| all[..index].contains(&all[index]);
    if !kept.any(|old| had(old, &|all| (0..all.len()).any(|index| repeated(all, index)))) {
        for index in (0..all.len()).filter(|index| repeated(&all, *index)) {
            errors.duplicate(&path.index(index), all[index]);
        }
    }
}

/// `ValidateSignerName`.
fn signer_name(errors: &mut ErrorList, name: &str) {
    const LONGEST_DOMAIN: usize = 253;
    const LONGEST_PATH: usize = 253 + 63 + 1;
    let path = SPEC.child("signerName");
    if name.is_empty() {
        return errors.required(&path, "");
    }
    if name == "kubernetes.io/legacy-unknown" {
        return errors.invalid(&path, name, "the legacy signerName is not allowed via this API version");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(&path, name, detail);
    };
    if domain.len() > LONGEST_DOMAIN {
        errors.too_long(&path, LONGEST_DOMAIN);
    }
    // The first label that is wrong: what follows would say the same again.
    let mut first_wrong = |whole: &str, check: fn(&str) -> Vec<String>| {
        for label in whole.split('.') {
            let mistakes = check(label);
            for mistake in &mistakes {
                errors.invalid(&path, whole, format!("validating label {}: {mistake}", quote(label)));
            }
            if !mistakes.is_empty() {
                break;
            }
        }
    };
    first_wrong(domain, is_dns1123_label);
    first_wrong(rest, is_dns1123_subdomain);
    if !domain.contains('.') {
        errors.invalid(&path, domain, "should be a domain with at least two segments separated by dots");
    }
    if name.len() > LONGEST_DOMAIN + LONGEST_PATH + 1 {
        errors.too_long(&path, LONGEST_DOMAIN + LONGEST_PATH + 1);
    }
}

fn conditions(errors: &mut ErrorList, object: &Value, kept: Kept<'_>) {
    let Some(status) = object.get("status") else { return };
    let all = status.items("conditions");
    let had_both = kept.any(|old| DECISIONS.iter().all(|ty| of_type(old, ty).next().is_some()));
    let had_twice = kept.any(|old| {
        let all = old.items_at(&["status", "conditions"]);
        all.iter()
            .enumerate()
            .any(|(index, one)| all[..index].iter().any(|other| other.text("type") == one.text("type")))
    });
    let had_empty = kept.any(|old| of_type(old, "").next().is_some());
    let mut index = 0;
    each(status, "conditions", &STATUS, |condition, path| {
        let before = &all[..index];
        index += 1;
        let (ty, value) = (condition.text("type"), condition.text("status"));
        if ty.is_empty() && !had_empty {
            errors.required(&path.child("type"), "");
        }
        let allowed: &[&str] = if ONLY_TRUE.contains(&ty) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.one_of(&path.child("status"), value, allowed);
        let other = DECISIONS.iter().find(|other| DECISIONS.contains(&ty) && **other != ty);
        if !had_both && other.is_some_and(|other| before.iter().any(|one| one.text("type") == *other)) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), ty, detail);
        }
        if !had_twice && before.iter().any(|one| one.text("type") == ty) {
            errors.duplicate(&path.child("type"), ty);
        }
    });
}

/// `validateCSR`: one PEM block of a request that is signed by its own key.
fn check_request(request: &str) -> Result<(), String> {
    const WRONG_BLOCK: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = STANDARD.decode(request).map_err(|error| error.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| WRONG_BLOCK.to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(WRONG_BLOCK.to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    request.verify_signature().map_err(|error| error.to_string())
}

/// `validateCertificate`: nothing, or PEM blocks of certificates and nothing else.
fn check_certificate(certificate: &str) -> Result<(), String> {
    if certificate.is_empty() {
        return Ok(());
    }
    let bytes = STANDARD.decode(certificate).map_err(|error| error.to_string())?;
    let mut blocks = 0;
    for pem in Pem::iter_from_buffer(&bytes) {
        // What is no block ends the blocks, as in Go's reader.
        let Ok(pem) = pem else { break };
        if pem.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {}", quote(&pem.label)));
        }
        let (rest, _) = X509Certificate::from_der(&pem.contents).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("trailing data".to_owned());
        }
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::context;
    use skiff_machinery::{list, object};

    fn with(status: Value) -> Value {
        object! { "metadata": object! { "name": "r" }, "spec": object! {}, "status": status }
    }
    fn told(errors: ErrorList) -> Vec<String> {
        let about_status = errors.iter().map(ToString::to_string).filter(|text| text.starts_with("status"));
        about_status.collect()
    }

    #[test]
    fn what_was_decided_or_signed_stays() {
        let approved = || {
            list![object! {
                "type": "Approved", "status": "True", "reason": "Fine",
                "lastTransitionTime": "then", "lastUpdateTime": "then",
            }]
        };
        let signed = with(object! { "certificate": "YQ==", "conditions": approved() });
        let bare = with(object! {});
        let removed = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        let modified = "status.certificate: Forbidden: updates may not modify existing certificate content";
        assert_eq!(told(validate_status(&context(), &bare, &signed)), [removed, modified]);
        assert_eq!(
            told(validate_approval(&context(), &bare, &signed)),
            [removed, "status.certificate: Forbidden: updates may not set certificate content"]
        );
        // The view for status puts a changed decision back.
        let mut changed = with(object! {
            "certificate": "YQ==",
            "conditions": list![object! { "type": "Approved", "status": "True", "reason": "Mine" }],
        });
        update_status(&context(), &mut changed, &signed);
        assert_eq!(changed.items_at(&["status", "conditions"])[0].text("reason"), "Fine");
        assert_eq!(told(validate_status(&context(), &changed, &signed)), Vec::<String>::new());
    }

    #[test]
    fn times_of_conditions() {
        let old = with(object! {
            "conditions": list![object! { "type": "Approved", "status": "True", "lastTransitionTime": "then" }],
        });
        let condition = |ty: &str| object! { "type": ty, "status": "True" };
        let mut new = with(object! { "conditions": list![condition("Approved"), condition("Odd")] });
        update_approval(&context(), &mut new, &old);
        let times = |index: usize| new.items_at(&["status", "conditions"])[index].text("lastTransitionTime").to_owned();
        assert_eq!(times(0), "then");
        assert_eq!(times(1), context().now);
    }
}
