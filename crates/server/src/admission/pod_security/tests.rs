use super::super::testing::{Case, cluster};
use super::*;
use skiff_machinery::codec::{json, yaml};
use skiff_machinery::object;

fn standard(text: &str) -> Standard {
    let (level, version) = text.split_once(':').unwrap();
    let labels = format!(
        r#"{{"metadata":{{"labels":{{"pod-security.kubernetes.io/enforce":"{level}","pod-security.kubernetes.io/enforce-version":"{version}"}}}}}}"#
    );
    let (policy, errors) = Policy::of(&json::from_str(&labels).unwrap());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(policy.enforce.to_string(), text);
    policy.enforce
}

fn found(pod: &Value, by: &str) -> Vec<String> {
    violations(annotations(pod), pod.get("spec").unwrap(), standard(by))
}

/// Every pod that upstream's own tests say passes or fails.
#[test]
fn upstreams_pods_pass_and_fail() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36/pod-security");
    if !root.exists() {
        println!("skipped: no upstream reference data here");
        return;
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    for level in ["baseline", "restricted"] {
        for outcome in ["pass", "fail"] {
            for entry in std::fs::read_dir(root.join(level).join("v1.35").join(outcome)).unwrap() {
                let path = entry.unwrap().path();
                let pod = yaml::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                seen += 1;
                let name = path.file_stem().unwrap().to_str().unwrap().trim_end_matches(|c: char| c.is_ascii_digit());
                for by in [format!("{level}:v1.35"), format!("{level}:latest")] {
                    let found = found(&pod, &by);
                    // A failing pod fails by the check it is named after, and by no other of its level; but these
                    // cannot be without another.
                    let right = match (outcome, name) {
                        ("pass", _) => found.is_empty(),
                        (_, "allowprivilegeescalation" | "privileged" | "windowshostprocess") => !found.is_empty(),
                        _ => found.len() == 1,
                    };
                    if !right {
                        wrong.push(format!("{level} {outcome} {name}: {found:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, 148);
}

#[test]
fn violations_are_told_in_upstreams_words() {
    let plain = object! { "spec": object! { "containers": skiff_machinery::list![object! { "name": "nginx" }] } };
    assert_eq!(
        found(&plain, "restricted:latest").join(", "),
        "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(found(&plain, "baseline:latest"), Vec::<String>::new());
    let wild = json::from_str(
        r#"{"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/a":"unconfined"}},
        "spec":{"hostNetwork":true,"hostPID":true,"volumes":[{"name":"h","hostPath":{"path":"/"}},{"name":"n","nfs":{}}],
        "securityContext":{"seLinuxOptions":{"type":"foo","user":"u"},"seccompProfile":{"type":"Unconfined"},"sysctls":[{"name":"kernel.x"}]},
        "containers":[{"name":"a","ports":[{"hostPort":80},{"hostPort":0}],
          "securityContext":{"privileged":true,"capabilities":{"add":["SYS_ADMIN","CHOWN"]},"procMount":"Unmasked"}},
         {"name":"b","livenessProbe":{"httpGet":{"host":"1.2.3.4"}},"securityContext":{"seLinuxOptions":{"role":"r"},"capabilities":{"add":["NET_ADMIN"]},
          "windowsOptions":{"hostProcess":true}}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        found(&wild, "baseline:latest"),
        [
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\\\"unconfined\\\"\")",
            "non-default capabilities (containers \"a\", \"b\" must not include \"NET_ADMIN\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            "host namespaces (hostNetwork=true, hostPID=true)",
            "hostPath volumes (volume \"h\")",
            "hostPort (container \"a\" uses hostPort 80)",
            "probe or lifecycle host (container \"b\" uses probe or lifecycle host \"1.2.3.4\")",
            "privileged (container \"a\" must not set securityContext.privileged=true)",
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            "seLinuxOptions (pod and container \"b\" set forbidden securityContext.seLinuxOptions: type \"foo\"; user may not be set; role may not be set)",
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            "forbidden sysctls (kernel.x)",
            "hostProcess (container \"b\" must not set securityContext.windowsOptions.hostProcess=true)",
        ]
    );
    assert!(found(&wild, "restricted:latest").contains(
        &"restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")".to_owned()
    ));
    assert_eq!(found(&wild, "privileged:latest"), Vec::<String>::new());
}

#[test]
fn older_versions_ask_for_less() {
    let pod = |spec: &str| json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap();
    let tcp = pod(r#"{"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_rmem"}]},"containers":[]}"#);
    assert_eq!(found(&tcp, "baseline:v1.31").len(), 1);
    assert_eq!(found(&tcp, "baseline:v1.32").len(), 0);
    let probe = pod(r#"{"containers":[{"name":"a","livenessProbe":{"httpGet":{"host":"h"}}}]}"#);
    assert_eq!((found(&probe, "baseline:v1.33").len(), found(&probe, "baseline:v1.34").len()), (0, 1));
    let root = pod(
        r#"{"securityContext":{"runAsNonRoot":true,"runAsUser":0,"seccompProfile":{"type":"RuntimeDefault"}},
        "containers":[{"name":"a","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}"#,
    );
    assert_eq!(found(&root, "restricted:v1.22").len(), 0);
    assert_eq!(found(&root, "restricted:v1.23"), ["runAsUser=0 (pod must not set runAsUser=0)"]);
    assert_eq!(found(&root, "restricted:v1.99").len(), 1, "later than all that is known: the latest");
    let windows =
        pod(r#"{"os":{"name":"windows"},"securityContext":{"runAsNonRoot":true},"containers":[{"name":"a"}]}"#);
    assert_eq!((found(&windows, "restricted:v1.24").len(), found(&windows, "restricted:v1.25").len()), (3, 0));
}

fn namespace(labels: &[(&'static str, &str)]) -> Value {
    let labels: Map = labels.iter().map(|(key, value)| (*key, Value::from(*value))).collect();
    object! { "metadata": object! { "name": "n", "labels": labels } }
}

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

#[tokio::test]
async fn a_namespace_says_what_is_let_in() {
    let cluster = cluster();
    cluster.put(
        &named("", "namespaces"),
        namespace(&[(ENFORCE, "baseline"), ("pod-security.kubernetes.io/warn", "restricted")]),
    );
    let plugin = PodSecurity::new(cluster.clone());
    let pod = |host: bool| {
        object! { "metadata": object! { "name": "p", "namespace": "n" }, "spec": object! {
        "hostNetwork": host, "containers": skiff_machinery::list![object! { "name": "c", "image": "i" }] } }
    };
    let refused = Case::create("", "pods", "n", pod(true)).validate(&plugin).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"
    );
    let warnings = Case::create("", "pods", "n", pod(false)).warnings(&plugin).await;
    assert!(
        warnings[0].starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"),
        "{warnings:?}"
    );
    // A controller is never refused.
    let deployment = object! { "metadata": object! { "name": "d" }, "spec": object! { "template": pod(true) } };
    let warnings = Case::create("apps", "deployments", "n", deployment).warnings(&plugin).await;
    assert!(warnings[0].contains("host namespaces (hostNetwork=true)"), "{warnings:?}");
    // What was let in before goes on; a new image is nothing new.
    let mut image = pod(true);
    image.with("spec", |spec| spec.each("containers", |container| container.set("image", "j")));
    Case::update("", "pods", "n", image, pod(true)).validate(&plugin).await.unwrap();
    let mut more = pod(true);
    more.with("spec", |spec| spec.set("hostPID", true));
    assert!(Case::update("", "pods", "n", more, pod(true)).validate(&plugin).await.is_err());
}

#[tokio::test]
async fn labels_of_a_namespace_are_checked() {
    let cluster = cluster();
    let plugin = PodSecurity::new(cluster.clone());
    let refused =
        Case::create("", "namespaces", "", namespace(&[(ENFORCE, "strict")])).validate(&plugin).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let version = namespace(&[(ENFORCE, "baseline"), ("pod-security.kubernetes.io/enforce-version", "1.30")]);
    let refused = Case::create("", "namespaces", "", version).validate(&plugin).await.unwrap_err();
    assert!(refused.message().contains("must be \"latest\" or \"v1.x\""), "{}", refused.message());
    // Pods that are there already are told of.
    for (name, host) in [("a", true), ("b", false), ("c", true)] {
        let pod = object! { "metadata": object! { "name": name, "namespace": "n" }, "spec": object! {
        "hostNetwork": host, "containers": skiff_machinery::list![object! { "name": "c" }] } };
        cluster.put(&named("", "pods"), pod);
    }
    let case = Case::update("", "namespaces", "", namespace(&[(ENFORCE, "baseline")]), namespace(&[]));
    assert_eq!(
        case.warnings(&plugin).await,
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a: host namespaces",
            "c: host namespaces",
        ]
    );
}
