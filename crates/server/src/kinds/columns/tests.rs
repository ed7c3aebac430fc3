use super::*;
use skiff_machinery::codec::json;
use std::path::PathBuf;

#[test]
fn columns_equal_upstream() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36/columns.tsv");
    let Ok(text) = std::fs::read_to_string(file) else {
        println!("skipped: no upstream reference data");
        return;
    };
    let mut theirs: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split('\t').collect();
        let key = format!("{} {}", cells[0].replace("(core)", ""), cells[2]);
        let column = format!("{} {} {} {}", cells[3], cells[4], cells[5], cells[6]);
        match theirs.last_mut().filter(|(last, _)| *last == key) {
            Some((_, columns)) => columns.push(column),
            None => theirs.push((key, vec![column])),
        }
    }
    for (key, columns) in theirs {
        let (group, resource) = key.split_once(' ').unwrap();
        // Two versions of one kind follow each other in the file.
        let columns = if resource == "horizontalpodautoscalers" { &columns[..7] } else { &columns[..] };
        let table = table(group, resource).unwrap();
        let ours: Vec<String> =
            table.columns().iter().map(|c| format!("{} {} {} {}", c.name, c.ty, c.format, c.priority)).collect();
        assert_eq!(ours, columns, "{key}");
        assert_eq!(table.row(&json::from_str("{}").unwrap(), 0).len(), ours.len(), "{key}");
    }
}

/// The cells of an object, joined as kubectl would.
fn row(group: &str, resource: &str, object: &str) -> String {
    let now = 1_767_323_045; // 2026-01-02T03:04:05Z
    let cells = table(group, resource).unwrap().row(&json::from_str(object).unwrap(), now);
    cells.iter().map(|cell| cells::text(Some(cell))).collect::<Vec<_>>().join(" | ")
}

fn pod(status: &str, spec: &str) -> String {
    let object = format!(
        r#"{{"metadata":{{"name":"p","creationTimestamp":"2026-01-02T03:00:00Z"}},"spec":{{"containers":[{{"name":"a"}},{{"name":"b"}}]{spec}}},"status":{status}}}"#
    );
    row("", "pods", &object)
}

#[test]
fn pods_say_what_they_wait_for() {
    for (status, spec, expected) in [
        (r#"{"phase":"Pending"}"#, "", "p | 0/2 | Pending | 0 | 4m5s | <none> | <none> | <none> | <none>"),
        (
            r#"{"phase":"Running","podIPs":[{"ip":"10.0.0.2"}],"containerStatuses":[{"name":"a","ready":true,"restartCount":2,"state":{"running":{}},"lastState":{"terminated":{"finishedAt":"2026-01-02T02:59:05Z"}}},{"name":"b","ready":false,"restartCount":0,"state":{"waiting":{"reason":"ImagePullBackOff"}}}]}"#,
            r#","nodeName":"n1""#,
            "p | 1/2 | ImagePullBackOff | 2 (5m ago) | 4m5s | 10.0.0.2 | n1 | <none> | <none>",
        ),
        (
            r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":3,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}"#,
            r#","initContainers":[{"name":"i"},{"name":"j"}]"#,
            "p | 0/2 | Init:CrashLoopBackOff | 3 | 4m5s | <none> | <none> | <none> | <none>",
        ),
        (
            r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":0,"state":{"terminated":{"exitCode":0}}},{"name":"j","restartCount":0,"state":{"running":{}}}]}"#,
            r#","initContainers":[{"name":"i"},{"name":"j"}]"#,
            "p | 0/2 | Init:1/2 | 0 | 4m5s | <none> | <none> | <none> | <none>",
        ),
        (
            r#"{"phase":"Succeeded","containerStatuses":[{"name":"a","restartCount":0,"state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}"#,
            "",
            "p | 0/2 | Completed | 0 | 4m5s | <none> | <none> | <none> | <none>",
        ),
        (
            r#"{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}"#,
            "",
            "p | 0/2 | SchedulingGated | 0 | 4m5s | <none> | <none> | <none> | <none>",
        ),
    ] {
        assert_eq!(pod(status, spec), expected);
    }
}

#[test]
fn services_nodes_and_jobs() {
    let service = r#"{"metadata":{"name":"s","creationTimestamp":"2026-01-02T03:04:00Z"},"spec":{"type":"NodePort","clusterIPs":["10.0.0.9"],"ports":[{"port":80,"nodePort":30080,"protocol":"TCP"},{"port":53,"protocol":"UDP"}],"selector":{"app":"x"}}}"#;
    assert_eq!(row("", "services", service), "s | NodePort | 10.0.0.9 | <none> | 80:30080/TCP,53/UDP | 5s | app=x");
    let node = r#"{"metadata":{"name":"n","labels":{"node-role.kubernetes.io/control-plane":""},"creationTimestamp":"2026-01-01T03:04:05Z"},"spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"nodeInfo":{"kubeletVersion":"v1.36.0"}}}"#;
    assert_eq!(
        row("", "nodes", node),
        "n | Ready,SchedulingDisabled | control-plane | 24h | v1.36.0 | 192.0.2.1 | <none> | <unknown> | <unknown> | <unknown>"
    );
    let job = r#"{"metadata":{"name":"j","creationTimestamp":"2026-01-02T03:00:00Z"},"spec":{"completions":1},"status":{"succeeded":1,"startTime":"2026-01-02T03:00:00Z","completionTime":"2026-01-02T03:00:07Z","conditions":[{"type":"Complete","status":"True"}]}}"#;
    assert!(row("batch", "jobs", job).starts_with("j | Complete | 1/1 | 7s | 4m5s | "));
}
