//! The executable's own image, pulled from the registry that serves it.

use crate::registry::{World, digest};
use skiff_base::clock::SystemClock;
use skiff_image::own::{OwnImage, OwnRegistry};
use skiff_net::server::{Options, Server};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_executable_is_pulled_as_an_image() {
    let Some(world) = World::new() else { return };
    let program = world.dir.path().join("program");
    let content: Vec<u8> = (0..1_000_003u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&program, &content).unwrap();
    let own = Arc::new(OwnImage::new(program, world.dir.path().join("image.json")).unwrap());
    let registry = OwnRegistry::new(Arc::clone(&own), "skiff", "1.2", world.tasks.clone());
    let listener = skiff_net::server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let host = listener.local_addr().unwrap();
    let server = Server::plain(listener, Arc::new(registry), Options::default(), SystemClock::shared()).unwrap();
    server.spawn(&world.tasks, "own registry");

    let image = world.pull(&format!("{host}/skiff:1.2")).await.unwrap();
    let documents = own.documents().unwrap();
    assert_eq!(image.id, documents.id);
    assert_eq!(image.digests.first().unwrap(), &format!("{host}/skiff@{}", documents.digest));
    assert_eq!(
        (image.config.entrypoint.as_slice(), image.config.user.as_str()),
        (&["/skiff".to_owned()][..], "65532:65532")
    );
    let layer = world.images.layers(&image)[0].clone();
    assert_eq!(digest(&std::fs::read(layer.join("skiff")).unwrap()), digest(&content));
    assert!(layer.join("tmp").is_dir());
    // By digest too, and nothing else.
    world.pull(&format!("{host}/skiff@{}", documents.digest)).await.unwrap();
    assert!(world.pull(&format!("{host}/skiff:1.3")).await.unwrap_err().is_not_found());
    assert!(world.pull(&format!("{host}/other:1.2")).await.unwrap_err().is_not_found());
}
