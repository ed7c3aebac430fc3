//! Certificates are renewed while the server runs, long before they end, and shown from the next connection on: nothing
//! is restarted for it. What a start would bring in order (`pki::ensure`) is brought in order a few times a day.

use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::pki::{self, Client, Pair, Pki, ServerNames};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_net::tls::Identity;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Certificates are renewed weeks before their end: a few looks a day are many.
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

/// How long before its end a certificate that cannot be renewed is warned of.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A kubeconfig that is kept usable.
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) url: String,
    pub(crate) client: Client,
}

/// The kubelet's serving certificate.
pub(crate) struct KubeletServing {
    pub(crate) dir: PathBuf,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// What is shown; `None` for a kubelet elsewhere, which reads the files at its start.
    pub(crate) identity: Option<Arc<Identity>>,
}

/// What is shown and where it comes from.
pub(crate) struct Renewal {
    pub(crate) dir: PathBuf,
    pub(crate) names: ServerNames,
    /// What clients of the API server see.
    pub(crate) serving: Arc<Identity>,
    /// What kubelets see of it.
    pub(crate) kubelet_client: Arc<Identity>,
    /// What aggregated servers see of it.
    pub(crate) front_proxy_client: Arc<Identity>,
    pub(crate) kubelet: Option<KubeletServing>,
    pub(crate) kubeconfigs: Vec<Kept>,
    /// As they are shown now.
    pub(crate) shown: Shown,
}

/// Certificates that were taken up last.
pub(crate) struct Shown {
    serving: String,
    kubelet_client: String,
    front_proxy_client: String,
    kubelet: Option<String>,
}

impl Shown {
    /// What a start took up.
    pub(crate) fn of(pki: &Pki, kubelet: Option<&Pair>) -> Self {
        Self {
            serving: pki.apiserver.certificate.clone(),
            kubelet_client: pki.kubelet_client.certificate.clone(),
            front_proxy_client: pki.front_proxy_client.certificate.clone(),
            kubelet: kubelet.map(|pair| pair.certificate.clone()),
        }
    }
}

/// Files whose certificates end within 30 days although everything was brought in order: somebody has to renew them.
fn ending(pki: &Pki, now: SystemTime) -> Vec<&'static str> {
    let all = [
        ("ca.crt", &pki.ca),
        ("front-proxy-ca.crt", &pki.front_proxy_ca),
        ("apiserver.crt", &pki.apiserver.certificate),
        ("apiserver-kubelet-client.crt", &pki.kubelet_client.certificate),
        ("front-proxy-client.crt", &pki.front_proxy_client.certificate),
    ];
    let soon = |pem: &str| pki::not_after(pem).is_some_and(|end| end < now + WARN_BEFORE);
    all.into_iter().filter(|(_, pem)| soon(pem)).map(|(file, _)| file).collect()
}

fn take_up(identity: &Identity, pair: &Pair, shown: &mut String, what: &str) -> anyhow::Result<bool> {
    if *shown == pair.certificate {
        return Ok(false);
    }
    let replaced = identity.replace(pair.certificate.as_bytes(), pair.key.as_bytes());
    replaced.with_context(|| format!("the new certificate of {what} cannot be used"))?;
    shown.clone_from(&pair.certificate);
    Ok(true)
}

