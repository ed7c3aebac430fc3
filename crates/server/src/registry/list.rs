//! Many objects: a walk over a snapshot, answered as slices of what is cached.
//!
//! A list never copies the collection: it holds references to entries (or to their encodings) and one frame of output.
//! Small lists take all encodings first, so that a damaged object is a 500 and the length is known; large ones make them
//! as they go and keep none beyond the budget.

use super::Registry;
use super::cache::{Cache, Encoding, Entry, Media, Snapshot};
use super::get::parse_revision;
use super::negotiate::{Accepted, Format, Shape};
use super::respond::{self, GZIP_THRESHOLD, Scope};
use super::select::Selection;
use super::table::{self, ListMeta, TableOptions};
use super::token::Continue;
use crate::kinds::Conversion;
use crate::request::options::{ListOptions, RESOURCE_VERSION_MATCH_EXACT};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, HeaderValue, VARY};
use http::{Response, StatusCode};
use http_body::Frame;
use skiff_machinery::codec::protobuf;
use skiff_machinery::object::InProcessList;
use skiff_machinery::{ApiError, Value};
use skiff_net::Body;
use skiff_store::{KeyRange, RangeRequest, Revision, StoreError};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a list found.
pub(super) struct Page {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) meta: ListMeta,
}

/// How a list is answered.
#[derive(Clone, Copy)]
pub(super) struct ListAnswer {
    pub(super) accepted: Accepted,
    pub(super) table_options: TableOptions,
    pub(super) gzip: bool,
}

/// Lists below this size (stored bytes) take all encodings before the answer begins.
const EAGER_BYTES: usize = 8 << 20;

/// Bytes of one frame of an answer.
const FRAME: usize = 128 * 1024;

/// Room for the item that makes a frame full, so that it is not grown for it.
const SPARE: usize = 16 * 1024;

