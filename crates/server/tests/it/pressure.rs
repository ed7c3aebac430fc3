//! What holds when there is too much of something: requests, watchers that do not read, clients that go away, and when
//! the server is asked to end.

use crate::whole::{Ask, Setup, Whole};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use skiff_net::Body;
use skiff_server::front;
use skiff_testkit::until;
use std::io;
use std::time::Duration;
use tokio::task::JoinSet;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The beginning of a body whose end never comes.
fn endless(beginning: &'static str) -> Body {
    let first = stream::once(async move { Ok::<_, io::Error>(Frame::data(Bytes::from_static(beginning.as_bytes()))) });
    Body::stream(StreamBody::new(first.chain(stream::pending())))
}

fn jane(server: &Whole, method: &str, path: &str) -> Ask {
    server.ask(method, path).token("jane")
}

async fn in_flight(server: &Whole) -> Vec<String> {
    let metrics = server.get("/metrics").await.text();
    metrics.lines().filter(|line| line.starts_with("apiserver_current_inflight_requests{")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_are_told_to_come_back() {
    let limits = front::Options { max_requests_inflight: 50, max_mutating_requests_inflight: 2, ..Default::default() };
    let server = Whole::with(Setup { front: limits, ..Setup::default() }).await;
    server.trust_jane().await;
    assert_eq!(server.send(jane(&server, "GET", MAPS)).await.status, 200, "jane is let in");
    // Two writes whose bodies never end hold both seats.
    let mut held = JoinSet::new();
    for _ in 0..2 {
        let request = jane(&server, "POST", MAPS).slow("application/json", endless("{\"kind\":"));
        let client = server.client.clone();
        held.spawn(async move { client.send(request.into_request()).await });
    }
    let refused = || async {
        let ask = jane(&server, "POST", MAPS).body("application/json", r#"{"metadata":{"generateName":"a-"}}"#);
        server.send(ask).await.status == 429
    };
    let mutating = |count: &'static str| {
        let server = &server;
        move || async move { in_flight(server).await.iter().any(|line| line.contains("mutating") && line.ends_with(count)) }
    };
    until("both seats are taken", mutating(" 2")).await;
    assert!(refused().await);
    let ask = jane(&server, "DELETE", &format!("{MAPS}/x"));
    let answer = server.send(ask).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.at(&["reason"]), "TooManyRequests");
    assert_eq!(answer.json().at(&["details", "retryAfterSeconds"]).unwrap().as_int(), Some(1));
    // Reads have seats of their own, watches need none, and masters are always let in.
    assert_eq!(server.send(jane(&server, "GET", MAPS)).await.status, 200);
    assert_eq!(server.open(jane(&server, "GET", &format!("{MAPS}?watch=1"))).await.status(), 200);
    assert_eq!(server.post(MAPS, r#"{"metadata":{"name":"by-root"}}"#).await.status, 201);
    assert_eq!(server.send(server.ask("GET", "/readyz")).await.status, 200);
    // Who goes away gives the seat back.
    held.shutdown().await;
    until("the seats are free", || async { !refused().await }).await;
    until("nothing is counted", mutating(" 0")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_break_off_leave_nothing_behind() {
    let server = Whole::start().await;
    for round in 0..40 {
        let request = server
            .root("POST", MAPS)
            .slow("application/json", endless("{\"metadata\":{\"name\":\"half\""))
            .into_request();
        let client = server.client.clone();
        // In the middle of it, here and there.
        drop(tokio::time::timeout(Duration::from_millis(round % 4), client.send(request)).await);
        // A watch dropped while it is open, and one that read nothing.
        drop(server.watch(&format!("{MAPS}?watch=1")).await);
    }
    assert_eq!(server.get(&format!("{MAPS}/half")).await.status, 404);
    let idle = || async {
        let lines = in_flight(&server).await;
        // The question itself is one.
        lines.iter().any(|line| line.contains("mutating") && line.ends_with(" 0"))
    };
    until("every seat is free", idle).await;
    let watchers = || async {
        let metrics = server.get("/metrics").await.text();
        let mut lines = metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
        lines.all(|line| !line.contains("configmaps") || line.ends_with(" 0"))
    };
    until("every watch has ended", watchers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_holds_up_nobody() {
    let server = Whole::start().await;
    let start = server.get(MAPS).await.at(&["metadata", "resourceVersion"]);
    let path = format!("{MAPS}?watch=1&resourceVersion={start}");
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(server.watch(&path).await);
    }
    let mut quick = server.watch(&path).await;
    let text = "x".repeat(4096);
    const CHANGES: usize = 600;
    let writer = async {
        for number in 0..CHANGES {
            let map = format!(r#"{{"metadata":{{"name":"m{number:04}"}},"data":{{"a":"{text}"}}}}"#);
            assert_eq!(server.post(MAPS, &map).await.status, 201);
        }
    };
    let reader = async {
        for number in 0..CHANGES {
            let line = quick.line().await;
            assert!(line.starts_with(&format!("ADDED m{number:04}@")), "{line}");
        }
    };
    tokio::join!(writer, reader);
    // They find everything, in order, when they read at last: 2.5 MB waited in the ring and not for each of them.
    for watcher in &mut slow {
        for number in 0..CHANGES {
            let line = watcher.line().await;
            assert!(line.starts_with(&format!("ADDED m{number:04}@")), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_lets_requests_finish_and_ends_watches_cleanly() {
    let server = Whole::start().await;
    let start = server.get(MAPS).await.at(&["metadata", "resourceVersion"]);
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={start}")).await;
    server.post(MAPS, r#"{"metadata":{"name":"before"}}"#).await;
    assert!(watch.line().await.starts_with("ADDED before@"));
    let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
    let part = |text: &'static str| Ok::<_, io::Error>(Frame::data(Bytes::from_static(text.as_bytes())));
    let body = stream::once(async move { part(r#"{"metadata":"#) }).chain(stream::once(async move {
        wait.await.map_err(io::Error::other)?;
        part(r#"{"name":"late"}}"#)
    }));
    let request =
        server.root("POST", MAPS).slow("application/json", Body::stream(StreamBody::new(body))).into_request();
    let client = server.client.clone();
    let mut slow = JoinSet::new();
    slow.spawn(async move { client.send(request).await });
    let mutating =
        || async { in_flight(&server).await.iter().any(|line| line.contains("mutating") && line.ends_with(" 1")) };
    until("the request is there", mutating).await;
    server.supervisor.token().cancel();
    // The watch ends as one whose time is up: the client comes back at its revision, to another server.
    assert!(watch.next().await.is_none());
    let refused = || async { tokio::net::TcpStream::connect(server.address).await.is_err() };
    until("nobody else is let in", refused).await;
    go_on.send(()).unwrap();
    let answer = slow.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 201);
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// 100 LISTs of 2,000 objects of 8 KiB (17 MB each) whose clients do not read: what is in flight for each is bounded, and
/// all of them are complete when they read at last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_take_little_memory() {
    const OBJECTS: usize = 2000;
    let server = Whole::start().await;
    let text = "x".repeat(8 << 10);
    for number in 0..OBJECTS {
        let map = format!(r#"{{"metadata":{{"name":"m{number:04}"}},"data":{{"a":"{text}"}}}}"#);
        assert_eq!(server.post(MAPS, &map).await.status, 201);
    }
    // Compressing takes its time without optimisation.
    for (accept, lists) in [("application/json", 100), ("application/vnd.kubernetes.protobuf", 100), ("gzip", 10)] {
        let ask = || match accept {
            "gzip" => server.root("GET", MAPS).header("accept-encoding", "gzip"),
            accept => server.root("GET", MAPS).header("accept", accept),
        };
        let whole = server.send(ask()).await;
        assert!(
            whole.status == 200 && (accept == "gzip" || whole.body.len() > OBJECTS * text.len()),
            "{}",
            whole.body.len()
        );
        let before = resident();
        let mut open = Vec::new();
        for _ in 0..lists {
            open.push(server.open(ask()).await);
        }
        // Others are served meanwhile.
        let begun = std::time::Instant::now();
        assert_eq!(server.get(&format!("{MAPS}/m0001")).await.status, 200);
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
        let in_flight = resident().saturating_sub(before) / lists;
        eprintln!("{accept}: {} KiB for each of {lists} lists of {} KiB", in_flight >> 10, whole.body.len() >> 10);
        assert!(in_flight < 1 << 20, "{accept}: {in_flight} bytes for each list");
        for answer in open.into_iter().step_by(25) {
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            assert_eq!(body.len(), whole.body.len(), "{accept}");
        }
    }
}
