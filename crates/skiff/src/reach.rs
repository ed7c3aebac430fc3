//! The first word with an API server: a component that runs alone waits for one that does not answer yet, and ends with
//! what to do where waiting cannot help: somebody else answers, or does not know this user.

use crate::progress::waited;
use skiff_base::clock::SharedClock;
use skiff_client::{Client, ClientError};
use std::time::Duration;

const AGAIN: Duration = Duration::from_millis(500);

/// Why there is no API server to work with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// Its certificate is not by the authority that the kubeconfig has.
    #[error(
        "whoever answers at {server} is not the API server of {credentials}: {why}; use the kubeconfig of that cluster, or \
         correct the address in this one"
    )]
    Stranger {
        /// Address.
        server: String,
        /// Where the credentials are from.
        credentials: String,
        /// What is wrong with the certificate.
        why: String,
    },
    /// It does not know this user.
    #[error(
        "the API server at {server} does not accept the user of {credentials} (401 Unauthorized): certificate or token is of \
         another cluster or has ended; take a new one"
    )]
    Unknown {
        /// Address.
        server: String,
        /// Where the credentials are from.
        credentials: String,
    },
}

/// Waits until the API server at `server` answers, and says why while that takes. `credentials` names where they are from.
pub(crate) async fn reach(
    client: &Client,
    server: &str,
    credentials: &str,
    clock: &SharedClock,
) -> Result<(), Unreachable> {
    let what = format!("the API server at {server}");
    let mut told = false;
    let reached = async {
        loop {
            let error = match client.get_text("/version").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(hopeless) = hopeless(&error, server, credentials) {
                return Err(hopeless);
            }
            if error.api().is_some() {
                // It is there, and what it lets this user do will be seen.
                tracing::warn!(%error, "the API server refuses to tell its version");
                return Ok(());
            }
            let error = format!("{:#}", anyhow::Error::from(error));
            match std::mem::replace(&mut told, true) {
                false => tracing::warn!(error, "{what} does not answer yet"),
                true => tracing::debug!(error, "the API server does not answer yet"),
            }
            clock.sleep(AGAIN).await;
        }
    };
    waited(clock, &what, reached).await
}

fn hopeless(error: &ClientError, server: &str, credentials: &str) -> Option<Unreachable> {
    let (server, credentials) = (server.to_owned(), credentials.to_owned());
    match error {
        ClientError::Api(error) if error.code() == 401 => Some(Unreachable::Unknown { server, credentials }),
        ClientError::Transport { source, .. } => {
            let why = skiff_net::tls::refused_certificate(&**source)?;
            Some(Unreachable::Stranger { server, credentials, why })
        }
        _ => None,
    }
}
