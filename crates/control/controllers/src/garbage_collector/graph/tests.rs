use super::*;
use skiff_machinery::{Map, list, object};

fn uid(text: &str) -> Arc<str> {
    text.into()
}
fn resource(kind: &str, api_version: &str, namespaced: bool) -> Arc<Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Arc::new(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: format!("{}s", kind.to_lowercase()),
        kind: kind.to_owned(),
        namespaced,
        verbs: Vec::new(),
    })
}
fn pod(name: &str) -> Identity {
    Identity { resource: resource("Pod", "v1", true), key: ObjectKey::new("ns", name) }
}
fn set(name: &str) -> Identity {
    Identity { resource: resource("ReplicaSet", "apps/v1", true), key: ObjectKey::new("ns", name) }
}
fn view(owner: Option<&str>, finalizer: Option<&str>) -> Arc<View> {
    let mut metadata = Map::new();
    if let Some(owner) = owner {
        let reference = object! {
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "blockOwnerDeletion": true,
        };
        metadata.insert("ownerReferences", list![reference]);
    }
    if let Some(finalizer) = finalizer {
        metadata.insert("finalizers", list![finalizer]);
        metadata.insert("deletionTimestamp", "2026-01-01T00:00:00Z");
    }
    Arc::new(View::project(&Arc::new(object! { "metadata": metadata })).unwrap())
}
fn delete(name: &str) -> Task {
    Task::Delete(uid(name))
}

#[test]
fn an_unseen_owner_is_asked_for_and_its_absence_reaches_the_dependents() {
    let mut graph = Graph::default();
    assert_eq!(graph.set(&uid("pod"), pod("pod"), &view(Some("rs"), None)).tasks, [delete("rs")]);
    let asked = graph.get("rs").unwrap().place;
    assert!(matches!(asked, Place::Claimed(..)));
    assert_eq!(graph.absent("rs", &asked).tasks, [delete("pod")]);
    // A dependent made by somebody who had not heard: at once, however late.
    assert_eq!(graph.set(&uid("late"), pod("late"), &view(Some("rs"), None)).tasks, [delete("late")]);
    assert_eq!(graph.absent("rs", &asked).tasks, [], "the answer to an old question changes nothing");
}

#[test]
fn a_dependent_that_comes_after_its_owner_went_is_looked_at() {
    let mut graph = Graph::default();
    graph.set(&uid("rs"), set("rs"), &view(None, None));
    graph.set(&uid("a"), pod("a"), &view(Some("rs"), None));
    assert_eq!(graph.remove("rs").tasks, [delete("a")]);
    assert_eq!(graph.set(&uid("b"), pod("b"), &view(Some("rs"), None)).tasks, [delete("b")]);
    // The owner is forgotten with the last who names it.
    graph.remove("a");
    assert!(graph.get("rs").is_some());
    graph.remove("b");
    assert!(graph.get("rs").is_none());
}

#[test]
fn dependents_stay_known_when_an_owner_comes_back_into_sight() {
    let mut graph = Graph::default();
    graph.set(&uid("pod"), pod("pod"), &view(Some("rs"), None));
    let asked = graph.get("rs").unwrap().place;
    graph.absent("rs", &asked);
    graph.set(&uid("rs"), set("rs"), &view(None, None));
    assert_eq!(graph.remove("rs").tasks, [delete("pod")], "whatever happened in between");
}

#[test]
fn foreground_deletion_queues_dependents_and_each_gone_dependent_queues_the_owner() {
    let mut graph = Graph::default();
    graph.set(&uid("rs"), set("rs"), &view(None, None));
    graph.set(&uid("pod"), pod("pod"), &view(Some("rs"), None));
    let tasks = graph.set(&uid("rs"), set("rs"), &view(None, Some(FOREGROUND))).tasks;
    assert_eq!(tasks, [delete("pod"), delete("rs")]);
    assert_eq!(graph.blocking_dependents("rs"), [uid("pod")]);
    assert_eq!(graph.remove("pod").tasks, [delete("rs")]);
    assert!(graph.blocking_dependents("rs").is_empty());
}

#[test]
fn orphaning_is_its_own_task() {
    let mut graph = Graph::default();
    let tasks = graph.set(&uid("rs"), set("rs"), &view(None, Some(ORPHAN))).tasks;
    assert_eq!(tasks, [Task::Orphan(uid("rs"))]);
}

#[test]
fn an_owner_in_another_namespace_is_told_whichever_comes_first() {
    let elsewhere = Identity { key: ObjectKey::new("other", "rs"), ..set("rs") };
    for owner_first in [true, false] {
        let mut graph = Graph::default();
        let mut invalid = Vec::new();
        let mut tasks = Vec::new();
        for step in [owner_first, !owner_first] {
            let effects = if step {
                graph.set(&uid("rs"), elsewhere.clone(), &view(None, None))
            } else {
                graph.set(&uid("pod"), pod("pod"), &view(Some("rs"), None))
            };
            invalid.extend(effects.invalid);
            tasks.extend(effects.tasks);
        }
        assert_eq!(invalid.len(), 1);
        assert_eq!(&*invalid[0].dependent.key.name, "pod");
        assert!(tasks.contains(&delete("pod")));
    }
}

#[test]
fn a_wrong_name_for_an_owner_is_looked_at_and_tells_nothing() {
    let mut graph = Graph::default();
    graph.set(&uid("rs"), set("other-name"), &view(None, None));
    let effects = graph.set(&uid("pod"), pod("pod"), &view(Some("rs"), None));
    assert_eq!(effects, Effects { tasks: vec![delete("pod")], invalid: Vec::new() });
    let right = graph.set(&uid("rs2"), set("rs2"), &view(None, None));
    assert_eq!(right, Effects::default());
    assert_eq!(graph.set(&uid("p2"), pod("p2"), &view(Some("rs2"), None)), Effects::default());
}
