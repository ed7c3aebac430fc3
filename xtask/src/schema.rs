//! Writes the schema table that `skiff-machinery` carries.
//!
//! Inputs: the Go facts (`xtask/gotypes/facts.tsv`: order, pointers, omission, Go type names), OpenAPI v3 (list types,
//! merge keys, map types, defaults) and `protobuf/fields.tsv`, against which every field number is checked. Which types
//! go in: all of OpenAPI v3, the kinds in [`EXTRA_KINDS`], and what they refer to.
//!
//! Layout, all little endian: u32 counts of strings, types and kinds; u32 offsets of string text and field data; u32 start
//! of each string and the end of the last; per type u16 name, u16 flags (1 atomic), u32 offset of its fields; per kind u16
//! group, version, kind and type; string text; field data. Field data is a count, then per field, as LEB128 numbers: name,
//! number, wrapper, flags, type, and what the flags announce. The reader is
//! `crates/machinery/src/schema/builtin.rs`.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Kinds that no OpenAPI path serves but that are stored, sent or received all the same.
const EXTRA_KINDS: [&str; 36] = [
    "admission.k8s.io/v1/AdmissionReview",
    "apidiscovery.k8s.io/v2/APIGroupDiscovery",
    "apidiscovery.k8s.io/v2/APIGroupDiscoveryList",
    "apiextensions.k8s.io/v1/ConversionReview",
    "apiextensions.k8s.io/v1beta1/CustomResourceDefinition",
    "apiextensions.k8s.io/v1beta1/CustomResourceDefinitionList",
    "meta.k8s.io/v1/PartialObjectMetadata",
    "meta.k8s.io/v1/PartialObjectMetadataList",
    "meta.k8s.io/v1/Table",
    "meta.k8s.io/v1/TableOptions",
    "/v1/APIGroup",
    "/v1/APIGroupList",
    "/v1/APIResourceList",
    "/v1/APIVersions",
    "/v1/CreateOptions",
    "/v1/DeleteOptions",
    "/v1/GetOptions",
    "/v1/List",
    "/v1/ListOptions",
    "/v1/NodeProxyOptions",
    "/v1/PatchOptions",
    "/v1/PodAttachOptions",
    "/v1/PodExecOptions",
    "/v1/PodLogOptions",
    "/v1/PodPortForwardOptions",
    "/v1/PodProxyOptions",
    "/v1/PodStatusResult",
    "/v1/RangeAllocation",
    "/v1/SerializedReference",
    "/v1/ServiceProxyOptions",
    "/v1/Status",
    "/v1/UpdateOptions",
    "/v1/WatchEvent",
    "/v1/ComponentStatus",
    "/v1/ComponentStatusList",
    "/v1/Binding",
];

/// Types that the tree holds as one value rather than as a struct.
const OPAQUE: [(&str, u8); 8] = [
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", 6),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", 7),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", 8),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", 9),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", 10),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", 11),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", 13),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", 12),
];
/// The same in the `apiextensions` groups, by the last part of the name.
const OPAQUE_APIEXTENSIONS: [(&str, u8); 4] =
    [("JSON", 12), ("JSONSchemaPropsOrBool", 14), ("JSONSchemaPropsOrArray", 15), ("JSONSchemaPropsOrStringArray", 16)];

struct GoType {
    kinds: Vec<String>,
    fields: Vec<GoField>,
}

struct GoField {
    json: String,
    flags: String,
    /// Protobuf numbers, outermost wrapper first.
    path: Vec<u32>,
    /// Type in the words of `gotypes/main.go`.
    ty: String,
    go: String,
}

fn parse_facts(text: &str) -> anyhow::Result<BTreeMap<String, GoType>> {
    let mut types = BTreeMap::new();
    for line in text.lines() {
        let mut columns = line.split('\t');
        let name = columns.next().context("a line without a name")?;
        let kinds = columns.next().unwrap_or("").split_whitespace().map(str::to_owned).collect();
        let mut fields = Vec::new();
        for column in columns.filter(|column| !column.is_empty()) {
            let parts: Vec<&str> = column.splitn(5, ':').collect();
            let [json, flags, path, ty, go] = parts[..] else { bail!("{name}: not five parts: {column}") };
            let path = path.split('/').map(str::parse).collect::<Result<_, _>>().context(column.to_owned())?;
            fields.push(GoField { json: json.into(), flags: flags.into(), path, ty: ty.into(), go: go.into() });
        }
        types.insert(name.to_owned(), GoType { kinds, fields });
    }
    Ok(types)
}

