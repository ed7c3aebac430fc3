//! Peers that mean harm: each is cut, and honest ones are served meanwhile.

use crate::http::{Echo, Fixture, start_with};
use ::http::{Request, StatusCode};
use skiff_net::server::Options;
use skiff_net::tls::{self, ServerTrust};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn strict() -> Fixture {
    let short = Duration::from_millis(300);
    let options = Options { handshake: short, header: short, stalled_write: short, ..Options::default() };
    start_with(Arc::new(Echo), options)
}

async fn raw(fixture: &Fixture, http2: bool) -> TlsStream<TcpStream> {
    let trust = ServerTrust::Authority(fixture.pki.ca.clone().into_bytes());
    let config = tls::client_config(&trust, None, http2).unwrap();
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    TlsConnector::from(config).connect(tls::server_name("127.0.0.1").unwrap(), stream).await.unwrap()
}

/// Reads until the server closes; how long that took.
async fn closed_after(mut stream: impl AsyncReadExt + Unpin) -> Duration {
    let started = Instant::now();
    let mut sink = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut sink));
    // (An end without close_notify is an end too.)
    let _ended_somehow = reading.await.expect("the server closes the connection");
    started.elapsed()
}

async fn honest(fixture: &Fixture) {
    let started = Instant::now();
    assert_eq!(fixture.get(&fixture.client(false, true), "/x").await.0, StatusCode::OK);
    assert!(started.elapsed() < Duration::from_secs(2), "an honest client waited {:?}", started.elapsed());
}

#[tokio::test]
async fn silent_and_slow_peers_are_cut() {
    let fixture = strict();
    let silent = TcpStream::connect(fixture.address).await.unwrap();
    assert!(closed_after(silent).await < Duration::from_secs(3), "no handshake");
    let mut slow = raw(&fixture, false).await;
    slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-").await.unwrap();
    assert!(closed_after(slow).await < Duration::from_secs(3), "half a header");
    honest(&fixture).await;
}

/// The peer of a refused upload reads the answer only once it has sent everything, as simple clients do.
#[tokio::test]
async fn a_refusal_reaches_a_peer_that_still_sends() {
    let fixture = strict();
    let mut stream = raw(&fixture, false).await;
    let header = format!("POST /redirect HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 4 << 20);
    stream.write_all(header.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; 4 << 20]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 302 "), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut() {
    let fixture = strict();
    let mut deaf = raw(&fixture, false).await;
    for _ in 0..8 {
        deaf.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.supervisor.tasks().iter().any(|task| task == "connection") {
        assert!(Instant::now() < deadline, "the connection stays");
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
    honest(&fixture).await;
}

#[tokio::test]
async fn streams_that_are_reset_as_they_are_opened_end_the_connection() {
    let fixture = strict();
    let stream = raw(&fixture, true).await;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let attack = async {
        for sent in 0..200_000 {
            let Ok(ready) = sender.clone().ready().await else { return sent };
            sender = ready;
            let request = Request::get("https://x/slow").body(()).unwrap();
            let Ok((_, mut body)) = sender.send_request(request, false) else { return sent };
            body.send_reset(h2::Reason::CANCEL);
            if sent % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        panic!("nothing stopped 200,000 resets");
    };
    let sent = tokio::time::timeout(Duration::from_secs(10), async {
        tokio::select! {
            sent = attack => sent,
            _ended = connection => 0,
        }
    });
    sent.await.expect("cut in time");
    honest(&fixture).await;
}

#[tokio::test]
async fn headers_have_a_limit() {
    let fixture = strict();
    let client = fixture.client(false, true);
    let request = Request::get(fixture.url("/")).header("x-long", "y".repeat(200_000));
    let outcome = client.send(request.body(skiff_net::Body::Empty).unwrap()).await;
    let refused = match outcome {
        Ok(answer) => answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Err(_) => true,
    };
    assert!(refused);
    let mut endless = raw(&fixture, false).await;
    endless.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut failed = false;
    for number in 0..200_000 {
        if endless.write_all(format!("x-{number}: y\r\n").as_bytes()).await.is_err() {
            failed = true;
            break;
        }
    }
    assert!(failed || closed_after(endless).await < Duration::from_secs(5));
    honest(&fixture).await;
}

#[tokio::test]
async fn noise_is_no_harm() {
    let fixture = strict();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..64 {
        let mut noise = vec![0; 1 + round * 17];
        for byte in &mut noise {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            *byte = u8::try_from(seed & 0xff).unwrap();
        }
        if round % 2 == 0 {
            let mut stream = TcpStream::connect(fixture.address).await.unwrap();
            stream.write_all(&noise).await.unwrap();
        } else {
            let mut stream = raw(&fixture, round % 4 == 1).await;
            stream.write_all(&noise).await.unwrap();
        }
    }
    honest(&fixture).await;
    assert_eq!(fixture.supervisor.panics(), 0);
}
