//! ClusterRole aggregation: a role with `aggregationRule` has the rules of all roles that its selectors find
//! (`controller/clusterroleaggregation/clusterroleaggregation_controller.go`).

use crate::context::{Context, Informers, SyncError, run_workers, tools};
use skiff_client::informer::Item;
use skiff_client::{Patch, Tree, WriteOptions};
use skiff_machinery::selector::Selector;
use skiff_machinery::{Value, object};
use std::sync::Arc;

const MANAGER: &str = "clusterrole-aggregation-controller";

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) = tools(context, MANAGER, MANAGER, "ClusterRoleAggregator");
    let roles = informers.cluster_roles.store();
    {
        // Any role may be part of any other.
        let (queue, roles) = (queue.clone(), Arc::clone(&roles));
        informers.cluster_roles.on_change(move |_| {
            roles.list().into_iter().filter(|role| aggregates(&role.value)).for_each(|role| queue.add(role.key));
        });
    }
    run_workers(context, "clusterrole-aggregation", &queue, 5, move |key| {
        let (client, roles) = (client.clone(), Arc::clone(&roles));
        async move {
            roles.synced().await;
            let Some(role) = roles.get_key(&key).filter(|role| aggregates(&role.value)) else { return Ok(None) };
            let rules = gather(&role.value, roles.list()).map_err(SyncError::Object)?;
            if role.value.items_at(&["rules"]) == rules.as_slice() {
                return Ok(None);
            }
            let applied = object! {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": object! { "name": &*key.name },
                "rules": rules,
            };
            let options = WriteOptions { field_manager: MANAGER.to_owned(), force: true, ..WriteOptions::default() };
            let api = client.all("rbac.authorization.k8s.io", "v1", "clusterroles");
            match api.patch(&key.name, "", &Patch::Apply(&applied), &options).await {
                Ok(written) => {
                    roles.wait_for(&key, &written).await;
                    Ok(None)
                }
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
    });
}

fn aggregates(role: &Value) -> bool {
    role.at(&["aggregationRule"]).is_some_and(|rule| !rule.is_null())
}

/// The rules of all roles that the selectors find, each once, by selector and then by name.
fn gather(role: &Value, mut all: Vec<Item<Tree>>) -> Result<Vec<Value>, String> {
    all.sort_by(|one, other| one.key.name.cmp(&other.key.name));
    let mut rules: Vec<Value> = Vec::new();
    for selector in role.items_at(&["aggregationRule", "clusterRoleSelectors"]) {
        let selector = Selector::from_label_selector(Some(selector)).map_err(|error| error.to_string())?;
        let others = all.iter().filter(|other| *other.key.name != *role.str_at(&["metadata", "name"]));
        for found in others.filter(|other| selector.matches_object(&other.value)) {
            for rule in found.value.items_at(&["rules"]) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_client::informer::ObjectKey;
    use skiff_machinery::{Map, list};

    fn role(name: &str, label: &'static str, rules: &[&str]) -> Item<Tree> {
        let mut labels = Map::new();
        labels.insert(label, "true");
        let rules: Vec<Value> = rules.iter().map(|verb| object! { "verbs": list![*verb] }).collect();
        let tree = object! { "metadata": object! { "name": name, "labels": labels }, "rules": rules };
        let value = Arc::new(Tree(Arc::new(tree)));
        Item { key: ObjectKey::new("", name), uid: name.into(), resource_version: 1, value }
    }

    #[test]
    fn rules_are_gathered_once_in_order_of_selectors_and_names() {
        let selector = |label: &'static str| {
            let mut labels = Map::new();
            labels.insert(label, "true");
            object! { "matchLabels": labels }
        };
        let sum = object! {
            "metadata": object! { "name": "sum", "labels": object! { "b": "true" } },
            "aggregationRule": object! { "clusterRoleSelectors": list![selector("b"), selector("a")] },
        };
        let own = Item { value: Arc::new(Tree(Arc::new(sum.clone()))), ..role("sum", "b", &[]) };
        let all =
            vec![role("z", "b", &["get"]), role("c", "b", &["list", "get"]), role("a", "a", &["watch", "list"]), own];
        let rules = gather(&sum, all).unwrap();
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.items_at(&["verbs"])[0].as_str().unwrap()).collect();
        assert_eq!(verbs, ["list", "get", "watch"]);
    }
}
