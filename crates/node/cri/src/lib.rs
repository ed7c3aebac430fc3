//! The container runtime interface (CRI) v1: what the kubelet asks of a container runtime.
//!
//! Owns the messages of `runtime.v1` ([`v1`]), the two services as object-safe traits ([`RuntimeService`],
//! [`ImageService`]), a client for any runtime behind a unix socket ([`GrpcRuntime`]) and a server that puts any
//! implementation of the traits behind one ([`CriServer`]). The kubelet holds `Arc<dyn RuntimeService>` and does not know
//! whether containerd, CRI-O or the embedded runtime answers.
//!
//! Must never know: what a container is made of, or who calls. No policy, no retries: the caller sees the gRPC code
//! as the runtime gave it ([`CriError`]).
//!
//! Start reading at the traits in [`contract`]; `src/generated/` is written by `cargo xtask cri API.PROTO`.
//!
//! Not here yet: TCP and Windows named-pipe endpoints; an endpoint is a unix socket.

mod client;
mod error;
mod secret;
mod serve;
pub mod streaming;

#[expect(
    missing_docs,
    clippy::all,
    reason = "generated: the words of the proto file are upstream's, their meaning is documented there"
)]
mod generated {
    pub(crate) mod messages {
        include!("generated/runtime.v1.rs");
    }
}

/// The messages of `runtime.v1`, named as in upstream's `api.proto`.
pub mod v1 {
    pub use crate::generated::messages::*;
}

/// The two services as traits, with their implementations for client, server and `Arc`.
pub mod contract {
    use crate::client::incoming;
    use crate::error::{CriFuture, CriStream, unimplemented_rpc};
    use crate::serve::{OutgoingStream, Served, outgoing};
    use crate::v1::*;

    mod services {
        include!("generated/contract.rs");
    }
    pub use services::{ImageService, RuntimeService};
}

pub use client::{ConnectError, GrpcRuntime};
pub use contract::{ImageService, RuntimeService};
pub use error::{CriError, CriFuture, CriStream};
pub use serve::{CriServer, ServeError, Served};
pub use tonic::Code;

/// The largest message either side accepts; upstream's `maxMsgSize` (cri-client/pkg/remote_runtime.go).
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
