//! Archives of images: OCI layouts (`oci-layout`, `index.json`) and Docker's (`manifest.json`), plain or compressed.

use crate::config::Manifest;
use crate::reference::{Reference, is_digest};
use crate::store::{Digesting, Image, ImageError, Images, digest_of, disk};
use crate::unpack::decompress;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Where each file of the archive lies, so that big layers are read in place.
struct Index {
    file: File,
    entries: BTreeMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn document(what: &'static str, why: impl ToString) -> ImageError {
    ImageError::Document { what, why: why.to_string() }
}

/// The reader quotes what it found, and that may be anything: nothing of it may steer somebody's terminal.
fn no_archive(error: &io::Error) -> ImageError {
    let harmless = |found: char| if found.is_control() { char::REPLACEMENT_CHARACTER } else { found };
    document(
        "archive",
        format!("it is no tar archive: {}", error.to_string().chars().map(harmless).collect::<String>()),
    )
}

impl Index {
    fn read(mut file: File, limit: usize) -> Result<Self, ImageError> {
        let mut entries = BTreeMap::new();
        let length = file.seek(SeekFrom::End(0)).map_err(disk("reading the archive"))?;
        file.seek(SeekFrom::Start(0)).map_err(disk("reading the archive"))?;
        let mut archive = tar::Archive::new(&mut file);
        let listed = archive.entries_with_seek().map_err(|error| no_archive(&error))?;
        for entry in listed {
            let entry = entry.map_err(|error| no_archive(&error))?;
            // Read by seeking, so that an end within an entry is no error by itself.
            let end = entry.raw_file_position().saturating_add(entry.size());
            if end > length {
                return Err(document(
                    "archive",
                    format!("it ends early: {length} bytes are there, {end} are needed at least"),
                ));
            }
            if entry.header().entry_type().is_file() {
                let path = entry.path().map_err(|error| document("archive", error))?;
                let name = path.to_string_lossy().trim_start_matches("./").to_owned();
                entries.insert(name, (entry.raw_file_position(), entry.size()));
            }
            if entries.len() > limit {
                return Err(document("archive", "it holds too many files"));
            }
        }
        Ok(Self { file, entries })
    }
    fn open(&self, name: &str) -> Result<io::Take<File>, ImageError> {
        let (position, size) =
            self.entries.get(name).ok_or_else(|| document("archive", format!("{name:?} is missing")))?;
        let mut file = self.file.try_clone().map_err(disk("reading the archive"))?;
        file.seek(SeekFrom::Start(*position)).map_err(disk("reading the archive"))?;
        Ok(file.take(*size))
    }
    fn bytes(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut reader = self.open(name)?;
        if reader.limit() > limit {
            return Err(document("archive", format!("{name:?} is too large")));
        }
        reader.read_to_end(&mut bytes).map_err(disk("reading the archive"))?;
        Ok(bytes)
    }
    fn blob(&self, digest: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.bytes(&blob_path(digest)?, limit)?;
        let actual = digest_of(&bytes);
        if actual != digest {
            return Err(ImageError::WrongDigest { what: "a blob of the archive", expected: digest.to_owned(), actual });
        }
        Ok(bytes)
    }
}

fn blob_path(digest: &str) -> Result<String, ImageError> {
    if !is_digest(digest) {
        return Err(document("archive", format!("{digest:?} is no digest")));
    }
    Ok(format!("blobs/{}", digest.replacen(':', "/", 1)))
}

/// An archive, decompressed into a temporary file when it has to be.
fn seekable(images: &Images, path: &Path) -> Result<File, ImageError> {
    let open = || File::open(path).map_err(disk(format!("opening {}", path.display())));
    let mut magic = [0u8; 4];
    let read = open()?.read(&mut magic).map_err(disk("reading the archive"))?;
    let compressed = read == 4 && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]);
    if !compressed {
        return open();
    }
    let temporary = images.temporary();
    let options = || File::options().read(true).write(true).create_new(true).open(&temporary);
    let mut plain = options().map_err(disk("making a temporary file"))?;
    let unpacked = decompress(open()?).map_err(|error| document("archive", error))?;
    let copied = io::copy(&mut unpacked.take(images.limits().unpacked), &mut plain);
    // The name is not needed any more, whatever happens next.
    std::fs::remove_file(&temporary).map_err(disk("unlinking a temporary file"))?;
    copied.map_err(disk("decompressing the archive"))?;
    Ok(plain)
}

