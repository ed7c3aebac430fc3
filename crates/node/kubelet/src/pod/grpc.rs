//! The gRPC health protocol, as a probe asks it (`pkg/probe/grpc/grpc.go`).

use std::time::Duration;
use tonic::Code;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

fn status_name(status: i32) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

/// Asks `host:port` whether `service` serves; the error is upstream's words.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{host}:{port}");
    let connect = |what: String| format!("error: failed to connect service at {address:?}: {what}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| connect(error.to_string()))?;
    let endpoint = endpoint.user_agent("kube-probe/1.36").map_err(|error| connect(error.to_string()))?;
    let channel = tokio::time::timeout(timeout, endpoint.connect()).await;
    let late = |_| format!("timeout: failed to connect service {address:?} within {}s", timeout.as_secs());
    let channel = channel.map_err(late)?.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        connect(cause.unwrap_or_else(|| error.to_string()))
    })?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| connect(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = tokio::time::timeout(timeout, client.unary(request, path, codec)).await;
    let late = |_| format!("timeout: health rpc did not complete within {}s", timeout.as_secs());
    let answer = answer.map_err(late)?.map_err(|status| match status.code() {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        code => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {}", status.message()),
    })?;
    match answer.into_inner().status {
        SERVING => Ok(()),
        other => Err(format!("service unhealthy (responded with {:?})", status_name(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tonic::codegen::{BoxFuture, Service};

    /// A server of the protocol that answers with a status; `web` alone is known to serve.
    #[derive(Clone)]
    struct Health;
    impl tonic::server::NamedService for Health {
        const NAME: &'static str = "grpc.health.v1.Health";
    }
    impl tonic::server::UnaryService<HealthCheckRequest> for Health {
        type Response = HealthCheckResponse;
        type Future = BoxFuture<tonic::Response<HealthCheckResponse>, tonic::Status>;
        fn call(&mut self, request: tonic::Request<HealthCheckRequest>) -> Self::Future {
            let status = if request.into_inner().service == "web" { SERVING } else { 2 };
            Box::pin(std::future::ready(Ok(tonic::Response::new(HealthCheckResponse { status }))))
        }
    }
    impl Service<http::Request<tonic::body::Body>> for Health {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Box::pin(async move { Ok(tonic::server::Grpc::new(codec).unary(Health, request).await) })
        }
    }

    #[tokio::test]
    async fn a_server_says_whether_it_serves() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = tonic::transport::Server::builder().add_service(Health).serve(address);
        let asking = async {
            let within = Duration::from_secs(5);
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::task::yield_now().await;
            }
            assert_eq!(check("127.0.0.1", address.port(), "web", within).await, Ok(()));
            let error = check("127.0.0.1", address.port(), "", within).await.unwrap_err();
            assert_eq!(error, "service unhealthy (responded with \"NOT_SERVING\")");
        };
        tokio::select! {
            ended = server => panic!("{ended:?}"),
            () = asking => (),
        }
    }

    #[tokio::test]
    async fn nobody_there_and_somebody_who_does_not_speak() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let error = check("127.0.0.1", port, "", Duration::from_secs(5)).await.unwrap_err();
        assert!(error.starts_with("error: failed to connect service at"), "{error}");

        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let error = check("127.0.0.1", port, "", Duration::from_secs(1)).await.unwrap_err();
        assert!(error.starts_with("timeout: "), "{error}");
    }
}
