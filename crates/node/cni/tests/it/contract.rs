//! The caller's side, with the built-in plugin and executed ones in one chain.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use skiff_cni::{Attachment, Cni, NetworkRequest};
use skiff_linux::netlink::netns::NetNs;

use crate::world::World;

/// A plugin that writes down how it was called and passes the result on.
const RECORDER: &str = r#"#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $config" >> "$(dirname "$0")/calls"
if [ -f "$(dirname "$0")/fail" ]; then
  echo '{"cniVersion":"1.1.0","code":42,"msg":"out of order","details":"as asked"}'; exit 1
fi
if [ "$CNI_COMMAND" = ADD ]; then
  echo "$config" | sed 's/.*"prevResult":\(.*\)/\1/; s/,"recorder":1.*//; s/,"runtimeConfig".*//; s/,"type":"recorder".*//'
fi
"#;

fn write_plugin(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn cni(dir: &Path) -> Cni {
    let cni = Cni {
        conf_dir: dir.join("net.d"),
        bin_dirs: vec![dir.join("none"), dir.join("bin")],
        cache_dir: dir.join("cache"),
    };
    std::fs::create_dir_all(&cni.conf_dir).unwrap();
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    cni
}

fn request(id: &str, netns: &NetNs) -> NetworkRequest {
    let mut capabilities = serde_json::Map::new();
    capabilities.insert("portMappings".into(), json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]));
    NetworkRequest {
        container_id: id.into(),
        netns: netns.proc_path(),
        ifname: "eth0".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
        capabilities,
    }
}

#[test]
fn a_chain_is_added_checked_deleted_and_collected() {
    let Some(world) = World::new() else { return };
    let dir = world.dir.path();
    let cni = cni(dir);
    write_plugin(&dir.join("bin"), "recorder", RECORDER);
    let list = json!({
        "cniVersion": "1.1.0", "name": "chain",
        "plugins": [
            { "type": "skiff", "podCIDRs": ["10.244.5.0/24"], "clusterCIDRs": ["10.244.0.0/16"],
              "dataDir": dir.join("ipam"), "capabilities": { "portMappings": true } },
            { "type": "recorder" },
        ],
    });
    std::fs::write(cni.conf_dir.join("10-chain.conflist"), list.to_string()).unwrap();
    let network = cni.default_network().unwrap();
    world.node.run(|| cni.status(&network)).unwrap().unwrap();
    let (pod, other) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let wish = request("abc", &pod);
    let result = world.node.run(|| cni.add(&network, &wish)).unwrap().unwrap();
    assert_eq!(result.ips[0].address, "10.244.5.1/32");
    assert_eq!(result.interfaces[1].name, "eth0");
    world.node.run(|| cni.check(&network, &wish)).unwrap().unwrap();
    let cached: Value =
        serde_json::from_slice(&std::fs::read(dir.join("cache/results/chain-abc-eth0")).unwrap()).unwrap();
    assert_eq!(cached["kind"], "cniCacheV1");
    assert_eq!(cached["result"]["ips"][0]["address"], "10.244.5.1/32");

    let taken = world.node.run(|| cni.add(&network, &request("dead", &other))).unwrap().unwrap_err().to_string();
    assert!(taken.contains("a host port of the pod is already taken: 8080"), "{taken}");
    let mut plain = request("dead", &other);
    plain.capabilities.clear();
    world.node.run(|| cni.add(&network, &plain)).unwrap().unwrap();
    let live = [Attachment { container_id: "abc".into(), ifname: "eth0".into() }];
    world.node.run(|| cni.gc(&network, &live)).unwrap().unwrap();
    assert!(!dir.join("cache/results/chain-dead-eth0").exists());
    assert!(dir.join("cache/results/chain-abc-eth0").exists());

    // The list is gone, the pod still can be deleted.
    std::fs::remove_file(cni.conf_dir.join("10-chain.conflist")).unwrap();
    assert!(cni.default_network().unwrap_err().to_string().contains("cni plugin not initialized"));
    assert_eq!(world.node.run(|| cni.del_cached("abc")).unwrap().unwrap(), 1);
    world.node.run(|| cni.del(&network, &wish)).unwrap().unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.join("ipam/chain")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("10.")), "{left:?}");

    let calls = std::fs::read_to_string(dir.join("bin/calls")).unwrap();
    let verbs: Vec<_> = calls.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(verbs, ["STATUS", "ADD", "CHECK", "ADD", "DEL", "GC", "DEL", "DEL"], "{calls}");
    let add = calls.lines().nth(1).unwrap();
    assert!(add.starts_with("ADD abc eth0 IgnoreUnknown=1;K8S_POD_NAME=web {"), "{add}");
    assert!(!add.contains("runtimeConfig"), "told only to those who declare it");
}

#[test]
fn failures_of_plugins_are_told_in_their_words() {
    let dir = tempfile::tempdir().unwrap();
    let cni = cni(dir.path());
    let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"recorder"}]}"#;
    std::fs::write(cni.conf_dir.join("n.conflist"), list).unwrap();
    let network = cni.default_network().unwrap();
    let wish = NetworkRequest { container_id: "a".into(), ifname: "eth0".into(), ..NetworkRequest::default() };
    let error = cni.add(&network, &wish).unwrap_err().to_string();
    assert!(error.starts_with("failed to find plugin \"recorder\" in path ["), "{error}");

    write_plugin(&dir.path().join("bin"), "recorder", RECORDER);
    std::fs::write(dir.path().join("bin/fail"), "").unwrap();
    let error = cni.add(&network, &wish).unwrap_err();
    assert_eq!(error.code(), Some(42));
    assert_eq!(error.to_string(), "plugin type=\"recorder\" name=\"n\" failed (add): out of order; as asked");

    for (script, says) in [
        ("#!/bin/sh\nexit 3", "netplugin failed with no error message"),
        ("#!/bin/sh\necho oops >&2; exit 3", "netplugin failed: \"oops"),
        ("#!/bin/sh\necho '{'", "is not JSON"),
        ("#!/bin/sh\ncat > /dev/null", "no plugin gave one"),
        ("#!/bin/sh\necho '{\"ips\": 3}'", "is not usable"),
    ] {
        write_plugin(&dir.path().join("bin"), "recorder", script);
        let error = cni.add(&network, &wish).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let wrong = NetworkRequest { container_id: "../x".into(), ..wish };
    assert!(cni.add(&network, &wrong).unwrap_err().to_string().contains("invalid container id"));
}

#[test]
fn a_plugin_that_hangs_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    write_plugin(dir.path(), "hang", "#!/bin/sh\nexec sleep 1000");
    let start = std::time::Instant::now();
    let timeout = std::time::Duration::from_millis(300);
    let error = skiff_cni::exec::run(&dir.path().join("hang"), &[], b"{}", timeout).unwrap_err();
    assert_eq!(error.code, 11);
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}