impl Registry {
    /// The objects that a list asks for.
    pub(super) async fn list_page(
        &self,
        scope: &Scope,
        namespace: &str,
        options: &ListOptions,
        selection: &Selection,
    ) -> Result<Page, ApiError> {
        let prefix = scope.key_prefix(namespace);
        let token = match options.continue_token.as_str() {
            "" => None,
            _ if !matches!(options.resource_version.as_str(), "" | "0") => {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            text => Some(Continue::decode(text, &prefix)?),
        };
        let snapshot = self.list_snapshot(scope, &prefix, options, token.as_ref()).await?;
        // With `resourceVersion=0` the answer comes from any cache, whole (`shouldDelegateList`).
        let limit = if options.limit > 0 && !(options.resource_version == "0" && token.is_none()) {
            usize::try_from(options.limit).unwrap_or(usize::MAX)
        } else {
            usize::MAX
        };
        let start = token.as_ref().map_or(&prefix[..], |token| &token.start);
        let codec = scope.cache.codec();
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut more = false;
        let mut remaining = 0i64;
        if let Some(name) = selection.exact_name()
            && (!namespace.is_empty() || scope.resource.scope == crate::kinds::Scope::Cluster)
        {
            let found = snapshot.get(&scope.key(namespace, name)).filter(|entry| &entry.key()[..] >= start);
            if let Some(entry) = found
                && selection.matches(entry, codec)?
            {
                entries.push(Arc::clone(entry));
            }
        } else if selection.is_everything() {
            let mut walk = snapshot.range(&prefix, start);
            entries.extend(walk.by_ref().take(limit).cloned());
            if entries.len() == limit {
                remaining = i64::try_from(walk.count()).unwrap_or(i64::MAX);
                more = remaining > 0;
            }
        } else {
            for entry in snapshot.range(&prefix, start) {
                if !selection.matches(entry, codec)? {
                    continue;
                }
                if entries.len() == limit {
                    more = true;
                    break;
                }
                entries.push(Arc::clone(entry));
            }
        }
        let mut meta = ListMeta { revision: snapshot.revision, ..ListMeta::default() };
        if more && let Some(last) = entries.last() {
            meta.continue_token = Continue::encode(snapshot.revision, &prefix, last.key()).unwrap_or_default();
            meta.remaining = selection.is_everything().then_some(remaining);
            scope.cache.pin(snapshot, self.clock.now());
        }
        Ok(Page { entries, meta })
    }

    async fn list_snapshot(
        &self,
        scope: &Scope,
        prefix: &[u8],
        options: &ListOptions,
        token: Option<&Continue>,
    ) -> Result<Snapshot, ApiError> {
        if let Some(token) = token {
            if token.revision < 0 {
                self.barrier().await?;
                return Ok(scope.cache.snapshot(self.feed.applied()));
            }
            return match self.snapshot_at(scope, token.revision).await? {
                Some(snapshot) => Ok(snapshot),
                None => Err(expired_continue(prefix, &token.start)),
            };
        }
        match parse_revision(&options.resource_version)? {
            None => {
                self.barrier().await?;
            }
            Some(0) => {}
            Some(revision) => {
                let exact = options.resource_version_match == RESOURCE_VERSION_MATCH_EXACT
                    // "Legacy exact" of the reference: a limit without a match.
                    || (options.limit > 0 && options.resource_version_match.is_empty());
                self.wait_not_older(revision).await?;
                if exact {
                    let expired = || ApiError::expired("The resourceVersion for the provided list is too old.");
                    return self.snapshot_at(scope, revision).await?.ok_or_else(expired);
                }
            }
        }
        Ok(scope.cache.snapshot(self.feed.applied()))
    }

    /// The state at exactly this revision; `None` behind the API horizon.
    async fn snapshot_at(&self, scope: &Scope, revision: Revision) -> Result<Option<Snapshot>, ApiError> {
        if revision <= self.horizon() {
            return Ok(None);
        }
        self.wait_not_older(revision).await?;
        let applied = self.feed.applied();
        let now = scope.cache.snapshot(applied);
        if let Some(as_of) = now.at(revision, applied) {
            return Ok(Some(as_of));
        }
        if let Some(pinned) = scope.cache.pinned(revision) {
            return Ok(Some(pinned));
        }
        match self.read_at(scope, &now, revision).await {
            Ok(snapshot) => {
                scope.cache.pin(snapshot.clone(), self.clock.now());
                Ok(Some(snapshot))
            }
            Err(StoreError::Compacted { .. }) => Ok(None),
            Err(error) => Err(super::store_error(error)),
        }
    }

    /// Reads the past from the store's history; entries that have not changed since are shared with the present.
    async fn read_at(&self, scope: &Scope, now: &Snapshot, revision: Revision) -> Result<Snapshot, StoreError> {
        let prefix = scope.cache.prefix();
        let mut range = KeyRange::prefix(prefix.clone());
        let mut entries = Vec::new();
        loop {
            let request = RangeRequest {
                range: range.clone(),
                revision: Some(revision),
                limit: 5_000,
                keys_only: false,
                count_only: false,
            };
            let page = self.store.range(request).await?;
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                entries.push(match now.get(&kv.key) {
                    Some(entry) if entry.revision() == kv.mod_revision => Arc::clone(entry),
                    _ => Arc::new(Entry::new(
                        kv.key,
                        prefix.len(),
                        kv.mod_revision,
                        kv.value,
                        Arc::clone(scope.cache.ledger()),
                    )),
                });
            }
            match last {
                Some(last) if page.more => range.start = [&last[..], b"\0"].concat().into(),
                _ => return Ok(Snapshot::of(entries, revision)),
            }
        }
    }

    /// Lists and answers.
    pub(super) async fn list(
        &self,
        scope: &Scope,
        namespace: &str,
        options: &ListOptions,
        answer: ListAnswer,
        in_process: bool,
    ) -> Result<Response<Body>, ApiError> {
        let selection = Selection::parse(scope, &options.label_selector, &options.field_selector)?;
        let page = self.list_page(scope, namespace, options, &selection).await?;
        if let Some(conversion) = scope.cache.codec().asking(scope.slot) {
            convert_at_once(scope, &page, &**conversion).await?;
        }
        if in_process && answer.accepted.shape == Shape::Whole {
            return in_process_list(scope, page);
        }
        list_answer(scope, page, answer).await
    }
}