fn opaque(name: &str) -> Option<u8> {
    let (package, last) = name.rsplit_once('.')?;
    let of_crds = package.starts_with("io.k8s.apiextensions-apiserver.");
    let found = OPAQUE_APIEXTENSIONS.iter().find(|(opaque, _)| of_crds && *opaque == last);
    OPAQUE.iter().find(|(opaque, _)| *opaque == name).or(found).map(|(_, tag)| *tag)
}

/// The struct names a type expression refers to.
fn referred(ty: &str) -> Option<String> {
    let name = ty.trim_start_matches(['[', '{', '*']).strip_prefix('@')?;
    match opaque(name) {
        Some(14..=16) => Some(format!("{}.JSONSchemaProps", name.rsplit_once('.')?.0)),
        Some(_) => None,
        None => Some(name.to_owned()),
    }
}

/// What Go calls the type when nothing names it otherwise.
fn derived_go_type(ty: &str) -> String {
    if let Some(item) = ty.strip_prefix('[') {
        return format!("[]{}", derived_go_type(item));
    }
    if let Some(item) = ty.strip_prefix('{') {
        return format!("map[string]{}", derived_go_type(item));
    }
    match ty {
        "s" => "string".into(),
        "b" => "bool".into(),
        "i32" => "int32".into(),
        "i64" => "int64".into(),
        "f64" => "float64".into(),
        "bytes" => "[]uint8".into(),
        "any" => "interface {}".into(),
        named => {
            let parts: Vec<&str> = named.rsplitn(3, '.').collect();
            format!("{}.{}", parts[1], parts[0])
        }
    }
}

struct Inputs {
    facts: BTreeMap<String, GoType>,
    openapi: BTreeMap<String, Value>,
}

fn read_openapi(folder: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut schemas = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let document: Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
        let found = document.pointer("/components/schemas").and_then(Value::as_object);
        for (name, schema) in found.into_iter().flatten() {
            schemas.insert(name.clone(), schema.clone());
        }
    }
    Ok(schemas)
}

/// Every field of `fields.tsv` that belongs to a type of the table has the number that the Go facts say.
fn check_numbers(tsv: &str, facts: &BTreeMap<String, GoType>, names: &BTreeSet<String>) -> anyhow::Result<usize> {
    let mut messages: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for line in tsv.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let package = columns[0].replacen("k8s.io.", "io.k8s.", 1).replace('_', "-");
        let number = columns[3].parse().with_context(|| line.to_owned())?;
        messages.entry(format!("{package}.{}", columns[1])).or_default().insert(columns[2].to_owned(), number);
    }
    let mut checked = 0;
    for name in names {
        let Some(message) = messages.get(name) else { continue };
        for field in facts[name].fields.iter().filter(|field| field.path.len() == 1) {
            // Names that differ between JSON and protobuf (`uID`, `Webhooks`) are compared by number alone.
            match message.get(&field.json) {
                Some(number) => ensure!(field.path[0] == *number, "{name}.{}: protobuf number", field.json),
                None => ensure!(
                    field.path[0] == 0 || message.values().any(|number| field.path[0] == *number),
                    "{name}.{}: not in protobuf",
                    field.json
                ),
            }
            checked += 1;
        }
    }
    Ok(checked)
}

