//! What the cluster serves, for the controllers that act on every kind: the garbage collector, the namespace and the
//! resource quota controllers (`client-go/discovery: ServerPreferredResources`).
//!
//! A group that does not answer is not taken for one that is gone: it is listed under [`Discovered::failures`], and what
//! it served last stays known.

use parking_lot::Mutex;
use skiff_client::{Client, ClientError};
use skiff_machinery::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One resource in one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl Resource {
    /// `group/version`, or the version alone for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `resource.group`, as upstream names it in messages and quotas.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
    /// Whether all of `verbs` can be done with it.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|known| known == verb))
    }
    /// A group and version, for [`Discovered`].
    fn place(&self) -> (String, String) {
        (self.group.clone(), self.version.clone())
    }
}

/// What discovery says.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    /// Every resource once, in its group's preferred version; in another, when only that one serves it.
    pub preferred: Vec<Arc<Resource>>,
    /// By `apiVersion` and kind, in every served version.
    kinds: HashMap<(String, String), Arc<Resource>>,
    /// Groups and versions that did not answer, and why.
    pub failures: BTreeMap<String, String>,
}

impl Discovered {
    /// The resource of a kind.
    pub fn find(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.kinds.get(&(api_version.to_owned(), kind.to_owned()))
    }

    /// Whether every group answered.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// As if the cluster served these.
    #[cfg(test)]
    pub(crate) fn of(resources: impl Iterator<Item = Resource>) -> Self {
        let answers = resources
            .map(|resource| Answer { api_version: resource.api_version(), resources: Ok(vec![Arc::new(resource)]) });
        Self::put_together(answers.collect(), &Self::default())
    }

    /// From each version's resources, the preferred version of a group first. What `before` knew of a version that
    /// failed now stays.
    fn put_together(answers: Vec<Answer>, before: &Self) -> Self {
        let mut found = Self::default();
        for answer in answers {
            let resources = match answer.resources {
                Ok(resources) => resources,
                Err(problem) => {
                    found.failures.insert(answer.api_version.clone(), problem);
                    let known = before.kinds.values().filter(|known| known.api_version() == answer.api_version);
                    known.cloned().collect()
                }
            };
            for resource in resources {
                let seen =
                    |known: &&Arc<Resource>| (&known.group, &known.resource) == (&resource.group, &resource.resource);
                if !found.preferred.iter().any(|known| seen(&known)) {
                    found.preferred.push(Arc::clone(&resource));
                }
                found.kinds.insert((resource.api_version(), resource.kind.clone()), resource);
            }
        }
        found.preferred.sort_by_key(|resource| (resource.place(), resource.resource.clone()));
        found
    }

    /// Reads discovery anew; `before` is what it said last.
    pub async fn fetch(client: &Client, before: &Self) -> Result<Self, ClientError> {
        let get =
            |path: String| async move { client.request(http::Method::GET, &path, None, skiff_net::Body::Empty).await };
        let mut versions = vec![(String::new(), "v1".to_owned())];
        let groups = get("/apis".to_owned()).await?;
        for group in groups.items_at(&["groups"]) {
            let preferred = group.str_at(&["preferredVersion", "version"]);
            let mut served: Vec<&str> =
                group.items_at(&["versions"]).iter().map(|version| version.str_at(&["version"])).collect();
            served.sort_by_key(|version| *version != preferred);
            let name = group.str_at(&["name"]);
            versions.extend(served.into_iter().map(|version| (name.to_owned(), version.to_owned())));
        }
        let mut answers = Vec::with_capacity(versions.len());
        for (group, version) in versions {
            let (path, api_version) = if group.is_empty() {
                (format!("/api/{version}"), version.clone())
            } else {
                (format!("/apis/{group}/{version}"), format!("{group}/{version}"))
            };
            let resources = get(path).await.map(|list| resources_of(&list, &group, &version));
            answers.push(Answer { api_version, resources: resources.map_err(|error| error.to_string()) });
        }
        Ok(Self::put_together(answers, before))
    }
}

/// Finds kinds by name, for controllers that follow references to whatever is served. Discovery is read again when a kind
/// is not known.
pub struct Kinds {
    client: Client,
    known: Mutex<Arc<Discovered>>,
}

impl Kinds {
    /// Knows nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }
    /// The resource of a kind; `None` when nobody serves it.
    pub async fn find(&self, api_version: &str, kind: &str) -> Result<Option<Arc<Resource>>, ClientError> {
        let before = Arc::clone(&self.known.lock());
        if let Some(found) = before.find(api_version, kind) {
            return Ok(Some(Arc::clone(found)));
        }
        let fresh = Arc::new(Discovered::fetch(&self.client, &before).await?);
        *self.known.lock() = Arc::clone(&fresh);
        Ok(fresh.find(api_version, kind).cloned())
    }
}

/// What one group and version answered.
struct Answer {
    api_version: String,
    resources: Result<Vec<Arc<Resource>>, String>,
}

fn resources_of(list: &Value, group: &str, version: &str) -> Vec<Arc<Resource>> {
    let named = list.items_at(&["resources"]).iter().filter(|resource| !resource.str_at(&["name"]).contains('/'));
    let read = |resource: &Value| {
        let verbs = resource.items_at(&["verbs"]).iter().filter_map(Value::as_str).map(str::to_owned);
        Arc::new(Resource {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: resource.str_at(&["name"]).to_owned(),
            kind: resource.str_at(&["kind"]).to_owned(),
            namespaced: resource.get("namespaced").and_then(Value::as_bool) == Some(true),
            verbs: verbs.collect(),
        })
    };
    named.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    fn answer(version: &str, resources: &[(&str, &str)]) -> Answer {
        let entry = |(name, kind): &(&str, &str)| object! { "name": *name, "kind": *kind, "verbs": list!["list"] };
        let listed: Vec<Value> = resources.iter().map(entry).collect();
        let tree = object! { "resources": listed };
        Answer { api_version: format!("g/{version}"), resources: Ok(resources_of(&tree, "g", version)) }
    }
    fn preferred(found: &Discovered) -> Vec<(&str, &str)> {
        found.preferred.iter().map(|one| (one.version.as_str(), one.resource.as_str())).collect()
    }

    #[test]
    fn a_resource_is_taken_from_the_first_version_that_serves_it() {
        let v1 = answer("v1", &[("as", "A"), ("as/status", "A")]);
        let found =
            Discovered::put_together(vec![v1, answer("v1beta1", &[("as", "A"), ("bs", "B")])], &Discovered::default());
        assert_eq!(preferred(&found), [("v1", "as"), ("v1beta1", "bs")]);
        assert!(found.find("g/v1beta1", "A").is_some(), "old references are still understood");
    }

    #[test]
    fn a_version_that_fails_keeps_what_it_served() {
        let before = Discovered::put_together(vec![answer("v1", &[("as", "A")])], &Discovered::default());
        let failed = Answer { api_version: "g/v1".to_owned(), resources: Err("down".to_owned()) };
        let found = Discovered::put_together(vec![failed], &before);
        assert!(!found.is_complete());
        assert_eq!(preferred(&found), [("v1", "as")]);
        assert!(found.find("g/v1", "A").is_some());
    }
}
