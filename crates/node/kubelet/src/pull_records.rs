//! Who may use an image that is on the node already (`pkg/kubelet/images/pullmanager`, KEP-2535).
//!
//! An image that was pulled with a secret is only for pods that name this secret: any other pulls it again with its
//! own, and the registry decides. One that anybody could pull, or that was there before (imported), is for everybody.
//! Secrets are remembered by namespace, name and uid, never by what is in them. Records are on disk: a restart forgets
//! nothing.

use parking_lot::Mutex;
use skiff_machinery::codec::json;
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A secret that an image was pulled with: `NAMESPACE/NAME/UID`.
pub(crate) fn coordinates(secret: &Value) -> String {
    let part = |name: &str| secret.str_at(&["metadata", name]);
    format!("{}/{}/{}", part("namespace"), part("name"), part("uid"))
}

/// With what an image was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record {
    /// Somebody pulled it without any credential.
    anybody: bool,
    secrets: BTreeSet<String>,
}

/// Records of pulled images, by image id.
pub(crate) struct PullRecords {
    path: PathBuf,
    records: Mutex<BTreeMap<String, Record>>,
}

fn read(text: &[u8]) -> Result<BTreeMap<String, Record>, String> {
    let tree = json::from_slice(text).map_err(|error| error.to_string())?;
    let images = tree.object_at(&["images"]).ok_or("it names no images")?;
    let one = |value: &Value| Record {
        anybody: value.get("anybody").and_then(Value::as_bool) == Some(true),
        secrets: value.items_at(&["secrets"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    };
    Ok(images.iter().map(|(id, value)| (id.to_string(), one(value))).collect())
}

impl PullRecords {
    /// Those below `root`. A file that cannot be read is an error: taken for empty, it would let everybody in.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let path = root.join("image_manager").join("pulled.json");
        let records = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            text => read(&text?)
                .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display())))?,
        };
        Ok(Self { path, records: Mutex::new(records) })
    }

    /// Whether nobody has to show anything for this image.
    pub(crate) fn is_free(&self, image: &str) -> bool {
        self.records.lock().get(image).is_none_or(|record| record.anybody)
    }

    /// Whether one of these secrets is enough for this image.
    pub(crate) fn may_use(&self, image: &str, secrets: &[String]) -> bool {
        let records = self.records.lock();
        records.get(image).is_none_or(|record| record.anybody || secrets.iter().any(|one| record.secrets.contains(one)))
    }

    /// Notes that an image was pulled, with a secret or without. Blocking.
    pub(crate) fn pulled(&self, image: &str, secret: Option<String>) -> io::Result<()> {
        let mut records = self.records.lock();
        let mut record = records.get(image).cloned().unwrap_or_default();
        match secret {
            Some(secret) => _ = record.secrets.insert(secret),
            None => record.anybody = true,
        }
        if records.get(image) == Some(&record) {
            return Ok(());
        }
        records.insert(image.to_owned(), record);
        self.save(&records)
    }

    /// Forgets images that are gone. Blocking.
    pub(crate) fn retain(&self, images: &BTreeSet<String>) -> io::Result<()> {
        let mut records = self.records.lock();
        let before = records.len();
        records.retain(|id, _| images.contains(id));
        if records.len() == before { Ok(()) } else { self.save(&records) }
    }

    fn save(&self, records: &BTreeMap<String, Record>) -> io::Result<()> {
        let mut images = Map::new();
        for (id, record) in records {
            let secrets: Vec<Value> = record.secrets.iter().map(|secret| secret.as_str().into()).collect();
            images.insert(id.clone(), object! { "anybody": record.anybody, "secrets": secrets });
        }
        let text = json::to_vec(&object! { "images": images });
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let fresh = self.path.with_extension("new");
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        io::Write::write_all(&mut file, &text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_pulled_with_a_secret_is_for_those_who_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = PullRecords::open(directory.path()).unwrap();
        assert!(records.may_use("imported", &[]));
        let secret =
            |name: &str| coordinates(&object! { "metadata": object! { "namespace": "ns", "name": name, "uid": "u" } });
        records.pulled("private", Some(secret("a"))).unwrap();
        drop(records);
        let records = PullRecords::open(directory.path()).unwrap();
        assert!(!records.is_free("private") && !records.may_use("private", &[]));
        assert!(!records.may_use("private", &[secret("b")]));
        assert!(records.may_use("private", &[secret("b"), secret("a")]));
        records.pulled("private", None).unwrap();
        assert!(records.may_use("private", &[]), "the registry gives it to anybody");
        records.retain(&BTreeSet::new()).unwrap();
        assert_eq!(PullRecords::open(directory.path()).unwrap().records.lock().len(), 0);
        std::fs::write(directory.path().join("image_manager/pulled.json"), "{").unwrap();
        assert!(PullRecords::open(directory.path()).is_err(), "nobody is let in by a broken file");
    }
}
