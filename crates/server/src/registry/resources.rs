//! Which kinds are served, found by path.

use super::ByPrefix;
use crate::kinds::Resource;
use hashbrown::{Equivalent, HashMap};
use skiff_machinery::GroupResource;
use std::sync::Arc;

#[derive(PartialEq, Eq, Hash)]
struct Path(String, String, String);

#[derive(Hash)]
struct PathRef<'a>(&'a str, &'a str, &'a str);

impl Equivalent<Path> for PathRef<'_> {
    fn equivalent(&self, key: &Path) -> bool {
        self.0 == key.0 && self.1 == key.1 && self.2 == key.2
    }
}

/// The served kinds at one moment. Changes make a new value.
pub struct Resources {
    all: Vec<Arc<Resource>>,
    by_path: HashMap<Path, (Arc<Resource>, usize)>,
    /// By group and plural name (the path's version is empty): admission asks for several kinds with every write.
    by_name: HashMap<Path, Arc<Resource>>,
    generation: u64,
}

impl Resources {
    /// From all kinds; versions that are not served are not found by path.
    pub fn new(all: Vec<Arc<Resource>>) -> Self {
        Self::at(all, 1)
    }

    fn at(all: Vec<Arc<Resource>>, generation: u64) -> Self {
        let (mut by_path, mut by_name) = (HashMap::new(), HashMap::new());
        for resource in &all {
            let name = Path(resource.name.group.clone(), String::new(), resource.name.resource.clone());
            by_name.entry(name).or_insert_with(|| Arc::clone(resource));
            for (index, version) in resource.versions.iter().enumerate().filter(|(_, version)| version.served) {
                let gv = &version.group_version;
                let path = Path(gv.group.clone(), gv.version.clone(), resource.name.resource.clone());
                by_path.insert(path, (Arc::clone(resource), index));
            }
        }
        Self { all, by_path, by_name, generation }
    }

    /// The kind and the index of its version that a path names.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<(&Arc<Resource>, usize)> {
        self.by_path.get(&PathRef(group, version, resource)).map(|(found, index)| (found, *index))
    }

    /// The kind with this group and plural name.
    pub fn named(&self, name: &GroupResource) -> Option<&Arc<Resource>> {
        self.by_name.get(&PathRef(&name.group, "", &name.resource))
    }

    /// All kinds.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.all
    }

    /// Grows with every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// With one more, or one replaced.
    pub fn with(&self, resource: Arc<Resource>) -> Self {
        let mut all: Vec<_> = self.all.iter().filter(|own| own.name != resource.name).cloned().collect();
        all.push(resource);
        Self::at(all, self.generation + 1)
    }

    /// With one less.
    pub fn without(&self, name: &GroupResource) -> Self {
        let all = self.all.iter().filter(|own| own.name != *name).cloned().collect();
        Self::at(all, self.generation + 1)
    }

    /// Grouped by storage prefix.
    pub(crate) fn by_prefix(&self) -> ByPrefix {
        let mut groups = ByPrefix::new();
        for resource in self.all.iter().filter(|resource| !resource.storage_prefix.is_empty()) {
            groups.entry(resource.storage_prefix.clone()).or_default().push(Arc::clone(resource));
        }
        groups
    }
}
