//! What lies behind the API horizon, and what watchers hear of time passing.

use crate::api::{Api, call, config_map};
use skiff_machinery::{Value, object};
use skiff_server::registry::Limits;
use skiff_testkit::eventually;
use std::time::{Duration, Instant};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn an_old_continue_token_gets_410_and_a_token_that_goes_on() {
    let limits = Limits { compaction_interval: Duration::from_millis(40), ..Limits::default() };
    let api = Api::over(skiff_store::testing::memory(), limits).await;
    for name in ["a", "b", "c"] {
        api.post(MAPS, &config_map(name, name)).await.expect(201);
    }
    let first = api.get(&format!("{MAPS}?limit=1")).await.expect(200).json();
    let token = first.str_at(&["metadata", "continue"]).to_owned();
    let revision = first.str_at(&["metadata", "resourceVersion"]).to_owned();
    let expired = eventually("the horizon to pass the list", async || {
        // The store's revision has to move too.
        api.send(
            call("PATCH", &format!("{MAPS}/c"))
                .body("application/merge-patch+json", format!("{{\"data\":{{\"x\":\"{:?}\"}}}}", Instant::now())),
        )
        .await
        .expect(200);
        let answer = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
        if answer.status != 200 { Ok(answer) } else { Err(answer.text()) }
    })
    .await;
    let expired = expired.expect(410).json();
    assert_eq!(expired.str_at(&["reason"]), "Expired");
    assert!(
        expired
            .str_at(&["message"])
            .starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let inconsistent = expired.str_at(&["metadata", "continue"]);
    let rest = api.get(&format!("{MAPS}?continue={inconsistent}")).await.expect(200).json();
    let names: Vec<&str> = rest.items_at(&["items"]).iter().map(|item| item.str_at(&["metadata", "name"])).collect();
    assert_eq!(names, ["b", "c"]);
    let exact = api.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await.expect(410);
    assert_eq!(exact.at(&["reason"]), "Expired");
    let mut old = api.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    let line = old.line().await;
    assert!(line.starts_with(&format!("ERROR too old resource version: {revision} (")), "{line}");
    assert!(old.next().await.is_none(), "nothing follows an error");
}

#[tokio::test]
async fn a_watch_ends_with_its_time() {
    let api = Api::new().await;
    let begun = Instant::now();
    let mut frames = api.watch(&format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1")).await;
    assert!(frames.next().await.is_none());
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn large_lists_are_compressed_for_who_takes_it() {
    let api = Api::new().await;
    for index in 0..40 {
        let big = "x".repeat(5000);
        let map = object! { "metadata": object! { "name": format!("m{index:02}") }, "data": object! { "big": big } };
        api.post(MAPS, &map).await.expect(201);
    }
    let plain = api.get(MAPS).await.expect(200);
    assert!(plain.headers.get("content-encoding").is_none());
    let packed = api.send(call("GET", MAPS).header("accept-encoding", "gzip")).await.expect(200);
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.body.len() * 10 < plain.body.len());
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    assert_eq!(plain.json().items_at(&["items"]).len(), 40);
    // Protobuf says how long it is before it begins.
    let protobuf =
        api.send(call("GET", MAPS).header("accept", "application/vnd.kubernetes.protobuf")).await.expect(200);
    assert!(protobuf.body.starts_with(b"k8s\0"));
    let list: Value = plain.json();
    assert_eq!(list.str_at(&["kind"]), "ConfigMapList");
}

#[tokio::test]
async fn what_is_in_the_store_is_there_after_a_restart() {
    let store = skiff_store::testing::memory();
    let before = Api::over(std::sync::Arc::clone(&store), Limits::default()).await;
    let made = before.post(MAPS, &config_map("a", "one")).await.expect(201).json();
    before.supervisor.shutdown(Duration::from_secs(5)).await;
    let after = Api::over(store, Limits::default()).await;
    assert_eq!(after.get(&format!("{MAPS}/a")).await.expect(200).json(), made);
    let stored = after.store.range(skiff_store::RangeRequest {
        range: skiff_store::KeyRange::key("/registry/configmaps/default/a"),
        revision: None,
        limit: 0,
        keys_only: false,
        count_only: false,
    });
    let value = stored.await.unwrap().kvs.remove(0).value;
    assert!(value.starts_with(b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap"), "upstream's envelope");
    let revision = made.str_at(&["metadata", "resourceVersion"]);
    assert!(
        !value.windows(revision.len() + 2).any(|window| window == [&[0x32, 1][..], revision.as_bytes()].concat()),
        "no resource version is stored"
    );
}
