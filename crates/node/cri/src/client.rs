use std::time::Duration;

use futures_util::StreamExt;
use tonic::transport::{Channel, Endpoint};

use crate::MAX_MESSAGE_BYTES;
use crate::contract::{ImageService, RuntimeService};
use crate::error::{CriError, CriStream};
use crate::v1::VersionRequest;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// Why a runtime could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not a unix socket.
    #[error("container runtime endpoint {0:?} is not a unix socket (unix:///path or /path)")]
    Endpoint(String),
    /// The socket does not answer.
    #[error("connecting to container runtime {endpoint}")]
    Connect {
        /// The endpoint as given.
        endpoint: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The runtime answers but not in CRI v1.
    #[error("validating CRI v1 runtime API of {endpoint}")]
    Version {
        /// The endpoint as given.
        endpoint: String,
        /// The runtime's answer to `Version`.
        #[source]
        source: CriError,
    },
}

impl ConnectError {
    /// Whether it may be another answer when the runtime has come up.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Endpoint(_) => false,
            Self::Connect { .. } => true,
            Self::Version { source, .. } => !source.is_unimplemented(),
        }
    }
}

/// A runtime behind a unix socket. Cheap to clone; all clones share one HTTP/2 connection, which reconnects by itself.
#[derive(Clone)]
pub struct GrpcRuntime {
    channel: Channel,
}

impl GrpcRuntime {
    /// Connects to `unix:///path` or `/path` and checks that CRI v1 is spoken there, as upstream's
    /// `NewRemoteRuntimeService` (cri-client/pkg/remote_runtime.go) does.
    pub async fn connect(endpoint: &str) -> Result<Self, ConnectError> {
        let path = socket_path(endpoint)?;
        let channel = Endpoint::from_shared(format!("unix://{path}"))
            .map(|target| target.connect_timeout(Duration::from_secs(10)))
            .map_err(|source| ConnectError::Connect { endpoint: endpoint.to_owned(), source })?
            .connect()
            .await
            .map_err(|source| ConnectError::Connect { endpoint: endpoint.to_owned(), source })?;
        let runtime = Self { channel };
        runtime
            .runtime_client()
            .version(VersionRequest { version: "v1".to_owned() })
            .await
            .map_err(|source| ConnectError::Version { endpoint: endpoint.to_owned(), source })?;
        Ok(runtime)
    }

    /// The runtime's side of the connection.
    pub fn runtime(&self) -> impl RuntimeService + Clone + 'static {
        self.runtime_client()
    }

    /// The image side of the connection; upstream lets it be another endpoint (`--image-service-endpoint`).
    pub fn images(&self) -> impl ImageService + Clone + 'static {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn runtime_client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}

pub(crate) fn incoming<T: Send + 'static>(stream: tonic::Streaming<T>) -> CriStream<T> {
    Box::pin(stream.map(|item| item.map_err(CriError::from)))
}

/// The path in `unix:///path`, `unix:/path` or `/path`.
fn socket_path(endpoint: &str) -> Result<&str, ConnectError> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') { Ok(path) } else { Err(ConnectError::Endpoint(endpoint.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for endpoint in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), "/run/x.sock");
        }
        for endpoint in ["tcp://127.0.0.1:1", "run/x.sock", "", "unix://run/x.sock"] {
            assert!(socket_path(endpoint).is_err(), "{endpoint}");
        }
    }
}