/// Takes in every image of an archive; `name` names an image that the archive does not. Blocking.
pub fn import(images: &Images, path: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let index = Index::read(seekable(images, path)?, 100_000)?;
    if index.entries.contains_key("manifest.json") {
        return import_docker(images, &index, name);
    }
    if index.entries.contains_key("index.json") {
        return import_oci(images, &index, name);
    }
    Err(document("archive", "it is neither an OCI layout (index.json) nor a Docker archive (manifest.json)"))
}

fn import_docker(images: &Images, index: &Index, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let limit = images.limits().document;
    let list: Vec<DockerImage> = serde_json::from_slice(&index.bytes("manifest.json", limit)?)
        .map_err(|error| document("manifest.json", error))?;
    let mut imported = Vec::new();
    for image in list {
        let said = image.repo_tags.unwrap_or_default();
        let names = if said.is_empty() { name.map(str::to_owned).into_iter().collect() } else { said };
        let tags = complete(&names)?;
        let config = index.bytes(&image.config, limit)?;
        let layers = image.layers;
        imported.push(images.add(&config, &tags, &[], |position, digest, budget| {
            let path = layers.get(position).ok_or_else(|| document("manifest.json", "it names too few layers"))?;
            images.add_layer(index.open(path)?, digest, budget)
        })?);
    }
    Ok(imported)
}

fn complete(names: &[String]) -> Result<Vec<String>, ImageError> {
    names.iter().map(|name| Ok(Reference::parse(name)?.to_string())).collect()
}

fn import_oci(images: &Images, index: &Index, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let limit = images.limits().document;
    let parse = |bytes: &[u8]| -> Result<Manifest, ImageError> {
        serde_json::from_slice(bytes).map_err(|error| document("manifest", error))
    };
    let top = parse(&index.bytes("index.json", limit)?)?;
    let mut imported = Vec::new();
    for descriptor in &top.manifests {
        let annotation = |key: &str| descriptor.annotations.as_ref().and_then(|map| map.get(key)).cloned();
        let said = annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"));
        // A bare tag is no name.
        let said = said.filter(|said| said.contains(['/', ':']));
        let names: Vec<String> = name.map(str::to_owned).or(said).into_iter().collect();
        let mut manifest = parse(&index.blob(&descriptor.digest, limit)?)?;
        let mut digest = descriptor.digest.clone();
        if manifest.config.is_none() {
            let fitting = manifest.for_this_machine().ok_or_else(|| document("index", "no image for this machine"))?;
            digest = fitting.digest.clone();
            manifest = parse(&index.blob(&digest, limit)?)?;
        }
        let config = manifest.config.as_ref().ok_or_else(|| document("manifest", "it has no configuration"))?;
        let config = index.blob(&config.digest, limit)?;
        let tags = complete(&names)?;
        let digests: Result<Vec<String>, ImageError> =
            names.iter().map(|name| Ok(format!("{}@{digest}", Reference::parse(name)?.repository()))).collect();
        imported.push(images.add(&config, &tags, &digests?, |position, diff_id, budget| {
            let layer = manifest.layers.get(position).ok_or_else(|| document("manifest", "it names too few layers"))?;
            let mut checked = Digesting::new(index.open(&blob_path(&layer.digest)?)?, images.limits().layer);
            let size = images.add_layer(&mut checked, diff_id, budget)?;
            let actual = checked.finish().map_err(disk("reading the archive"))?;
            if actual != layer.digest {
                let expected = layer.digest.clone();
                return Err(ImageError::WrongDigest { what: "a layer of the archive", expected, actual });
            }
            Ok(size)
        })?);
    }
    Ok(imported)
}
