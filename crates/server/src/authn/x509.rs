//! Client certificates: common name is the user, organizations the groups (`request/x509/x509.go`).

use super::{AuthenticationError, CREDENTIAL_ID, authenticated};
use crate::request::UserInfo;
use skiff_net::Peer;
use skiff_net::tls::ClientTrust;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The uid attribute of a subject (`AllowParsingUserUIDFromCertAuth`).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// What the certificates of a connection came to.
struct Known {
    user: Arc<UserInfo>,
    /// From here on they are looked at again.
    until: SystemTime,
}

/// Who the peer's certificates are. Verified once for a connection, until they end.
pub fn authenticate(trust: &ClientTrust, peer: &Peer, now: SystemTime) -> Result<Arc<UserInfo>, AuthenticationError> {
    if let Some(memo) = peer.connection.memo()
        && let Some(known) = memo.downcast_ref::<Known>()
        && now < known.until
    {
        return Ok(Arc::clone(&known.user));
    }
    let refused = |why: String| AuthenticationError::Certificate(why);
    trust.verify(&peer.certificates, now).map_err(|error| refused(error.to_string()))?;
    let leaf = peer.certificates.first().ok_or(AuthenticationError::None)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| refused(error.to_string()))?;
    let user =
        Arc::new(authenticated(user_of(&certificate, leaf).ok_or_else(|| refused("it names nobody".to_owned()))?));
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let known = Known { user: Arc::clone(&user), until: UNIX_EPOCH + Duration::from_secs(end) };
    peer.connection.remember(Arc::new(known) as Arc<dyn Any + Send + Sync>);
    Ok(user)
}

/// `CommonNameUserConversion`; `None` without a common name.
fn user_of(certificate: &X509Certificate<'_>, der: &[u8]) -> Option<UserInfo> {
    let subject = certificate.subject();
    // Go keeps the last common name of several.
    let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    let mut uids = subject
        .iter_attributes()
        .filter(|attribute| attribute.attr_type().to_id_string() == UID)
        .filter_map(|attribute| attribute.as_str().ok());
    let uid = match (uids.next(), uids.next()) {
        (Some(uid), None) => uid.to_owned(),
        // Two would contradict each other.
        (Some(_), Some(_)) => return None,
        _ => String::new(),
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hex}")])].into();
    Some(UserInfo { name, uid, groups, extra })
}
