//! The queue: who is next, and what brings back a pod that fits nowhere.

use super::{asks, pod, simple_node};
use crate::framework::{ClusterChange, Framework};
use crate::plugins::default_framework;
use crate::queue::Queue;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn framework() -> Framework {
    default_framework()
}

#[test]
fn the_queue_gives_priority_then_age_and_gates_wait_outside() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("old", "1"), &framework, now);
    queue.set(pod("vip", "  priority: 10\n  containers: [{name: c, image: i}]"), &framework, now);
    queue.set(pod("gated", "  schedulingGates: [{name: g}]\n  containers: [{name: c, image: i}]"), &framework, now);
    assert_eq!(queue.pop(now).map(|pod| pod.name.to_string()).as_deref(), Some("vip"));
    assert_eq!(queue.pop(now).map(|pod| pod.name.to_string()).as_deref(), Some("old"));
    assert!(queue.pop(now).is_none());
    assert_eq!(queue.depths().gated, 1);
    queue.set(pod("gated", "  containers: [{name: c, image: i}]"), &framework, now);
    assert_eq!(queue.pop(now).map(|pod| pod.name.to_string()).as_deref(), Some("gated"));
}

#[test]
fn only_events_that_could_help_move_a_pod_and_its_backoff_holds() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    let big = asks("big", "4");
    queue.set(Arc::clone(&big), &framework, now);
    queue.pop(now).unwrap();
    queue.unschedulable("big", vec!["NodeResourcesFit"], now);
    queue.moved(&ClusterChange::NodeAdded(&simple_node("small", "1")), &framework, now);
    assert_eq!(queue.depths().unschedulable, 1, "too small to help");
    queue.moved(&ClusterChange::NodeAdded(&simple_node("large", "8")), &framework, now);
    assert_eq!(queue.depths().backoff, 1);
    // Others go first while it backs off; an idle scheduler does not let it wait.
    queue.set(asks("other", "1"), &framework, now);
    assert_eq!(queue.pop(now).map(|pod| pod.name.to_string()).as_deref(), Some("other"));
    assert_eq!(queue.pop(now).map(|pod| pod.name.to_string()).as_deref(), Some("big"));
    assert!(queue.pop(now).is_none());
}

#[test]
fn after_an_error_the_backoff_is_kept_and_grows() {
    let (framework, mut now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "1"), &framework, now);
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert!(queue.pop(now).is_some());
        queue.binding("p");
        queue.failed("p", now);
        assert!(queue.pop(now).is_none(), "not at once, although nothing else waits");
        assert_eq!(queue.release(now), Some(now + Duration::from_secs(seconds)));
        now += Duration::from_secs(seconds);
    }
}

#[test]
fn what_is_new_of_a_pod_while_it_binds_is_what_is_tried_again() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "1"), &framework, now);
    queue.pop(now).unwrap();
    queue.binding("p");
    queue.moved(&ClusterChange::NodeAdded(&simple_node("n", "4")), &framework, now);
    queue.set(asks("p", "2"), &framework, now);
    assert!(queue.pop(now).is_none(), "its binding is on its way");
    queue.failed("p", now);
    let again = queue.pop(now + Duration::from_secs(1)).unwrap();
    assert_eq!(again.requests.milli_cpu, 2000);
}

#[test]
fn five_minutes_without_help_are_enough() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "4"), &framework, now);
    queue.pop(now).unwrap();
    queue.unschedulable("p", vec!["NodeResourcesFit"], now);
    queue.flush_unschedulable(now + Duration::from_secs(299));
    assert_eq!(queue.depths().unschedulable, 1);
    queue.flush_unschedulable(now + Duration::from_secs(300));
    assert_eq!(queue.depths().active, 1);
    assert!(queue.pop(now + Duration::from_secs(300)).is_some());
    assert!(queue.binding("p").unwrap().flushed);
}

#[test]
fn only_a_change_that_counts_brings_an_updated_pod_back() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "4"), &framework, now);
    queue.pop(now).unwrap();
    queue.unschedulable("p", vec!["NodeResourcesFit"], now);
    queue.set(asks("p", "4"), &framework, now);
    assert_eq!(queue.depths().unschedulable, 1, "its condition was written, nothing else");
    queue.set(asks("p", "1"), &framework, now);
    assert_eq!(queue.depths().backoff, 1);
}

#[test]
fn a_pod_that_is_gone_is_forgotten_in_every_state() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    for name in ["active", "unschedulable", "backing-off", "binding"] {
        queue.set(asks(name, "1"), &framework, now);
    }
    for _ in 0..4 {
        queue.pop(now).unwrap();
    }
    queue.unschedulable("unschedulable", vec!["NodeResourcesFit"], now);
    queue.failed("backing-off", now);
    queue.binding("binding");
    for name in ["active", "unschedulable", "backing-off", "binding"] {
        queue.remove(name);
    }
    queue.moved(&ClusterChange::NodeAdded(&simple_node("n", "4")), &framework, now);
    queue.flush_unschedulable(now + Duration::from_secs(900));
    assert_eq!(queue.depths(), crate::queue::Depths::default());
    assert!(queue.pop(now + Duration::from_secs(900)).is_none());
}

#[test]
fn what_happens_while_a_pod_is_tried_is_not_lost() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "4"), &framework, now);
    queue.pop(now).unwrap();
    queue.moved(&ClusterChange::PodGone(&asks("gone", "4")), &framework, now);
    queue.unschedulable("p", vec!["NodeResourcesFit"], now);
    assert_eq!(queue.depths().backoff, 1);
}

#[test]
fn a_pod_that_found_no_node_at_all_is_tried_when_one_comes() {
    let (framework, now) = (framework(), Instant::now());
    let mut queue = Queue::default();
    queue.set(asks("p", "1"), &framework, now);
    queue.pop(now).unwrap();
    queue.unschedulable("p", Vec::new(), now);
    queue.moved(&ClusterChange::NodeAdded(&simple_node("n", "4")), &framework, now);
    assert_eq!(queue.depths().backoff, 1);
}