/// The bytes of the table.
pub(crate) fn generate(upstream: &Path, facts: &Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read_to_string(facts).with_context(|| format!("reading {}", facts.display()))?;
    let openapi = read_openapi(&upstream.join("openapi/v3")).context("reading openapi/v3")?;
    let inputs = Inputs { facts: parse_facts(&text)?, openapi };

    let extra = |kind: &String| EXTRA_KINDS.contains(&kind.as_str());
    let mut todo: Vec<String> = inputs.openapi.keys().filter(|name| opaque(name).is_none()).cloned().collect();
    todo.extend(inputs.facts.iter().filter(|(_, ty)| ty.kinds.iter().any(extra)).map(|(name, _)| name.clone()));
    let mut names = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if names.contains(&name) {
            continue;
        }
        let ty = inputs.facts.get(&name).with_context(|| format!("{name} is not among the Go facts"))?;
        todo.extend(ty.fields.iter().filter_map(|field| referred(&field.ty)));
        names.insert(name);
    }
    let tsv = std::fs::read_to_string(upstream.join("protobuf/fields.tsv")).context("reading protobuf/fields.tsv")?;
    let checked = check_numbers(&tsv, &inputs.facts, &names)?;
    ensure!(checked > 3000, "only {checked} fields compared with fields.tsv");

    let mut kinds = BTreeSet::new();
    for name in &names {
        for kind in &inputs.facts[name].kinds {
            let parts: Vec<&str> = kind.split('/').collect();
            let [group, version, kind_name] = parts[..] else { bail!("{name}: odd kind {kind}") };
            let meta = name.starts_with("io.k8s.apimachinery.pkg.apis.meta.v1.");
            if version != "__internal" && (!meta || EXTRA_KINDS.contains(&kind.as_str())) {
                kinds.insert((group.to_owned(), version.to_owned(), kind_name.to_owned(), name.clone()));
            }
        }
    }
    for kind in EXTRA_KINDS {
        let found = kinds.iter().any(|(group, version, name, _)| format!("{group}/{version}/{name}") == kind);
        ensure!(found, "no type for {kind}");
    }
    let mut writer = Writer { strings: BTreeMap::new(), indices: names.iter().cloned().zip(0..).collect() };
    let table = writer.table(&inputs, &names, &kinds)?;
    eprintln!("{} types, {} kinds, {checked} numbers checked, {} bytes", names.len(), kinds.len(), table.len());
    Ok(table)
}

struct Writer {
    /// Interned strings, by text.
    strings: BTreeMap<String, usize>,
    /// Index of each type.
    indices: BTreeMap<String, usize>,
}

