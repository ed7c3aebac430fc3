//! The limit of this server: ready bytes over TLS, nothing behind. `h2load -n 200000 -c 4 -m 8 https://ADDRESS/small`
//! (1.7 kB) and `/large` (4 MB in 16 pieces) show what a request costs before anything is asked.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use bytes::Bytes;
use http::{Request, Response};
use skiff_base::clock::SystemClock;
use skiff_base::pki::{self, ServerNames};
use skiff_base::task::Supervisor;
use skiff_net::server::{self, Options, Server};
use skiff_net::{Body, Peer, Service, ServiceFuture, tls};
use std::sync::Arc;
use std::time::SystemTime;

struct Ready {
    small: Bytes,
    piece: Bytes,
}
impl Service for Ready {
    fn call(&self, _peer: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        let body = match request.uri().path() {
            "/large" => Body::Chunks(std::iter::repeat_n(self.piece.clone(), 16).collect()),
            _ => Body::Full(self.small.clone()),
        };
        Box::pin(std::future::ready(Response::new(body)))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let names = ServerNames {
        node_name: "localhost".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: Vec::new(),
        names: Vec::new(),
    };
    let started = std::time::Instant::now();
    let pki = pki::ensure(dir.path(), &names, SystemTime::now()).unwrap();
    println!("keys and certificates: {:?}", started.elapsed());
    let identity = tls::Identity::from_pem(pki.apiserver.certificate.as_bytes(), pki.apiserver.key.as_bytes()).unwrap();
    let config = tls::server_config(identity, Some(pki.ca.as_bytes()), true).unwrap();
    let supervisor = Supervisor::new("bare");
    let listener = server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let ready = Ready { small: Bytes::from(vec![b'x'; 1700]), piece: Bytes::from(vec![b'x'; 256 * 1024]) };
    let server = Server::tls(listener, config, Arc::new(ready), Options::default(), SystemClock::shared());
    println!("https://{}", server.local_addr().unwrap());
    server.spawn(&supervisor, "https");
    supervisor.token().cancelled().await;
}
