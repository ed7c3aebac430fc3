//! A definition as it is stored: `apiextensions.k8s.io/v1beta1`, in which upstream writes what all versions share once, at
//! the top. Mirrors `pkg/apis/apiextensions/v1/conversion.go` and `v1beta1/conversion.go`.

use crate::kinds::Conversion;
use skiff_machinery::{ApiError, Map, Value};

/// Between `v1` and the stored `v1beta1`.
pub(super) struct StoredAsV1beta1;

impl Conversion for StoredAsV1beta1 {
    fn to_storage(&self, object: &mut Value) -> Result<(), ApiError> {
        to_storage(object);
        Ok(())
    }
    fn to_served(&self, object: &mut Value) -> Result<(), ApiError> {
        from_storage(object);
        Ok(())
    }
}

/// In `versions[]` in v1, at the top of the spec in v1beta1 when all versions agree.
const SHARED: [(&str, &str); 3] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

fn rename(map: &mut Map, from: &'static str, to: &'static str) {
    if let Some(value) = map.remove(from) {
        map.insert(to, value);
    }
}

fn rename_in_columns(map: &mut Map, from: &'static str, to: &'static str) {
    let columns = map.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        rename(column, from, to);
    }
}

fn versions(spec: &mut Map) -> Vec<&mut Map> {
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    versions.into_iter().flatten().filter_map(Value::as_object_mut).collect()
}

fn to_storage(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for version in versions(spec) {
        rename_in_columns(version, "jsonPath", "JSONPath");
    }
    if let Some(name) = versions(spec).first().and_then(|version| version.get("name")).cloned() {
        spec.insert("version", name);
    }
    for (own, top) in SHARED {
        let all: Vec<Option<Value>> = versions(spec).into_iter().map(|version| version.get(own).cloned()).collect();
        if let Some(Some(first)) = all.first()
            && all.iter().all(|other| other.as_ref() == Some(first))
        {
            spec.insert(top, first.clone());
            versions(spec).into_iter().for_each(|version| {
                version.remove(own);
            });
        }
    }
    if !spec.contains_key("preserveUnknownFields") {
        // Absent means true in v1beta1.
        spec.insert("preserveUnknownFields", false);
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut)
        && let Some(Value::Object(mut webhook)) = conversion.remove("webhook")
    {
        if let Some(client) = webhook.remove("clientConfig") {
            conversion.insert("webhookClientConfig", client);
        }
        if let Some(reviews) = webhook.remove("conversionReviewVersions") {
            conversion.insert("conversionReviewVersions", reviews);
        }
    }
}

/// From what is stored to `v1`.
pub(super) fn from_storage(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    map.insert("apiVersion", "apiextensions.k8s.io/v1");
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let name = spec.remove("version");
    if versions(spec).is_empty()
        && let Some(name) = name
    {
        let only = skiff_machinery::object! { "name": name, "served": true, "storage": true };
        spec.insert("versions", Value::Array(vec![only]));
    }
    for (own, top) in SHARED {
        if let Some(value) = spec.remove(top) {
            for version in versions(spec) {
                if !version.contains_key(own) {
                    version.insert(own, value.clone());
                }
            }
        }
    }
    for version in versions(spec) {
        rename_in_columns(version, "JSONPath", "jsonPath");
    }
    if spec.get("preserveUnknownFields").and_then(Value::as_bool) == Some(false) {
        spec.remove("preserveUnknownFields");
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let client = conversion.remove("webhookClientConfig");
        let reviews = conversion.remove("conversionReviewVersions");
        if let Some(reviews) = reviews {
            let mut webhook = Map::new();
            webhook.insert("conversionReviewVersions", reviews);
            if let Some(client) = client {
                webhook.insert("clientConfig", client);
            }
            conversion.insert("webhook", webhook);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    #[test]
    fn goes_there_and_back() {
        let v1 = json::from_str(
            r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","spec":{"group":"g","versions":[
            {"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}},
             "additionalPrinterColumns":[{"name":"A","type":"string","jsonPath":".spec.a"}]}]}}"#,
        )
        .unwrap();
        let mut stored = v1.clone();
        to_storage(&mut stored);
        assert_eq!(stored.str_at(&["spec", "version"]), "v1");
        assert_eq!(stored.str_at(&["spec", "validation", "openAPIV3Schema", "type"]), "object");
        assert_eq!(stored.items_at(&["spec", "additionalPrinterColumns"])[0].str_at(&["JSONPath"]), ".spec.a");
        from_storage(&mut stored);
        assert_eq!(stored, v1);
    }
}
