//! Asking upstream servers.
//!
//! Each question goes out from a socket of its own, so the port is as unguessable as the id; the socket is connected, so
//! only that server's packets arrive. Upstream behaviour mirrored: CoreDNS plugin/forward (random order, another server
//! after a failure, TCP after truncation).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use skiff_base::clock::SharedClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::wire::{Rcode, Response, write_query};

/// How long one server may take.
const TRY: Duration = Duration::from_secs(2);
/// And all together.
const ALL: Duration = Duration::from_millis(4500);

/// Why no server answered.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is none.
    #[error("no upstream server")]
    NoServer,
    /// In time.
    #[error("no answer from {0} in time")]
    Timeout(SocketAddr),
    /// A socket failed.
    #[error("{step} {server}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// With whom.
        server: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It answered what is no answer.
    #[error("{0} sent a malformed answer")]
    Malformed(SocketAddr),
    /// It could not answer either.
    #[error("{0} answered {1}")]
    Failed(SocketAddr, &'static str),
    /// Ids come from the system's generator.
    #[error("no randomness")]
    Random,
}

/// Upstream servers.
#[derive(Clone)]
pub struct Upstreams {
    servers: Vec<SocketAddr>,
    clock: SharedClock,
}

impl Upstreams {
    /// These servers.
    pub fn new(servers: Vec<SocketAddr>, clock: SharedClock) -> Self {
        Self { servers, clock }
    }

    /// The servers.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Asks until one answers.
    pub async fn ask(&self, question: &[u8], dnssec: bool, checking_disabled: bool) -> Result<Response, ForwardError> {
        if self.servers.is_empty() {
            return Err(ForwardError::NoServer);
        }
        let start = random()? as usize;
        let end = self.clock.now() + ALL;
        let mut last = ForwardError::NoServer;
        for attempt in 0..self.servers.len().max(2) {
            let server = self.servers[(start + attempt) % self.servers.len()];
            let deadline = end.min(self.clock.now() + TRY);
            let one = self.ask_one(server, question, dnssec, checking_disabled);
            let outcome = tokio::select! {
                outcome = one => outcome,
                () = self.clock.sleep_until(deadline) => Err(ForwardError::Timeout(server)),
            };
            match outcome {
                // Another server may know better, as resolvers themselves assume.
                Ok(response) if response.rcode == Rcode::ServFail as u16 || response.rcode == Rcode::Refused as u16 => {
                    last = ForwardError::Failed(server, Rcode::word(response.rcode));
                }
                Ok(response) => return Ok(response),
                Err(error) => last = error,
            }
            if self.clock.now() >= end {
                break;
            }
        }
        Err(last)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        question: &[u8],
        dnssec: bool,
        checking_disabled: bool,
    ) -> Result<Response, ForwardError> {
        let failed = |step| move |source| ForwardError::Io { step, server, source };
        let id = random()? as u16;
        let query = write_query(id, question, dnssec, checking_disabled);
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await.map_err(failed("binding to ask"))?;
        socket.connect(server).await.map_err(failed("connecting to"))?;
        socket.send(&query).await.map_err(failed("sending to"))?;
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(failed("receiving from"))?;
            let message = buffer.get(..length).unwrap_or_default();
            // Not ours, or forged: the true answer may still come.
            let Some(response) = Response::parse(message, id, question) else { continue };
            if response.truncated {
                return self.ask_tcp(server, &query, id, question).await;
            }
            return Ok(response);
        }
    }

    async fn ask_tcp(
        &self,
        server: SocketAddr,
        query: &[u8],
        id: u16,
        question: &[u8],
    ) -> Result<Response, ForwardError> {
        let failed = |step| move |source| ForwardError::Io { step, server, source };
        let mut stream = TcpStream::connect(server).await.map_err(failed("connecting to"))?;
        let mut framed = (query.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(query);
        stream.write_all(&framed).await.map_err(failed("sending to"))?;
        let length = stream.read_u16().await.map_err(failed("receiving from"))?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await.map_err(failed("receiving from"))?;
        Response::parse(&message, id, question).ok_or(ForwardError::Malformed(server))
    }
}

fn random() -> Result<u32, ForwardError> {
    getrandom::u32().map_err(|_| ForwardError::Random)
}

/// Name servers of a `resolv.conf`. Addresses of ours would ask ourselves, so they are left out.
pub fn parse_resolv_conf(text: &str, ours: &[IpAddr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone (`fe80::1%eth0`) is cut off: it means nothing inside a pod.
        let address = words.next().and_then(|w| w.split('%').next()).and_then(|w| w.parse::<IpAddr>().ok());
        if let Some(ip) = address.filter(|ip| !ours.contains(ip)) {
            servers.push(SocketAddr::new(ip, 53));
        }
    }
    servers
}

/// Reads a `resolv.conf`; one that is not there has no servers.
pub fn read_resolv_conf(path: &Path, ours: &[IpAddr]) -> std::io::Result<Vec<SocketAddr>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(parse_resolv_conf(&text, ours)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text =
            "# x\nnameserver 192.0.2.1\nsearch a b\nnameserver   fe80::1%eth0 \nnameserver x\nnameserver 10.96.0.10\n";
        let servers = parse_resolv_conf(text, &["10.96.0.10".parse().unwrap()]);
        assert_eq!(servers, ["192.0.2.1:53".parse().unwrap(), "[fe80::1]:53".parse::<SocketAddr>().unwrap()]);
    }
}
