//! Values of selectable fields.

use skiff_machinery::Value;

/// The value of the field that a selector calls `name`. A missing field reads as Go's zero value of its type.
pub(super) fn value(object: &Value, name: &str) -> String {
    match name {
        // An alias of `metadata.name` that some kinds keep from their first days.
        "name" => object.str_at(&["metadata", "name"]).to_owned(),
        "source" => {
            let component = object.str_at(&["source", "component"]);
            if component.is_empty() { object.str_at(&["reportingComponent"]).to_owned() } else { component.to_owned() }
        }
        "reportingController" => object.str_at(&["reportingComponent"]).to_owned(),
        "status.successful" => at(object.get("status"), "succeeded", name),
        "status.podIPs" => {
            let ips: Vec<&str> = object.items_at(&["status", "podIPs"]).iter().map(|ip| ip.str_at(&["ip"])).collect();
            ips.join(",")
        }
        _ => match name.strip_prefix("regarding.") {
            Some(rest) => at(object.get("involvedObject"), rest, name),
            None => at(Some(object), name, name),
        },
    }
}

/// Follows a dotted path from `object`.
fn at(object: Option<&Value>, path: &str, name: &str) -> String {
    let found = object.and_then(|object| path.split('.').try_fold(object, |node, key| node.get(key)));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => match name {
            "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
            "status.replicas" | "status.successful" => "0".to_owned(),
            _ => String::new(),
        },
    }
}
