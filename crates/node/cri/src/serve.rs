use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

use crate::MAX_MESSAGE_BYTES;
use crate::contract::{ImageService, RuntimeService};
use crate::error::CriStream;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;

/// A service as tonic's server trait wants it.
pub struct Served<S: ?Sized>(pub Arc<S>);

/// A [`CriStream`] with errors as tonic writes them.
pub(crate) type OutgoingStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

pub(crate) fn outgoing<T: Send + 'static>(stream: CriStream<T>) -> OutgoingStream<T> {
    Box::pin(stream.map(|item| item.map_err(Status::from)))
}

/// Why the socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A live server answers on the path.
    #[error("{0} is in use by another container runtime")]
    InUse(PathBuf),
    /// A file-system step failed.
    #[error("{step} {path}")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP/2 server stopped.
    #[error("serving CRI")]
    Transport(#[source] tonic::transport::Error),
}

/// A bound but not yet serving CRI socket.
pub struct CriServer {
    listener: UnixListener,
    path: PathBuf,
}

impl CriServer {
    /// Binds `path` (mode 0600). A socket that a dead server left is replaced; a live one is refused. Must be called
    /// within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |step, source| ServeError::Socket { step, path: path.to_owned(), source };
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ServeError::InUse(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|source| failed("removing stale socket", source))?;
            }
            Err(source) => return Err(failed("probing", source)),
        }
        let listener = UnixListener::bind(path).map_err(|source| failed("binding", source))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|source| failed("restricting", source))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown` resolves, then lets running calls end and removes the socket.
    pub async fn serve(
        self,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let runtime = RuntimeServiceServer::new(Served(runtime))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let images = ImageServiceServer::new(Served(images))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let served = tonic::transport::Server::builder()
            .add_service(runtime)
            .add_service(images)
            .serve_with_incoming_shutdown(UnixListenerStream::new(self.listener), shutdown)
            .await
            .map_err(ServeError::Transport);
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                served.and(Err(ServeError::Socket { step: "removing", path: self.path, source }))
            }
            _ => served,
        }
    }
}