fn leb(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

impl Writer {
    fn string(&mut self, text: &str) -> usize {
        let next = self.strings.len();
        *self.strings.entry(text.to_owned()).or_insert(next)
    }

    fn table(
        &mut self,
        inputs: &Inputs,
        names: &BTreeSet<String>,
        kinds: &BTreeSet<(String, String, String, String)>,
    ) -> anyhow::Result<Vec<u8>> {
        let (mut types, mut kind_rows, mut data) = (Vec::new(), Vec::new(), Vec::new());
        let short = |number: usize| u16::try_from(number).context("more than 65,535 entries").map(u16::to_le_bytes);
        for name in names {
            let schema = inputs.openapi.get(name);
            let atomic = schema.is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic");
            types.extend(short(self.string(name))?);
            types.extend(short(usize::from(atomic))?);
            types.extend(u32::try_from(data.len())?.to_le_bytes());
            let fields = &inputs.facts[name].fields;
            leb(&mut data, fields.len());
            for field in fields {
                let property = schema.and_then(|schema| schema["properties"].get(&field.json));
                ensure!(schema.is_none() || property.is_some(), "{name}.{} is not in OpenAPI", field.json);
                let required = schema.and_then(|schema| schema["required"].as_array());
                let required = required.is_some_and(|names| names.iter().any(|name| *name == field.json.as_str()));
                self.field(&mut data, name, field, property, required, inputs)?;
            }
            let listed = schema.and_then(|schema| schema["properties"].as_object());
            for property in listed.into_iter().flat_map(|properties| properties.keys()) {
                ensure!(fields.iter().any(|field| field.json == *property), "{name}.{property} is not in Go");
            }
        }
        for (group, version, kind, name) in kinds {
            for text in [group, version, kind] {
                kind_rows.extend(short(self.string(text))?);
            }
            kind_rows.extend(short(self.indices[name])?);
        }
        let mut texts = vec![""; self.strings.len()];
        for (text, index) in &self.strings {
            texts[*index] = text;
        }
        let text_at = 20 + (texts.len() + 1) * 4 + types.len() + kind_rows.len();
        let joined = texts.concat();
        let mut out = Vec::new();
        for number in [texts.len(), names.len(), kinds.len(), text_at, text_at + joined.len()] {
            out.extend(u32::try_from(number)?.to_le_bytes());
        }
        let mut start = 0;
        for text in &texts {
            out.extend(u32::try_from(start)?.to_le_bytes());
            start += text.len();
        }
        out.extend(u32::try_from(start)?.to_le_bytes());
        out.extend(types);
        out.extend(kind_rows);
        out.extend(joined.as_bytes());
        out.extend(data);
        Ok(out)
    }

    fn ty(&self, out: &mut Vec<u8>, ty: &str) -> anyhow::Result<()> {
        if let Some(item) = ty.strip_prefix('[') {
            out.push(18);
            return self.ty(out, item);
        }
        if let Some(item) = ty.strip_prefix('{') {
            out.push(19);
            return self.ty(out, item);
        }
        match ty {
            "b" => out.push(0),
            "i32" => out.push(1),
            "i64" => out.push(2),
            "f64" => out.push(3),
            "s" => out.push(4),
            "bytes" => out.push(5),
            "any" => out.push(12),
            named => {
                let name = named.strip_prefix('@').with_context(|| format!("unknown type {ty}"))?;
                let tag = opaque(name);
                out.push(tag.unwrap_or(17));
                if matches!(tag, None | Some(14..=16)) {
                    let target = referred(ty).context("no struct")?;
                    leb(out, *self.indices.get(&target).with_context(|| format!("{target} is not in the table"))?);
                }
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        out: &mut Vec<u8>,
        owner: &str,
        field: &GoField,
        property: Option<&Value>,
        required: bool,
        inputs: &Inputs,
    ) -> anyhow::Result<()> {
        let has = |flag: char| field.flags.contains(flag);
        let extension = |key: &str| property.map_or(&Value::Null, |property| &property[key]);
        let structure = !has('p') && field.ty.starts_with('@');
        let strategy: Vec<&str> = extension("x-kubernetes-patch-strategy")
            .as_str()
            .unwrap_or("")
            .split(',')
            .filter(|s| !s.is_empty())
            .collect();
        let list_type = extension("x-kubernetes-list-type").as_str().unwrap_or("atomic");
        let atomic_struct = referred(&field.ty)
            .filter(|_| field.ty.starts_with('@'))
            .and_then(|name| inputs.openapi.get(&name))
            .is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic");
        let merge_key = extension("x-kubernetes-patch-merge-key").as_str();
        let go_type = (derived_go_type(&field.ty) != field.go).then_some(&field.go);
        let default = extension("default");
        let (text, number) = (default.as_str().filter(|text| !text.is_empty()), default.as_u64().filter(|&n| n != 0));
        let mut flags = 0;
        for (bit, set) in [
            (0, if structure { !has('z') } else { !has('e') && !has('z') }),
            (1, has('p')),
            (2, field.go == "v1.Verbs"),
            (3, atomic_struct || extension("x-kubernetes-map-type") == "atomic"),
            (4, strategy.contains(&"merge")),
            (5, strategy.contains(&"retainKeys")),
            (6, strategy.contains(&"replace")),
            (7, list_type == "set"),
            (8, list_type == "map"),
            (9, merge_key.is_some()),
            (10, go_type.is_some()),
            (11, text.is_some()),
            (12, number.is_some()),
            (13, required),
            (14, !default.is_null()),
            (15, extension("x-kubernetes-list-type") == "atomic"),
            (16, extension("x-kubernetes-map-type") == "atomic"),
            (17, extension("x-kubernetes-map-type") == "granular"),
        ] {
            flags |= usize::from(set) << bit;
        }
        let (number_in_proto, wrappers) = field.path.split_last().context("no number")?;
        ensure!(wrappers.iter().all(|wrapper| *wrapper < 256) && wrappers.len() < 4, "{owner}: deep or large wrapper");
        let wrapper = wrappers.iter().fold(0, |path, wrapper| path * 256 + *wrapper as usize);
        let name = self.string(&field.json);
        for part in [name, *number_in_proto as usize, wrapper, flags] {
            leb(out, part);
        }
        self.ty(out, &field.ty)?;
        if list_type == "map" {
            let keys = extension("x-kubernetes-list-map-keys").as_array().context("a map list without keys")?;
            leb(out, keys.len());
            for key in keys {
                let key = self.string(key.as_str().context("a key that is no string")?);
                leb(out, key);
            }
        }
        for text in [merge_key, go_type.map(String::as_str), text].into_iter().flatten() {
            let text = self.string(text);
            leb(out, text);
        }
        if let Some(number) = number {
            leb(out, usize::try_from(number)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn committed_table_is_what_the_inputs_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let upstream = root.join("../shared/upstream-1.36");
        if !upstream.exists() {
            println!("skipped: no upstream reference data here");
            return;
        }
        let made = super::generate(&upstream, &root.join("xtask/gotypes/facts.tsv")).expect("inputs are complete");
        let committed = std::fs::read(root.join("crates/machinery/src/schema/table.bin")).expect("it is committed");
        assert!(made == committed, "run `cargo xtask schema` and commit the table");
    }
}
