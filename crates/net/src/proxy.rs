//! Passing an upgraded connection on to a back end, byte for byte (`apimachinery/pkg/util/proxy/upgradeaware.go`).

use crate::Body;
use crate::client::{Client, ClientError};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skiff_base::task::{OnFailure, Supervisor};

/// Why a request was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The back end could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The back end wants to send the client elsewhere: never passed on, never followed (CVE-2018-1002102,
    /// CVE-2020-8559, CVE-2022-3172).
    #[error("the back end answered with a redirect ({0})")]
    Redirect(StatusCode),
    /// The client's connection cannot change protocols.
    #[error("this connection cannot change protocols")]
    NoUpgrade,
}

/// Sends an upgrade request (its URI and headers already the back end's) and joins both connections when the back end
/// agrees. When it does not, its answer is returned and its connection, which still holds our credentials, is dropped:
/// it never carries anything of the client's (CVE-2018-1002105).
pub async fn upgrade(
    client: &Client,
    mut request: Request<Body>,
    supervisor: &Supervisor,
) -> Result<Response<Body>, ProxyError> {
    let from_client = request.extensions_mut().remove::<OnUpgrade>().ok_or(ProxyError::NoUpgrade)?;
    let (answer, mut back) = match client.upgrade(request).await {
        Ok(upgraded) => upgraded,
        Err(ClientError::NotUpgraded(answer)) if answer.status().is_redirection() => {
            return Err(ProxyError::Redirect(answer.status()));
        }
        Err(ClientError::NotUpgraded(answer)) => return Ok(*answer),
        Err(error) => return Err(error.into()),
    };
    supervisor.spawn_abortable("upgraded proxy", OnFailure::Forget, async move {
        let front = match from_client.await {
            Ok(front) => front,
            Err(error) => {
                tracing::debug!(%error, "the client did not change protocols");
                return;
            }
        };
        let mut front = TokioIo::new(front);
        if let Err(error) = tokio::io::copy_bidirectional_with_sizes(&mut front, &mut back, 32 * 1024, 32 * 1024).await
        {
            tracing::debug!(%error, "upgraded connection ended");
        }
    });
    Ok(answer.map(|()| Body::Empty))
}
