//! YAML as upstream reads and writes it: turned into JSON, with the scalars of YAML 1.1 (`0644` is 420, `yes` is true).
//!
//! Mirrors `sigs.k8s.io/yaml` (`YAMLToJSONStrict`, `Marshal`) on top of `go.yaml.in/yaml/v2`, and the document splitter
//! of `k8s.io/apimachinery/pkg/util/yaml/decoder.go`.
//!
//! Known differences: syntax errors have the line of upstream's but the words of the parser used here; merging (`<<`)
//! never counts as setting a key twice.

mod read;
mod resolve;
mod write;

pub use read::{decode, decode_any, documents, from_slice};
pub use write::to_string;
