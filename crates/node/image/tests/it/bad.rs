//! Images that cannot be had: the reason in one line, and nothing of them on disk.

use crate::registry::{Trick, World, digest, layer};
use http::StatusCode;
use skiff_image::Reference;
use skiff_image::registry::Credentials;
use std::sync::Arc;
use std::time::Duration;

fn two_layers() -> Vec<Vec<u8>> {
    vec![layer(&[("a", 300_000), ("b", 10)]), layer(&[("c", 500_000)])]
}

/// The reason why it cannot be pulled; nothing of it is left.
async fn refused(world: &World, name: &str) -> String {
    let error = world.pull(name).await.unwrap_err();
    assert_eq!(world.left(), Vec::<String>::new(), "{error}");
    assert!(world.images.list().is_empty() && world.images.find(name).is_none());
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_image_and_what_it_takes() {
    let Some(world) = World::new() else { return };
    let parts = world.image("whole", &two_layers());
    let image = world.pull(&parts.name).await.unwrap();
    assert_eq!(image.config.env, ["NAME=whole"]);
    // Two layer directories, three files; another image with one of them adds only its own.
    let usage = world.images.usage();
    assert_eq!((usage.bytes, usage.inodes), (800_010, 5));
    let other = world.image("other", &[two_layers()[0].clone(), layer(&[("d", 7)])]);
    world.pull(&other.name).await.unwrap();
    assert_eq!((world.images.usage().bytes, world.images.usage().inodes), (800_017, 7));
    assert_eq!(world.registry.asked(&other.layers[0]), 0, "a layer that is here is not fetched");
    // Again: only asked whether it is still the same.
    world.pull(&parts.name).await.unwrap();
    assert_eq!((world.registry.asked(&parts.manifest), world.registry.asked(&parts.layers[1])), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_falsified_never_becomes_an_image() {
    let Some(world) = World::new() else { return };
    let layers = two_layers();
    let parts = world.image("false", &layers);
    world.registry.trick(&parts.layers[1], Trick::Falsify);
    let error = refused(&world, &parts.name).await;
    let actual = digest(&vec![b'x'; layers[1].len()]);
    assert_eq!(error, format!("the layer has digest {actual}, not {}", digest(&layers[1])));

    world.registry.0.lock().tricks.clear();
    world.registry.trick(&parts.config, Trick::Falsify);
    assert!(refused(&world, &parts.name).await.starts_with("the configuration has digest sha256:"));

    // By digest, the manifest itself is checked.
    world.registry.0.lock().tricks.clear();
    let manifest = world.registry.0.lock().content[&parts.manifest].1.clone();
    let by_digest = format!("/v2/false/manifests/{}", digest(&manifest));
    world.registry.put(by_digest, "application/json", "{}");
    let name = format!("{}@{}", parts.name.rsplit_once(':').unwrap().0, digest(&manifest));
    let error = refused(&world, &name).await;
    assert!(error.starts_with("failed to resolve reference") && error.contains("the manifest has digest"), "{error}");

    // Sent as promised, but not what the configuration says: the first layer was unpacked already and goes again.
    let config = String::from_utf8(world.registry.0.lock().content[&parts.config].1.to_vec()).unwrap();
    let lie = config.replace(&digest(&layers[1]), &format!("sha256:{}", "0".repeat(64)));
    let manifest = String::from_utf8(manifest.to_vec()).unwrap();
    let manifest = manifest.replace(&digest(config.as_bytes()), &digest(lie.as_bytes()));
    world.registry.put(parts.manifest.clone(), "application/json", manifest);
    world.registry.put(format!("/v2/false/blobs/{}", digest(lie.as_bytes())), "application/json", lie);
    assert!(refused(&world, &parts.name).await.starts_with("the unpacked layer has digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let mut cut = layer(&[("a", 100_000)]);
    cut.truncate(60_000);
    let parts = world.image("cut", &[layer(&[("b", 5)]), cut]);
    let error = refused(&world, &parts.name).await;
    assert!(error.starts_with("layer sha256:"), "{error}");
    world.registry.put(parts.manifest.clone(), "application/json", "{\"config\": 7");
    assert!(refused(&world, &parts.name).await.starts_with("manifest: "));
    world.registry.put(parts.manifest.clone(), "application/json", "{\"layers\": []}");
    let error = refused(&world, &parts.name).await;
    assert_eq!(error, "manifest: no match for platform in manifest: no image for this machine under this name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_taken_up_again() {
    let Some(world) = World::new() else { return };
    let parts = world.image("broken", &two_layers());
    world.registry.trick(&parts.layers[1], Trick::CutOnce(123_456));
    world.pull(&parts.name).await.unwrap();
    assert_eq!(world.registry.asked(&parts.layers[1]), 2, "once more, for the rest");

    let parts = world.image("short", &[layer(&[("e", 400_000)])]);
    world.registry.trick(&parts.layers[0], Trick::CutAlways(200_000));
    let error = world.pull(&parts.name).await.unwrap_err().to_string();
    assert!(error.contains(&parts.layers[0]) && !error.contains('\n'), "{error}");
    // Once for the beginning, then as often as is worth it without anything new.
    assert_eq!(world.registry.asked(&parts.layers[0]), 5);
    assert!(!world.left().iter().any(|path| path.contains("/tmp/") && path.contains("images/tmp/")));

    let parts = world.image("busy", &[layer(&[("f", 10)])]);
    world.registry.trick(&parts.layers[0], Trick::Status(StatusCode::SERVICE_UNAVAILABLE, 2));
    world.pull(&parts.name).await.unwrap();
    assert_eq!(world.registry.asked(&parts.layers[0]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_sends_nothing_is_given_up() {
    let Some(mut world) = World::new() else { return };
    world.puller = world.puller.with_progress_timeout(Duration::from_millis(30));
    let parts = world.image("stalls", &[layer(&[("a", 10)])]);
    world.registry.trick(&parts.layers[0], Trick::Stall);
    assert!(refused(&world, &parts.name).await.ends_with("no data in 0 seconds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_is_told_in_one_line() {
    let Some(world) = World::new() else { return };
    let name = format!("{}/nothing:1", world.host);
    let error = world.pull(&name).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), format!("failed to resolve reference \"{name}\": {name}: not found"));

    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&world, &format!("{free}/x:1")).await;
    let expected = format!(
        "failed to resolve reference \"{free}/x:1\": failed to do request: Get \"http://{free}/v2/x/manifests/1\": "
    );
    assert!(error.starts_with(&expected) && error.contains("Connection refused"), "{error}");

    let parts = world.image("private", &[layer(&[("a", 10)])]);
    world.registry.0.lock().wants = Some("user:right");
    let denied = "pull access denied, repository does not exist or may require authorization";
    let prefix = format!("failed to resolve reference \"{}\": {denied}: ", parts.name);
    assert_eq!(refused(&world, &parts.name).await, format!("{prefix}authorization failed: no basic auth credentials"));
    let reference = Reference::parse(&parts.name).unwrap();
    let with = |password: &str| Credentials {
        username: "user".to_owned(),
        password: password.to_owned(),
        registry_token: String::new(),
    };
    let error = world.puller.pull(&world.images, &reference, Some(&with("wrong"))).await.unwrap_err().to_string();
    assert_eq!(error, format!("{prefix}server message: unauthorized: authentication required"));
    assert!(!error.contains("wrong"));
    world.puller.pull(&world.images, &reference, Some(&with("right"))).await.unwrap();
    // What one has been let in with lets nobody else in.
    let error = world.puller.pull(&world.images, &reference, Some(&with("wrong"))).await.unwrap_err().to_string();
    assert!(error.contains(denied), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_image_wait_for_one_pull() {
    let Some(world) = World::new() else { return };
    let parts = world.image("wanted", &two_layers());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    world.registry.trick(&parts.manifest, Trick::Hold(Arc::clone(&gate)));
    let pulls: Vec<_> = (0..10).map(|_| world.pull(&parts.name)).collect();
    let all = futures_util::future::join_all(pulls);
    let open = async {
        while world.registry.asked(&parts.manifest) == 0 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(10);
    };
    let (all, ()) = tokio::join!(all, open);
    let ids: Vec<String> = all.into_iter().map(|image| image.unwrap().id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    for path in [&parts.manifest, &parts.config, &parts.layers[0], &parts.layers[1]] {
        assert_eq!(world.registry.asked(path), 1, "{path}");
    }

    // All fail with it, and each later one tries itself.
    let parts = world.image("unwanted", &[layer(&[("z", 10)])]);
    world.registry.trick(&parts.layers[0], Trick::Falsify);
    let two = futures_util::future::join(world.pull(&parts.name), world.pull(&parts.name)).await;
    assert_eq!(two.0.unwrap_err().to_string(), two.1.unwrap_err().to_string());
    world.registry.0.lock().tricks.clear();
    world.pull(&parts.name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let parts = world.image("left", &two_layers());
    world.registry.trick(&parts.layers[1], Trick::Stall);
    {
        let pull = world.pull(&parts.name);
        let begun = async {
            while world.registry.asked(&parts.layers[1]) == 0 || world.left().len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = pull => panic!("{outcome:?}"),
            () = begun => {}
        }
    }
    assert_eq!(world.left(), Vec::<String>::new());
    world.registry.0.lock().tricks.clear();
    world.pull(&parts.name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_running_container_outlive_their_image() {
    let Some(world) = World::new() else { return };
    let parts = world.image("used", &two_layers());
    let image = world.pull(&parts.name).await.unwrap();
    let layers = world.images.layers(&image);
    let used = layers[0].clone();
    world.images.remove(&parts.name, |layer| layer == used).unwrap();
    assert!(world.images.list().is_empty());
    assert!(layers[0].is_dir() && !layers[1].exists());
    assert_eq!(world.images.collect(|layer| layer == used).unwrap(), 0);
    // Pulled again meanwhile: only the missing layer is fetched, and nothing is in the way.
    world.pull(&parts.name).await.unwrap();
    assert_eq!((world.registry.asked(&parts.layers[0]), world.registry.asked(&parts.layers[1])), (2, 1));
    world.images.remove(&image.id, |_| true).unwrap();
    assert_eq!(world.images.collect(|_| false).unwrap(), 2);
    assert_eq!(world.left(), Vec::<String>::new());
}