/// 410 with the token that goes on without promises (`handleCompactedErrorForPaging`, etcd3/errors.go).
fn expired_continue(prefix: &[u8], start: &[u8]) -> ApiError {
    let last = start.strip_suffix(b"\0").unwrap_or(start);
    let expired = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    let error = ApiError::expired(expired);
    match Continue::encode(-1, prefix, last) {
        Some(token) => error.with_continue(token),
        None => error,
    }
}

/// Items that have to be converted by asking somebody are converted together.
async fn convert_at_once(scope: &Scope, page: &Page, conversion: &dyn Conversion) -> Result<(), ApiError> {
    let codec = scope.cache.codec();
    let missing = page.entries.iter().filter(|entry| entry.kept_encoding(scope.slot, Media::Json).is_none());
    let trees =
        missing.map(|entry| entry.tree_once(codec).map(|tree| Value::clone(&tree))).collect::<Result<_, _>>()?;
    conversion.expect_served(trees).await
}

fn in_process_list(scope: &Scope, page: Page) -> Result<Response<Body>, ApiError> {
    let codec = scope.cache.codec();
    let items = page.entries.iter().map(|entry| entry.object(codec, scope.slot)).collect::<Result<_, _>>()?;
    let mut answer = respond::answer(StatusCode::OK, Format::Json, Body::Empty);
    answer.extensions_mut().insert(InProcessList {
        items,
        resource_version: page.meta.revision.to_string(),
        continue_token: page.meta.continue_token,
    });
    Ok(answer)
}

/// Answers with a page of entries.
pub(super) async fn list_answer(scope: &Scope, page: Page, answer: ListAnswer) -> Result<Response<Body>, ApiError> {
    let Accepted { format, shape, pretty } = answer.accepted;
    let stored: usize = page.entries.iter().map(|entry| entry.stored().len()).sum();
    let body = match (shape, format) {
        (Shape::Table, _) => {
            let mut table = table::Writer::new(scope, answer.table_options, true);
            for entry in &page.entries {
                table.push(entry)?;
            }
            ListBody::bytes(respond::text_as(table.finish(&page.meta), format)?)
        }
        (Shape::Metadata, Format::Protobuf) => {
            let mut items: Vec<Vec<u8>> = Vec::with_capacity(page.entries.len());
            for entry in &page.entries {
                let metadata = respond::metadata_message(scope, entry).await?;
                let mut item = Vec::with_capacity(metadata.len() + 8);
                protobuf::put_bytes(&mut item, 1, &metadata);
                items.push(item);
            }
            let lengths = items.iter().map(Vec::len);
            let meta = page.meta.tree();
            let mut list = protobuf::list_head("meta.k8s.io/v1", "PartialObjectMetadataList", &meta, lengths);
            items.iter().for_each(|item| protobuf::put_bytes(&mut list, 2, item));
            list.extend_from_slice(protobuf::list_tail());
            ListBody::bytes(list.into())
        }
        (_, Format::Protobuf) => protobuf_list(scope, page).await?,
        (_, Format::Json | Format::Yaml) => {
            let metadata = shape == Shape::Metadata;
            let head = if metadata {
                json_head("PartialObjectMetadataList", "meta.k8s.io/v1", &page.meta)
            } else if scope.is_builtin() {
                json_head(&scope.resource.list_kind, &scope.version().group_version.to_string(), &page.meta)
            } else {
                format!("{{\"apiVersion\":\"{}\",\"items\":[", scope.version().group_version).into_bytes()
            };
            let tail = if metadata || scope.is_builtin() { b"]}\n".to_vec() } else { custom_tail(scope, &page.meta) };
            let item = match (metadata, scope.is_builtin()) {
                (true, _) => Item::Metadata,
                (false, true) => Item::Body,
                (false, false) => Item::Whole,
            };
            let body = json_list(scope, page.entries, stored, head, tail, item).await?;
            match (format, pretty) {
                (Format::Yaml, _) => ListBody::bytes(respond::text_as(body.collect(), Format::Yaml)?),
                (_, true) => ListBody::bytes(respond::indent(&body.collect())),
                _ => body,
            }
        }
    };
    let length = body.length();
    let compress = answer.gzip && length.is_none_or(|length| length > GZIP_THRESHOLD);
    let body = if compress { Body::stream(body.compressed()) } else { body.into_body() };
    let mut response = respond::answer(StatusCode::OK, format, body);
    if compress {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    Ok(response)
}

fn json_head(kind: &str, api_version: &str, meta: &ListMeta) -> Vec<u8> {
    let mut out = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":").into_bytes();
    meta.write_json(&mut out);
    out.extend_from_slice(b",\"items\":[");
    out
}

