//! Structural schemas: what upstream's own libraries made of schemas and objects, recorded by
//! `xtask/gotypes/structural`.

use skiff_machinery::FieldPath;
use skiff_machinery::codec::{FieldValidation, json};
use skiff_machinery::schema::structural::{Structural, check, coerce_metadata};

#[test]
fn schemas_do_what_upstreams_do() {
    let path = format!("{}/testdata/structural-cases.jsonl", env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut used, mut refused) = (Vec::new(), 0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let case = json::from_str(line).unwrap();
        let texts = |key: &str| -> Vec<String> {
            case.items_at(&[key]).iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let schema = case.get("schema").unwrap();
        let root = FieldPath::new("schema");
        let mut errors: Vec<String> = check(schema, &root).iter().map(ToString::to_string).collect();
        let parsed = match Structural::parse(schema, &root) {
            Ok(parsed) => Some(parsed),
            Err(list) => {
                errors.extend(list.iter().map(ToString::to_string));
                None
            }
        };
        errors.sort();
        let mut expected = texts("schema_errors");
        // Upstream's conversion gives up on these with words that no client gets to see; ours says the field.
        if expected.iter().any(|text| !text.starts_with("schema")) {
            assert_eq!(errors.is_empty(), expected.is_empty(), "{line}");
            continue;
        }
        for text in &mut expected {
            *text = text.replace("spec.validation.openAPIV3Schema", "schema");
            // Of an expression only that it is wrong is the same.
            if let Some(at) = text.find("but isn't:") {
                text.truncate(at);
                errors.iter_mut().for_each(|ours| ours.truncate(at));
            }
        }
        if errors != expected {
            wrong.push(format!("{schema:?}\n   ours: {errors:?}\n theirs: {expected:?}"));
        }
        refused += usize::from(!errors.is_empty());
        let Some(parsed) = parsed else { continue };
        let mut object = case.get("object").unwrap().clone();
        let outcome = coerce_metadata(&mut object, FieldValidation::Warn).and_then(|mut warnings| {
            warnings.extend(parsed.coerce_embedded(&mut object, FieldValidation::Warn)?);
            Ok(warnings)
        });
        match outcome {
            Err(error) => {
                if error.to_string() != case.str_at(&["meta_error"]) {
                    wrong.push(format!("{line}\n   ours: {error}"));
                }
                continue;
            }
            Ok(warnings) => {
                let mut unknown: Vec<String> =
                    texts("meta_unknown").iter().map(|path| format!("unknown field \"{path}\"")).collect();
                unknown.sort();
                if warnings != unknown || !case.str_at(&["meta_error"]).is_empty() {
                    wrong.push(format!("{line}\n   ours: {warnings:?}"));
                }
            }
        }
        let pruned = parsed.prune(&mut object);
        parsed.default(&mut object);
        let mut errors: Vec<String> = parsed.validate(&object).iter().map(ToString::to_string).collect();
        errors.sort();
        if pruned != texts("pruned") {
            wrong.push(format!("{line}\n pruned by us: {pruned:?}"));
        }
        if json::to_string(&object) != json::to_string(case.get("result").unwrap()) {
            wrong.push(format!("{line}\n made by us: {}", json::to_string(&object)));
        }
        // What the metadata of embedded objects says is not looked at yet.
        let mut expected = texts("errors");
        expected.retain(|text| !text.split(':').next().unwrap_or("").contains("metadata."));
        if errors != expected {
            wrong.push(format!("{line}\n   ours: {errors:?}"));
        }
        used += 1;
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(used > 500 && refused > 30, "{used} objects, {refused} schemas refused");
}
