//! `Table` answers: what `kubectl get` shows.
//!
//! One object's tree lives at a time; cells with ages are made for each request.

use super::cache::{Entry, Media};
use super::respond::{self, Scope};
use crate::kinds::Column;
use skiff_machinery::codec::json;
use skiff_machinery::{ApiError, Value, object};
use skiff_store::Revision;

/// `includeObject` of `TableOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// From the query; unknown values are refused.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {}",
                skiff_machinery::error::quote(other)
            ))),
        }
    }
}

/// What a table depends on beside the objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableOptions {
    pub(super) include: IncludeObject,
    /// Seconds since the epoch, for ages.
    pub(super) now: i64,
}

/// `metav1.ListMeta`.
#[derive(Clone, Debug, Default)]
pub(super) struct ListMeta {
    pub(super) revision: Revision,
    pub(super) continue_token: String,
    pub(super) remaining: Option<i64>,
}

impl ListMeta {
    /// As an object tree.
    pub(super) fn tree(&self) -> Value {
        let mut tree =
            object! { "resourceVersion": self.revision.to_string(), "continue": self.continue_token.as_str() };
        if let (Some(remaining), Some(tree)) = (self.remaining, tree.as_object_mut()) {
            tree.insert("remainingItemCount", remaining);
        }
        tree
    }
    /// As JSON; tokens are base64 and need no escapes.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"resourceVersion\":\"");
        out.extend_from_slice(itoa::Buffer::new().format(self.revision).as_bytes());
        out.push(b'"');
        if !self.continue_token.is_empty() {
            out.extend_from_slice(format!(",\"continue\":\"{}\"", self.continue_token).as_bytes());
        }
        if let Some(remaining) = self.remaining {
            out.extend_from_slice(format!(",\"remainingItemCount\":{remaining}").as_bytes());
        }
        out.push(b'}');
    }
}

/// Writes one table.
pub(super) struct Writer<'a> {
    scope: &'a Scope,
    options: TableOptions,
    rows: Vec<u8>,
    with_columns: bool,
}

/// The columns of kinds that declare none (`rest.NewDefaultTableConvertor`).
fn default_columns() -> [Column; 2] {
    let column = |name: &str, ty: &str, format: &str, description: &str| Column {
        name: name.to_owned(),
        ty: ty.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority: 0,
    };
    [
        column("Name", "string", "name", "Name is the object's unique name within its namespace."),
        column("Created At", "date", "", "When the object was created."),
    ]
}

impl<'a> Writer<'a> {
    /// An empty table. A watch sends the columns once only.
    pub(super) fn new(scope: &'a Scope, options: TableOptions, with_columns: bool) -> Self {
        Self { scope, options, rows: Vec::new(), with_columns }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, entry: &Entry) -> Result<(), ApiError> {
        let codec = self.scope.cache.codec();
        let tree = entry.tree_once(codec)?;
        let cells = match self.scope.table() {
            Some(table) => table.row(&tree, self.options.now),
            None => {
                vec![tree.str_at(&["metadata", "name"]).into(), tree.str_at(&["metadata", "creationTimestamp"]).into()]
            }
        };
        if !self.rows.is_empty() {
            self.rows.push(b',');
        }
        self.rows.extend_from_slice(b"{\"cells\":");
        json::write_value(&mut self.rows, &Value::Array(cells));
        // Go always writes `object`; a raw extension without content is null.
        self.rows.extend_from_slice(b",\"object\":");
        match self.options.include {
            IncludeObject::None => self.rows.extend_from_slice(b"null"),
            IncludeObject::Metadata => {
                let encoding = codec.encode_served(&tree, self.scope.slot, Media::Json)?;
                respond::partial_json(&encoding, &mut self.rows);
            }
            IncludeObject::Object => {
                let encoding = entry.encoding_now(codec, self.scope.slot, Media::Json)?;
                self.rows.extend_from_slice(encoding.object());
            }
        }
        self.rows.push(b'}');
        Ok(())
    }

    /// The table as JSON with a line feed.
    pub(super) fn finish(self, meta: &ListMeta) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rows.len() + 2048);
        out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":"#);
        meta.write_json(&mut out);
        out.extend_from_slice(b",\"columnDefinitions\":");
        if self.with_columns {
            out.push(b'[');
            match self.scope.table() {
                Some(table) => write_columns(&mut out, table.columns()),
                None => write_columns(&mut out, &default_columns()),
            }
            out.push(b']');
        } else {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b",\"rows\":[");
        out.extend_from_slice(&self.rows);
        out.extend_from_slice(b"]}\n");
        out
    }
}

fn write_columns(out: &mut Vec<u8>, columns: &[Column]) {
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        for (key, text) in [
            ("{\"name\":", &column.name),
            (",\"type\":", &column.ty),
            (",\"format\":", &column.format),
            (",\"description\":", &column.description),
        ] {
            out.extend_from_slice(key.as_bytes());
            json::write_string(out, text);
        }
        out.extend_from_slice(format!(",\"priority\":{}}}", column.priority).as_bytes());
    }
}
