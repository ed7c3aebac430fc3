//! What packets do between pods of the built-in network, and to and from the node. Real kernel, as root: network namespaces
//! that die with the test.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and those that are skipped say why")]

mod world;

use skiff_linux::nft::{Batch, Nft};
use skiff_policy::model::{Allowed, Peer, Port, Which};
use skiff_policy::table::TABLE;
use skiff_policy::{Desired, Enforcer, decide};
use world::{NODE, OUTSIDE, World, policy, selector};

fn to_pods(text: &str) -> Vec<Peer> {
    vec![Peer::Pods { namespaces: None, pods: selector(text) }]
}

fn tcp(which: Which) -> Option<Vec<Port>> {
    Some(vec![Port { protocol: 6, which }])
}

#[test]
fn isolated_pods_are_reached_by_those_who_may_and_by_their_node() {
    let Some(mut world) = World::new() else { return };
    let mut enforcer = Enforcer::open_in(&world.node).unwrap();
    assert!(enforcer.apply(world.decided()).unwrap(), "a table of before would be gone");
    assert!(!enforcer.apply(world.decided()).unwrap(), "nothing to do");
    assert!(!Nft::open_in(&world.node).unwrap().has_table(TABLE.family, TABLE.name).unwrap(), "no policies, no table");
    assert!(world.reaches("a", "b", 80) && world.reaches("c", "b", 80));

    world.set("deny", Some(policy("app=b", Some(vec![]), None)));
    assert!(enforcer.apply(world.decided()).unwrap());
    assert!(!world.reaches("a", "b", 80) && !world.reaches6("a", "b", 80));
    assert!(world.reaches("b", "a", 80), "answers to what it asks itself come back");
    assert!(world.reaches("a", "c", 80), "others are not isolated");
    assert!(world.node_reaches("b", 80), "its node's probes pass");
    assert!(!world.outside_reaches("b", 80));

    // Another policy adds to what may.
    let allowed = Allowed { peers: Some(to_pods("app=a")), ports: tcp(Which::Numbers(80, 81)) };
    world.set("allow", Some(policy("app=b", Some(vec![allowed]), None)));
    assert!(enforcer.apply(world.decided()).unwrap());
    assert!(world.reaches("a", "b", 80) && world.reaches("a", "b", 81) && world.reaches6("a", "b", 80));
    assert!(!world.reaches("a", "b", 82) && !world.reaches("c", "b", 80));

    // Labels decide, whoever has them.
    world.label("c", "app=a");
    assert!(enforcer.apply(world.decided()).unwrap());
    assert!(world.reaches("c", "b", 80));

    world.set("allow", None);
    assert!(enforcer.apply(world.decided()).unwrap());
    assert!(!world.reaches("a", "b", 80));
    world.set("deny", None);
    assert!(enforcer.apply(world.decided()).unwrap());
    assert!(world.reaches("a", "b", 80));
    assert!(!Nft::open_in(&world.node).unwrap().has_table(TABLE.family, TABLE.name).unwrap());
}

#[test]
fn isolated_pods_reach_what_they_may() {
    let Some(mut world) = World::new() else { return };
    let mut enforcer = Enforcer::open_in(&world.node).unwrap();
    let allowed = Allowed { peers: Some(to_pods("app=b")), ports: tcp(Which::Named("web".into())) };
    world.set("out", Some(policy("app=a", None, Some(vec![allowed]))));
    enforcer.apply(world.decided()).unwrap();
    assert!(world.reaches("a", "b", 80) && world.reaches6("a", "b", 80), "web is 80 there");
    assert!(!world.reaches("a", "b", 81) && !world.reaches("a", "c", 81), "and 81 in a pod that is not meant");
    assert!(!world.reaches_outside("a"));
    assert!(world.reaches_node("a"), "its node");
    assert!(world.reaches("c", "a", 80), "nobody said who may reach it");

    // Both ends have a say.
    world.set("in", Some(policy("app=b", Some(vec![]), None)));
    enforcer.apply(world.decided()).unwrap();
    assert!(!world.reaches("a", "b", 80));
    world.set("in", None);

    let block = |cidr: &str, except: &[&str]| {
        let network = |text: &str| {
            let (ip, prefix) = text.split_once('/').unwrap();
            (ip.parse().unwrap(), prefix.parse().unwrap())
        };
        let peer = Peer::Block { cidr: network(cidr), except: except.iter().map(|one| network(one)).collect() };
        Some(policy("app=a", None, Some(vec![Allowed { peers: Some(vec![peer]), ports: None }])))
    };
    world.set("out", block("192.168.0.0/16", &["192.168.51.0/24"]));
    enforcer.apply(world.decided()).unwrap();
    assert!(world.reaches_outside("a") && !world.reaches("a", "b", 80));
    world.set("out", block("192.168.0.0/16", &[&format!("{OUTSIDE}/32")]));
    enforcer.apply(world.decided()).unwrap();
    assert!(!world.reaches_outside("a") && world.reaches_node("a"), "{NODE} is the node's");
}

#[test]
fn what_others_removed_is_put_back_and_a_change_is_told_by_its_difference() {
    let Some(mut world) = World::new() else { return };
    let mut enforcer = Enforcer::open_in(&world.node).unwrap();
    let mut nft = Nft::open_in(&world.node).unwrap();
    for i in 0..20 {
        let allowed = Allowed { peers: Some(to_pods("app=c")), ports: tcp(Which::Numbers(1000 + i, 1000 + i)) };
        world.set(&format!("p{i}"), Some(policy("app=b", Some(vec![allowed]), None)));
    }
    enforcer.apply(world.decided()).unwrap();
    assert!(enforcer.verify().unwrap());
    let removals: [&dyn Fn(&mut Batch); 2] = [&|b| b.delete_table(TABLE), &|b| b.flush_chain(TABLE, "ingress")];
    for remove in removals {
        let mut batch = Batch::new();
        remove(&mut batch);
        nft.commit(batch).unwrap();
        assert!(world.reaches("a", "b", 80));
        assert!(!enforcer.verify().unwrap());
        assert!(enforcer.apply(world.decided()).unwrap());
        assert!(!world.reaches("a", "b", 80));
        assert!(enforcer.verify().unwrap());
    }
    let before = world.decided();
    world.label("a", "app=c");
    let after = world.decided();
    let messages = skiff_policy::table::difference(&before, &after).messages();
    assert!(messages <= 4, "{messages}: one address more in a set of each family, and the batch's frame");
    enforcer.apply(after).unwrap();
    assert!(enforcer.verify().unwrap());
    let other = Enforcer::open_in(&world.node).unwrap().apply(Desired::default());
    assert!(
        other.unwrap() && !enforcer.verify().unwrap(),
        "an enforcer that ended is no reason to go on with its table"
    );
    assert_eq!(decide("elsewhere", &world.cluster), Desired::default());
}
