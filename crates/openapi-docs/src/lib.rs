//! What the API's types and fields are for, in upstream's words.
//!
//! **Owns** the descriptions that OpenAPI documents carry. They are not in this repository: the build script takes them
//! out of the sources of the `k8s-openapi` crate (Apache-2.0) and embeds them compressed.
//!
//! **Must never know** what a schema is or who asks. Start reading at [`Docs`].
//!
//! Not here: lists of objects (`PodList`), which that crate has as one generic type, and the parameters of requests.

use std::collections::HashMap;
use std::io::Read;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/docs.zz"));

/// All descriptions, unpacked. Some 1.5 MiB: made for the time of writing a document, then dropped.
pub struct Docs {
    text: String,
    /// Where the lines of a type begin and end.
    types: HashMap<Box<str>, (usize, usize)>,
}

impl Docs {
    /// Unpacks them.
    pub fn unpack() -> Self {
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(COMPRESSED).read_to_string(&mut text).expect("the build script wrote it");
        let mut types = HashMap::new();
        let mut open: Option<(&str, usize)> = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if !line.contains('\t') {
                if let Some((name, start)) = open.take() {
                    types.insert(name.into(), (start, at));
                }
                open = Some((line.trim_end(), at + line.len()));
            }
            at += line.len();
        }
        if let Some((name, start)) = open {
            types.insert(name.into(), (start, at));
        }
        Self { text, types }
    }

    /// What a type is for, by its OpenAPI name (`io.k8s.api.core.v1.Pod`).
    pub fn of_type(&self, name: &str) -> Option<String> {
        self.of_field(name, "")
    }

    /// What a field of a type is for.
    pub fn of_field(&self, name: &str, field: &str) -> Option<String> {
        let (start, end) = *self.types.get(name)?;
        let mut lines = self.text[start..end].lines();
        let text = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix('\t'))?;
        let mut out = String::with_capacity(text.len());
        let mut symbols = text.chars();
        while let Some(symbol) = symbols.next() {
            match symbol {
                '\\' if symbols.next() == Some('n') => out.push('\n'),
                other => out.push(other),
            }
        }
        Some(out)
    }

    /// How many types are described.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether nothing is described.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let docs = Docs::unpack();
        assert!(docs.len() > 650, "{}", docs.len());
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(docs.of_type(pod).unwrap().starts_with("Pod is a collection of containers"));
        // A scalar, a struct, a list.
        let spec = "io.k8s.api.core.v1.PodSpec";
        assert!(docs.of_field(spec, "hostNetwork").unwrap().contains("host"));
        assert!(docs.of_field(spec, "affinity").unwrap().contains("scheduling constraints"));
        assert!(docs.of_field(spec, "containers").unwrap().starts_with("List of containers"));
        assert_eq!(docs.of_field(spec, "container"), None, "no field is found by a part of its name");
        assert_eq!(docs.of_type("io.k8s.api.core.v1.Nothing"), None);
    }

    #[test]
    fn line_feeds_and_backslashes_come_back() {
        let docs = Docs::unpack();
        let text = docs.of_field("io.k8s.api.core.v1.PodSecurityContext", "fsGroup").unwrap();
        assert!(text.contains("\n\n1. ") && !text.contains("\\n"), "{text}");
    }
}