impl Renewal {
    /// One look: renews what is due, shows it, and gives the names of what is new.
    pub(crate) fn turn(&mut self, now: SystemTime) -> anyhow::Result<Vec<String>> {
        let mut renewed = Vec::new();
        let pki = pki::ensure(&self.dir, &self.names, now)?;
        for file in ending(&pki, now) {
            tracing::warn!(file, dir = %self.dir.display(), "ends within 30 days, and its authority's key is not here");
        }
        if take_up(&self.serving, &pki.apiserver, &mut self.shown.serving, "the API server")? {
            renewed.push("apiserver".to_owned());
        }
        if take_up(&self.kubelet_client, &pki.kubelet_client, &mut self.shown.kubelet_client, "the kubelets' client")? {
            renewed.push("apiserver-kubelet-client".to_owned());
        }
        let front_proxy = &mut self.shown.front_proxy_client;
        if take_up(&self.front_proxy_client, &pki.front_proxy_client, front_proxy, "aggregated servers' client")? {
            renewed.push("front-proxy-client".to_owned());
        }
        if let Some(kubelet) = &self.kubelet {
            let pair = pki.kubelet_server(&kubelet.dir, &kubelet.node, &kubelet.addresses, now)?;
            if let (Some(identity), Some(shown)) = (&kubelet.identity, &mut self.shown.kubelet)
                && take_up(identity, &pair, shown, "the kubelet")?
            {
                renewed.push("kubelet".to_owned());
            }
        }
        for kept in &self.kubeconfigs {
            if pki.ensure_kubeconfig(&kept.path, &kept.url, &kept.client, now)? {
                renewed.push(kept.path.display().to_string());
            }
        }
        Ok(renewed)
    }

    /// Looks a few times a day until the end.
    pub(crate) fn spawn(mut self, clock: &SharedClock, supervisor: &Supervisor) {
        let clock = Arc::clone(clock);
        supervisor.spawn_abortable("certificate renewal", OnFailure::Forget, async move {
            loop {
                // At once the first time: what a start could not renew is to be told then, too.
                match self.turn(clock.wall()) {
                    Ok(renewed) if renewed.is_empty() => (),
                    Ok(renewed) => tracing::info!(?renewed, "certificates renewed"),
                    Err(error) => tracing::error!(error = format!("{error:#}"), "certificates cannot be renewed"),
                }
                clock.sleep(PERIOD).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_soon_is_renewed_and_shown_and_what_does_not_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let names = ServerNames {
            node_name: "n".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            service_ip: [10, 96, 0, 1].into(),
            addresses: Vec::new(),
            names: Vec::new(),
        };
        let pki = pki::ensure(&dir.path().join("pki"), &names, now).unwrap();
        let identity = |pair: &Pair| Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
        let kubelet_dir = dir.path().join("kubelet");
        let kubelet = pki.kubelet_server(&kubelet_dir, "n", &[], now).unwrap();
        let url = "https://127.0.0.1:6443".to_owned();
        let admin = Kept { path: dir.path().join("admin.conf"), url, client: Client::admin() };
        let mut renewal = Renewal {
            dir: dir.path().join("pki"),
            names,
            serving: identity(&pki.apiserver),
            kubelet_client: identity(&pki.kubelet_client),
            front_proxy_client: identity(&pki.front_proxy_client),
            kubelet: Some(KubeletServing {
                dir: kubelet_dir,
                node: "n".to_owned(),
                addresses: Vec::new(),
                identity: Some(identity(&kubelet)),
            }),
            kubeconfigs: vec![admin],
            shown: Shown::of(&pki, Some(&kubelet)),
        };
        let conf = dir.path().join("admin.conf").display().to_string();
        assert_eq!(renewal.turn(now).unwrap(), [conf.as_str()]);
        assert_eq!(renewal.turn(now).unwrap(), [""; 0]);
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(renewal.turn(now + 280 * day).unwrap(), [""; 0], "most of their life is left");
        let later = now + 300 * day;
        let names = ["apiserver", "apiserver-kubelet-client", "front-proxy-client", "kubelet", conf.as_str()];
        assert_eq!(renewal.turn(later).unwrap(), names);
        assert_eq!(renewal.turn(later).unwrap(), [""; 0]);
        assert_eq!(ending(&pki, later), [""; 0]);
        let files = ["apiserver.crt", "apiserver-kubelet-client.crt", "front-proxy-client.crt"];
        assert_eq!(ending(&pki, now + 340 * day), files, "what was made at first");
        let end = pki::not_after(&renewal.shown.serving).unwrap();
        assert!(end > later + 300 * day, "what is shown is the new one");
    }
}