/// What follows the items of an unstructured list, whose keys are sorted.
fn custom_tail(scope: &Scope, meta: &ListMeta) -> Vec<u8> {
    let remaining = meta.remaining.map(|count| format!("\"remainingItemCount\":{count},")).unwrap_or_default();
    format!(
        "],\"kind\":\"{}\",\"metadata\":{{\"continue\":\"{}\",{remaining}\"resourceVersion\":\"{}\"}}}}\n",
        scope.resource.list_kind, meta.continue_token, meta.revision
    )
    .into_bytes()
}

async fn encodings(scope: &Scope, entries: &[Arc<Entry>], media: Media) -> Result<Vec<Arc<Encoding>>, ApiError> {
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        all.push(entry.encoding(scope.cache.codec(), scope.slot, media).await?);
    }
    Ok(all)
}

/// A protobuf list. Its envelope says how long it is, so all encodings are there before it begins.
async fn protobuf_list(scope: &Scope, page: Page) -> Result<ListBody, ApiError> {
    let items = encodings(scope, &page.entries, Media::Protobuf).await?;
    let api_version = scope.version().group_version.to_string();
    let lengths = || items.iter().map(|item| (item.parts.end - item.parts.body) as usize);
    let size: usize = lengths().map(protobuf::field_len).sum();
    let head = protobuf::list_head(&api_version, &scope.resource.list_kind, &page.meta.tree(), lengths());
    let tail = protobuf::list_tail().to_vec();
    let length = head.len() + size + tail.len();
    Ok(ListBody {
        head: Some(head),
        items: Items::Ready(items.into_iter()),
        tail: Some(tail),
        item: Item::Field,
        first: true,
        length: Some(length),
    })
}

async fn json_list(
    scope: &Scope,
    entries: Vec<Arc<Entry>>,
    stored: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    item: Item,
) -> Result<ListBody, ApiError> {
    if stored > EAGER_BYTES {
        let items = Items::Lazy(entries.into_iter(), Arc::clone(&scope.cache), scope.slot);
        return Ok(ListBody { head: Some(head), items, tail: Some(tail), item, first: true, length: None });
    }
    let items = encodings(scope, &entries, Media::Json).await?;
    let commas = items.len().saturating_sub(1);
    let length = head.len() + tail.len() + commas + items.iter().map(|encoding| item.length(encoding)).sum::<usize>();
    Ok(ListBody {
        head: Some(head),
        items: Items::Ready(items.into_iter()),
        tail: Some(tail),
        item,
        first: true,
        length: Some(length),
    })
}

/// Which part of an encoding an item is.
#[derive(Clone, Copy)]
enum Item {
    /// JSON without type meta.
    Body,
    /// JSON as it is.
    Whole,
    /// `PartialObjectMetadata` in JSON.
    Metadata,
    /// Field 2 of a protobuf list.
    Field,
}

