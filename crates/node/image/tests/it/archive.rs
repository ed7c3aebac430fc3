//! Archives of images: both forms, plain and compressed, and what is refused with nothing of it left.

use crate::registry::{World, digest, layer};
use serde_json::{Value, json};
use skiff_image::archive::import;
use std::io::Write;
use std::path::PathBuf;

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn config(layers: &[Vec<u8>]) -> String {
    let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": digests } }).to_string()
}

fn docker(tags: &Value) -> Vec<u8> {
    let layers = [layer(&[("a", 70_000)]), layer(&[("b", 5)])];
    let manifest = json!([{ "Config": "c.json", "RepoTags": tags, "Layers": ["a/layer.tar", "b/layer.tar"] }]);
    tar(&[
        ("c.json", config(&layers).as_bytes()),
        ("a/layer.tar", &layers[0]),
        ("b/layer.tar", &layers[1]),
        ("manifest.json", manifest.to_string().as_bytes()),
    ])
}

/// An OCI layout whose layer is `content`, under a digest that may be another one's.
fn oci(content: &[u8], said: &[u8], name: &str) -> Vec<u8> {
    let config = config(&[said.to_vec()]);
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "digest": digest(config.as_bytes()), "size": config.len() },
        "layers": [{ "digest": digest(said), "size": said.len() }],
    });
    let manifest = manifest.to_string();
    let annotations = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({
        "manifests": [{ "digest": digest(manifest.as_bytes()), "size": manifest.len(), "annotations": annotations }],
    });
    let path = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.to_string().as_bytes()),
        (&path(manifest.as_bytes()), manifest.as_bytes()),
        (&path(config.as_bytes()), config.as_bytes()),
        (&path(said), content),
    ])
}

fn written(world: &World, bytes: &[u8]) -> PathBuf {
    let path = world.dir.path().join("archive");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The reason why it is not taken in; nothing of it is left.
fn refused(world: &World, bytes: &[u8]) -> String {
    let error = import(&world.images, &written(world, bytes), None).unwrap_err();
    assert_eq!(world.left(), Vec::<String>::new(), "{error}");
    assert!(world.images.list().is_empty(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn both_forms_plain_and_compressed() {
    let Some(world) = World::new() else { return };
    let taken = import(&world.images, &written(&world, &docker(&json!(["web", "r.example/x/y:2"]))), None).unwrap();
    assert_eq!(taken.len(), 1);
    assert!(world.images.find("docker.io/library/web:latest").is_some(), "{:?}", taken[0].tags);
    assert_eq!(world.images.find("r.example/x/y:2").unwrap().id, taken[0].id);

    let one = layer(&[("c", 9)]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&oci(&one, &one, "r.example/o:1")).unwrap();
    let taken = import(&world.images, &written(&world, &gzip.finish().unwrap()), None).unwrap();
    let found = world.images.find("r.example/o:1").unwrap();
    assert_eq!((found.id, found.digests.len()), (taken[0].id.clone(), 1));
}

#[tokio::test]
async fn an_image_without_a_name_gets_the_one_that_was_given() {
    let Some(world) = World::new() else { return };
    import(&world.images, &written(&world, &docker(&Value::Null)), Some("given:3")).unwrap();
    assert!(world.images.find("docker.io/library/given:3").is_some());
}

#[tokio::test]
async fn one_that_ends_early_says_so() {
    let Some(world) = World::new() else { return };
    let whole = docker(&json!(["web"]));
    for kept in [40_000, 72_000] {
        let error = refused(&world, &whole[..kept]);
        assert!(error.contains(&format!("it ends early: {kept} bytes are there")), "{kept}: {error}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    let error = refused(&world, &gzip[..gzip.len() / 2]);
    assert!(error.contains("decompressing the archive"), "{error}");
}

#[tokio::test]
async fn what_is_no_archive_is_told_without_its_bytes() {
    let Some(world) = World::new() else { return };
    let steering: Vec<u8> = b"\x1b[2J\x07noise".iter().copied().cycle().take(4096).collect();
    let error = refused(&world, &steering);
    assert!(error.contains("it is no tar archive") && !error.contains(char::is_control), "{error:?}");
    assert!(refused(&world, b"").contains("neither an OCI layout"));
    assert!(refused(&world, &tar(&[("readme", b"hello")])).contains("neither an OCI layout"));
    assert!(refused(&world, &tar(&[("manifest.json", b"[{")])).starts_with("manifest.json: "));
    let missing = json!([{ "Config": "c.json", "RepoTags": ["web"], "Layers": [] }]).to_string();
    assert!(refused(&world, &tar(&[("manifest.json", missing.as_bytes())])).contains("\"c.json\" is missing"));
    assert!(refused(&world, &docker(&json!(["No Name"]))).contains("No Name"));
}

#[tokio::test]
async fn a_layer_is_what_its_digest_says() {
    let Some(world) = World::new() else { return };
    let error = refused(&world, &oci(&layer(&[("x", 9)]), &layer(&[("c", 9)]), "r.example/o:1"));
    assert!(error.contains("has digest sha256:"), "{error}");
}
