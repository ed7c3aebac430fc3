//! What can be collected, from discovery.

use skiff_client::{Client, ClientError};
use skiff_machinery::Value;
use std::collections::{BTreeSet, HashMap};

/// What discovery says.
#[derive(Default)]
pub(crate) struct Resources {
    /// Group, version and resource of everything that can be listed, watched and deleted, in its preferred version.
    pub(crate) monitored: BTreeSet<(String, String, String)>,
    /// `apiVersion` and kind to resource, and whether it lives in namespaces; every served version.
    kinds: HashMap<(String, String), (String, bool)>,
    /// Whether every group answered.
    pub(crate) complete: bool,
}

impl Resources {
    /// The resource of a kind.
    pub(crate) fn find(&self, api_version: &str, kind: &str) -> Option<(&str, bool)> {
        let (resource, namespaced) = self.kinds.get(&(api_version.to_owned(), kind.to_owned()))?;
        Some((resource, *namespaced))
    }
}

/// Written all the time and owned by nobody (`garbagecollector.DefaultIgnoredResources`).
fn is_ignored(group: &str, resource: &str) -> bool {
    resource == "events" && (group.is_empty() || group == "events.k8s.io")
}

/// Reads discovery. A group that does not answer makes it incomplete.
pub(crate) async fn discover(client: &Client) -> Result<Resources, ClientError> {
    let get =
        |path: String| async move { client.request(http::Method::GET, &path, None, skiff_net::Body::Empty).await };
    let mut versions = vec![(String::new(), "v1".to_owned(), true)];
    let list = get("/apis".to_owned()).await?;
    for group in list.items_at(&["groups"]) {
        let preferred = group.str_at(&["preferredVersion", "version"]);
        for version in group.items_at(&["versions"]) {
            let version = version.str_at(&["version"]);
            versions.push((group.str_at(&["name"]).to_owned(), version.to_owned(), version == preferred));
        }
    }
    let mut found = Resources { complete: true, ..Resources::default() };
    for (group, version, preferred) in versions {
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{api_version}") };
        let list = match get(path).await {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!(api_version, %error, "group not discovered");
                found.complete = false;
                continue;
            }
        };
        for resource in list.items_at(&["resources"]) {
            let name = resource.str_at(&["name"]);
            if name.contains('/') {
                continue;
            }
            let namespaced = resource.get("namespaced").and_then(Value::as_bool) == Some(true);
            let kind = (api_version.clone(), resource.str_at(&["kind"]).to_owned());
            found.kinds.insert(kind, (name.to_owned(), namespaced));
            let verbs = resource.items_at(&["verbs"]);
            let can = |verb: &str| verbs.iter().any(|known| known.as_str() == Some(verb));
            if preferred && can("delete") && can("list") && can("watch") && !is_ignored(&group, name) {
                found.monitored.insert((group.clone(), version.clone(), name.to_owned()));
            }
        }
    }
    Ok(found)
}