impl Item {
    fn length(self, encoding: &Encoding) -> usize {
        let parts = encoding.parts;
        match self {
            Self::Body => (parts.end - parts.body) as usize + 1,
            Self::Whole => parts.end as usize,
            Self::Metadata => respond::PARTIAL_HEAD.len() + (parts.metadata.1 - parts.metadata.0) as usize + 1,
            Self::Field => protobuf::field_len((parts.end - parts.body) as usize),
        }
    }
    fn write(self, encoding: &Encoding, out: &mut Vec<u8>) {
        let parts = encoding.parts;
        match self {
            Self::Body => {
                out.push(b'{');
                out.extend_from_slice(encoding.slice((parts.body, parts.end)));
            }
            Self::Whole => out.extend_from_slice(encoding.object()),
            Self::Metadata => respond::partial_json(encoding, out),
            Self::Field => protobuf::put_bytes(out, 2, encoding.slice((parts.body, parts.end))),
        }
    }
}

enum Items {
    Ready(std::vec::IntoIter<Arc<Encoding>>),
    Lazy(std::vec::IntoIter<Arc<Entry>>, Arc<Cache>, u8),
}

/// A list on its way out, one frame at a time.
struct ListBody {
    head: Option<Vec<u8>>,
    items: Items,
    tail: Option<Vec<u8>>,
    item: Item,
    first: bool,
    length: Option<usize>,
}

impl ListBody {
    /// A body that is there already.
    fn bytes(bytes: Bytes) -> Self {
        let length = Some(bytes.len());
        Self {
            head: Some(bytes.into()),
            items: Items::Ready(Vec::new().into_iter()),
            tail: None,
            item: Item::Whole,
            first: true,
            length,
        }
    }
    fn length(&self) -> Option<usize> {
        self.length
    }
    /// All of it at once, for conversions of the text.
    fn collect(mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Some(frame)) = self.next_frame() {
            all.extend_from_slice(&frame);
        }
        all
    }
    fn into_body(mut self) -> Body {
        match self.length {
            Some(length) if length <= FRAME => match self.next_frame() {
                Ok(Some(frame)) => Body::Full(frame.into()),
                _ => Body::Empty,
            },
            _ => Body::stream(self),
        }
    }
    fn compressed(self) -> Compressed {
        Compressed { body: self, encoder: Some(GzEncoder::new(Vec::with_capacity(FRAME), Compression::fast())) }
    }

    fn next_item(&mut self) -> Result<Option<Arc<Encoding>>, ApiError> {
        match &mut self.items {
            Items::Ready(items) => Ok(items.next()),
            Items::Lazy(entries, cache, slot) => {
                entries.next().map(|entry| entry.encoding_now(cache.codec(), *slot, Media::Json)).transpose()
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let Some(tail) = self.tail.as_ref().map(Vec::len) else { return Ok(self.head.take()) };
        let mut frame = Vec::with_capacity(self.length.unwrap_or(FRAME).min(FRAME) + tail + SPARE);
        if let Some(head) = self.head.take() {
            frame.extend_from_slice(&head);
        }
        while frame.len() < FRAME {
            match self.next_item()? {
                Some(encoding) => {
                    if !std::mem::take(&mut self.first) && !matches!(self.item, Item::Field) {
                        frame.push(b',');
                    }
                    self.item.write(&encoding, &mut frame);
                }
                None => {
                    frame.extend(self.tail.take().unwrap_or_default());
                    break;
                }
            }
        }
        Ok(Some(frame))
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = ApiError;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        Poll::Ready(self.next_frame().transpose().map(|frame| frame.map(|bytes| Frame::data(bytes.into()))))
    }
    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.tail.is_none()
    }
}

/// The same, compressed at level 1 as upstream does.
struct Compressed {
    body: ListBody,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        loop {
            let Some(encoder) = this.encoder.as_mut() else { return Poll::Ready(None) };
            let frame = match this.body.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let done = this.encoder.take().expect("just looked").finish();
                    return Poll::Ready(Some(done.map(|bytes| Frame::data(bytes.into()))));
                }
                Err(error) => return Poll::Ready(Some(Err(std::io::Error::other(error)))),
            };
            if let Err(error) = encoder.write_all(&frame) {
                return Poll::Ready(Some(Err(error)));
            }
            if !encoder.get_ref().is_empty() {
                let bytes = std::mem::take(encoder.get_mut());
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
    }
}
