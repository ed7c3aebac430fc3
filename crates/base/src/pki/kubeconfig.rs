//! Kubeconfig files with everything inside.

use super::{Pair, with_first};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig (YAML) of one cluster, user and context.
pub fn kubeconfig(cluster: &str, url: &str, ca: &str, user: &str, pair: &Pair) -> String {
    // Names come from flags: quoted as JSON strings, which YAML reads.
    let quote = |text: &str| skiff_machinery::error::quote(text);
    let context = format!("{user}@{cluster}");
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {url}\n  \
         name: {cluster}\ncontexts:\n- context:\n    cluster: {cluster}\n    user: {user}\n  name: {context}\n\
         current-context: {context}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\n",
        ca = STANDARD.encode(ca),
        url = quote(url),
        cluster = quote(cluster),
        user = quote(user),
        context = quote(&context),
        certificate = STANDARD.encode(&pair.certificate),
        key = STANDARD.encode(&pair.key),
    )
}

pub(super) struct Ours {
    pub(super) url: String,
    pub(super) ca: String,
    pub(super) user: String,
    pub(super) certificate: String,
}

/// Reads back what [`kubeconfig`] wrote; `None` for any other text, which is then written anew.
pub(super) fn parse_ours(text: &str) -> Option<Ours> {
    let field = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    let decoded = |key: &str| String::from_utf8(STANDARD.decode(field(key)?).ok()?).ok();
    let certificate = decoded("client-certificate-data")?;
    let user = with_first(&certificate, |certificate| {
        let name = certificate.subject().iter_common_name().next()?;
        name.as_str().ok().map(str::to_owned)
    })??;
    Some(Ours {
        url: field("server")?.trim_matches('"').to_owned(),
        ca: decoded("certificate-authority-data")?,
        user,
        certificate,
    })
}
