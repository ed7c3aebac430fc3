//! Changes as they happen: a cursor into the kind's ring, filtered and framed for one client.
//!
//! Mirrors `Cacher.Watch` and `watchHandler` in what clients see. A watcher that the ring passes ends with 410; one whose
//! kind is redefined, or whose time is up, ends cleanly and is resumed by revision. A bookmark at R is sent only when
//! everything up to R was delivered.

use super::cache::{CacheEvent, Cursor, Encoding, Entry, FrameOf, Media, Slot};
use super::get::parse_revision;
use super::negotiate::{Accepted, Format, Shape};
use super::respond::{self, Scope};
use super::select::Selection;
use super::table::{self, ListMeta, TableOptions};
use super::{Registry, wire};
use crate::answer;
use crate::request::options::ListOptions;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_machinery::codec::{json, protobuf};
use skiff_machinery::object::{Change, ChangeKind, ChangeSource, InProcessWatch, Object};
use skiff_machinery::schema::{StructRef, Type, builtin};
use skiff_machinery::{ApiError, Map, Value};
use skiff_net::Body;
use skiff_store::Revision;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Events read from the ring at once; they leave in one frame.
const BATCH: usize = 128;

/// How often a watcher hears how far it is (`bookmarkFrequency`).
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Watchers in this process that are woken again and again read what so long a time brings at once: a thread is woken
/// for that and not for every change. The first change after a pause is told without delay.
const GATHER: Duration = Duration::from_millis(4);

/// The annotation on the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Watches without `timeoutSeconds` end after a time between this and its double (`--min-request-timeout`).
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);

/// One thing that a watcher is told.
enum Told {
    Change { kind: ChangeKind, entry: Arc<Entry>, revision: Revision },
    Bookmark { revision: Revision, initial_end: bool },
    Error(ApiError),
}

enum Phase {
    /// The state at the start, then its bookmark when asked for.
    Initial {
        entries: std::vec::IntoIter<Arc<Entry>>,
        revision: Revision,
        bookmark: bool,
    },
    Following,
    Over,
}

/// How often a watcher in this process was woken of late.
struct Pace {
    /// When it was last.
    woken: Instant,
    /// The time before was not long ago.
    busy: bool,
    /// It let time pass, and has read nothing since.
    waited: bool,
}

/// One client's watch.
struct Watcher {
    registry: Arc<Registry>,
    scope: Scope,
    selection: Selection,
    prefix: Bytes,
    cursor: Cursor,
    phase: Phase,
    /// Nothing up to this revision is told.
    after: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    bookmarked: Revision,
    deadline: Instant,
    events: Vec<Arc<CacheEvent>>,
    /// Of a watcher in this process.
    pace: Option<Pace>,
    ends: Ends,
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;
type Timer = (Instant, Sleep);

/// What ends a watcher's rest beside an event. Kept from one event to the next: to be entered into these lists anew for
/// each of them would cost more than the event.
struct Ends {
    /// When it wakes by itself.
    timer: Option<Timer>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The timer, set to `until`.
fn set<'t>(timer: &'t mut Option<Timer>, clock: &SharedClock, until: Instant) -> &'t mut Sleep {
    if timer.as_ref().is_some_and(|(set, _)| *set != until) {
        *timer = None;
    }
    &mut timer.get_or_insert_with(|| (until, clock.sleep_until(until))).1
}

impl Registry {
    /// Starts a watch. Failures after the parameters were understood are told in the stream, as upstream does.
    pub(super) async fn watch(
        self: &Arc<Self>,
        scope: &Scope,
        namespace: &str,
        options: &ListOptions,
        accepted: Accepted,
        table_options: TableOptions,
        in_process: bool,
    ) -> Result<Response<Body>, ApiError> {
        let selection = Selection::parse(scope, &options.label_selector, &options.field_selector)?;
        let revision = parse_revision(&options.resource_version)?;
        let timeout = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            _ => MIN_TIMEOUT + jitter(MIN_TIMEOUT),
        };
        let watcher = self.watcher(scope, namespace, options, selection, revision, timeout).await;
        if in_process && accepted.shape == Shape::Whole {
            return in_process_watch(watcher);
        }
        let framer = Framer { scope: scope.clone(), accepted, table_options, columns_sent: false };
        let body = match watcher {
            Ok(watcher) => Body::stream(StreamBody(Mutex::new(Box::pin(frames(watcher, framer))))),
            Err(error) => {
                let mut out = Vec::new();
                framer.error(&error, &mut out);
                Body::Full(out.into())
            }
        };
        let mut answer = respond::answer(StatusCode::OK, accepted.format, body);
        if accepted.format == Format::Protobuf {
            let kind = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(answer)
    }

    async fn watcher(
        self: &Arc<Self>,
        scope: &Scope,
        namespace: &str,
        options: &ListOptions,
        selection: Selection,
        revision: Option<Revision>,
        timeout: Duration,
    ) -> Result<Watcher, ApiError> {
        let prefix = scope.key_prefix(namespace);
        let initial = match options.send_initial_events {
            Some(wanted) => wanted,
            // Without a revision, or with 0, a watch begins with what is there.
            None => matches!(revision, None | Some(0)),
        };
        let (phase, cursor, after) = match revision {
            Some(start) if start > 0 && !initial => {
                let lagged =
                    |oldest: Revision| ApiError::expired(format!("too old resource version: {start} ({oldest})"));
                if start < self.horizon() {
                    return Err(lagged(self.horizon()));
                }
                let cursor = scope.cache.watch_from(start).map_err(|behind| lagged(behind.oldest))?;
                (Phase::Following, cursor, start)
            }
            _ => {
                match revision {
                    None => {
                        self.barrier().await?;
                    }
                    Some(minimum) => self.wait_not_older(minimum).await?,
                }
                let (snapshot, cursor) = scope.cache.snapshot_and_watch(self.feed.applied());
                let after = snapshot.revision;
                let phase = if initial {
                    let codec = scope.cache.codec();
                    let mut entries = Vec::new();
                    for entry in snapshot.range(&prefix, &prefix) {
                        if selection.matches(entry, codec)? {
                            entries.push(Arc::clone(entry));
                        }
                    }
                    // Only who takes bookmarks is told where the beginning ends.
                    let bookmark = options.send_initial_events == Some(true) && options.allow_watch_bookmarks;
                    Phase::Initial { entries: entries.into_iter(), revision: after, bookmark }
                } else {
                    Phase::Following
                };
                (phase, cursor, after)
            }
        };
        let now = self.clock.now();
        let ends = Ends {
            timer: None,
            closed: Box::pin(scope.cache.closed().clone().cancelled_owned()),
            over: Box::pin(self.supervisor.token().clone().cancelled_owned()),
        };
        Ok(Watcher {
            registry: Arc::clone(self),
            scope: scope.clone(),
            selection,
            prefix,
            cursor,
            phase,
            after,
            bookmarks: options.allow_watch_bookmarks,
            next_bookmark: now + BOOKMARK_INTERVAL - jitter(BOOKMARK_INTERVAL / 4),
            bookmarked: after,
            deadline: now + timeout,
            events: Vec::new(),
            pace: None,
            ends,
        })
    }
}

/// A random part of `most`, so that clients that came together do not come back together.
fn jitter(most: Duration) -> Duration {
    let mut random = [0u8; 4];
    match getrandom::fill(&mut random) {
        Ok(()) => most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)),
        Err(_) => most / 2,
    }
}

impl Watcher {
    /// What is to be told next; `None` when the watch is over.
    async fn next(&mut self) -> Option<Vec<Told>> {
        loop {
            match &mut self.phase {
                Phase::Over => return None,
                Phase::Initial { entries, revision, bookmark } => {
                    let mut told: Vec<Told> = entries
                        .by_ref()
                        .take(BATCH)
                        .map(|entry| Told::Change { kind: ChangeKind::Added, revision: entry.revision(), entry })
                        .collect();
                    if entries.len() == 0 {
                        if *bookmark {
                            told.push(Told::Bookmark { revision: *revision, initial_end: true });
                        }
                        self.phase = Phase::Following;
                    }
                    if !told.is_empty() {
                        return Some(told);
                    }
                }
                Phase::Following => match self.follow().await {
                    Ok(told) if told.is_empty() => {}
                    Ok(told) => return Some(told),
                    Err(None) => {
                        self.phase = Phase::Over;
                        return None;
                    }
                    Err(Some(error)) => {
                        self.phase = Phase::Over;
                        return Some(vec![Told::Error(error)]);
                    }
                },
            }
        }
    }

    /// `Err(None)`: over, cleanly.
    async fn follow(&mut self) -> Result<Vec<Told>, Option<ApiError>> {
        // Read before the ring is: what it promises is then in the ring.
        let applied = self.registry.feed.applied();
        self.events.clear();
        let cache = &self.scope.cache;
        let mut events = std::mem::take(&mut self.events);
        if let Err(lagged) = cache.read_events(&mut self.cursor, BATCH, &mut events) {
            let text = format!("too old resource version: {} ({})", self.after, lagged.oldest);
            return Err(Some(ApiError::expired(text)));
        }
        let mut told = Vec::new();
        for event in &events {
            if event.revision > self.after {
                self.after = event.revision;
                if let Some(change) = self.judge(event).map_err(Some)? {
                    told.push(change);
                }
            }
        }
        let drained = events.len() < BATCH;
        if let Some(pace) = &mut self.pace
            && !events.is_empty()
        {
            pace.waited = false;
        }
        self.events = events;
        if !told.is_empty() || !drained {
            return Ok(told);
        }
        let clock = Arc::clone(&self.registry.clock);
        let now = clock.now();
        if now >= self.deadline {
            return Err(None);
        }
        if self.bookmarks && now >= self.next_bookmark {
            self.next_bookmark = now + BOOKMARK_INTERVAL;
            let revision = applied.max(self.after);
            if revision > self.bookmarked {
                self.bookmarked = revision;
                return Ok(vec![Told::Bookmark { revision, initial_end: false }]);
            }
        }
        let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        let gathers = self.gathers(now);
        let Ends { timer, closed, over } = &mut self.ends;
        let timer = set(timer, &clock, gathers.unwrap_or(wake));
        let woken = tokio::select! {
            // Most often it is an event: the others are not looked at then.
            biased;
            () = self.cursor.ready(), if gathers.is_none() => true,
            () = timer => false,
            () = closed => return Err(None),
            () = over => return Err(None),
        };
        if !woken {
            self.ends.timer = None;
        }
        if let Some(pace) = &mut self.pace {
            let now = clock.now();
            pace.busy = if woken { now.saturating_duration_since(pace.woken) < GATHER } else { gathers.is_some() };
            pace.waited = !woken;
            pace.woken = now;
        }
        Ok(Vec::new())
    }

    /// Until when a busy watcher in this process lets changes gather.
    fn gathers(&self, now: Instant) -> Option<Instant> {
        let pace = self.pace.as_ref().filter(|pace| pace.busy && !pace.waited)?;
        Some(pace.woken + GATHER).filter(|until| *until > now)
    }

    /// What an event means to this watcher: an object that leaves the selection is deleted, one that enters is added.
    fn judge(&self, event: &CacheEvent) -> Result<Option<Told>, ApiError> {
        if !event.entry.key().starts_with(&self.prefix) {
            return Ok(None);
        }
        let codec = self.scope.cache.codec();
        let change =
            |kind, entry: &Arc<Entry>| Some(Told::Change { kind, entry: Arc::clone(entry), revision: event.revision });
        if self.selection.is_everything() {
            let kind = match (event.deleted, &event.previous) {
                (true, _) => ChangeKind::Deleted,
                (false, None) => ChangeKind::Added,
                (false, Some(_)) => ChangeKind::Modified,
            };
            return Ok(change(kind, &event.entry));
        }
        let now = self.selection.matches(&event.entry, codec)?;
        if event.deleted {
            return Ok(if now { change(ChangeKind::Deleted, &event.entry) } else { None });
        }
        let before = match &event.previous {
            Some(previous) if self.selection.matches(previous, codec)? => Some(previous),
            _ => None,
        };
        Ok(match (now, before) {
            (true, None) => change(ChangeKind::Added, &event.entry),
            (true, Some(_)) => change(ChangeKind::Modified, &event.entry),
            (false, Some(previous)) => change(ChangeKind::Deleted, previous),
            (false, None) => None,
        })
    }
}

/// Turns what is told into bytes.
struct Framer {
    scope: Scope,
    accepted: Accepted,
    table_options: TableOptions,
    columns_sent: bool,
}

impl Framer {
    /// What is told, as bytes. What has been framed before an error is in `out`.
    async fn frame(&mut self, told: &[Told], out: &mut Vec<u8>) -> Result<Bytes, ApiError> {
        // Whoever has kept up is told of one change, the same as everybody else.
        if let [Told::Change { kind, entry, revision }] = told
            && self.accepted.shape == Shape::Whole
        {
            let media = respond::media(self.accepted.format);
            let (entry, slot) = (Arc::clone(entry), self.scope.slot);
            let of = FrameOf { entry, revision: *revision, kind: *kind, slot, media };
            if let Some(frame) = self.scope.cache.frame(&of) {
                return Ok(frame);
            }
            self.write(&told[0], out).await?;
            let frame = Bytes::from(std::mem::take(out));
            self.scope.cache.share_frame(of, frame.clone());
            return Ok(frame);
        }
        out.reserve(2048);
        for one in told {
            self.write(one, out).await?;
        }
        Ok(std::mem::take(out).into())
    }

    async fn write(&mut self, told: &Told, out: &mut Vec<u8>) -> Result<(), ApiError> {
        match told {
            Told::Error(error) => self.error(error, out),
            Told::Change { kind, entry, revision } => self.change(*kind, entry, *revision, out).await?,
            Told::Bookmark { revision, initial_end } => {
                let encoding = self.bookmark(*revision, *initial_end)?;
                let media = respond::media(self.accepted.format);
                match (self.accepted.shape, media) {
                    (Shape::Table, _) => {
                        let writer = table::Writer::new(&self.scope, self.table_options, false);
                        let table = writer.finish(&ListMeta { revision: *revision, ..ListMeta::default() });
                        json_frame("BOOKMARK", &table[..table.len() - 1], out);
                    }
                    (Shape::Metadata, Media::Json) => {
                        let mut object = Vec::new();
                        respond::partial_json(&encoding, &mut object);
                        json_frame("BOOKMARK", &object, out);
                    }
                    (Shape::Metadata, Media::Protobuf) => protobuf_frame("BOOKMARK", &partial_message(&encoding), out),
                    (Shape::Whole, Media::Json) => json_frame("BOOKMARK", encoding.object(), out),
                    (Shape::Whole, Media::Protobuf) => protobuf_frame("BOOKMARK", encoding.object(), out),
                }
            }
        }
        Ok(())
    }

    /// An otherwise empty object of the kind.
    fn bookmark(&self, revision: Revision, initial_end: bool) -> Result<Encoding, ApiError> {
        let tree = bookmark_tree(&self.scope, revision, initial_end);
        let media = respond::media(self.accepted.format);
        if media == Media::Protobuf && !self.scope.is_builtin() {
            let partial = builtin::by_kind("meta.k8s.io", "v1", "PartialObjectMetadata")
                .map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)));
            return super::cache::encode_tree(&tree, &partial, media);
        }
        super::cache::encode_tree(&tree, &self.scope.version().schema, media)
    }

    async fn change(
        &mut self,
        kind: ChangeKind,
        entry: &Entry,
        revision: Revision,
        out: &mut Vec<u8>,
    ) -> Result<(), ApiError> {
        let codec = self.scope.cache.codec();
        let name = kind.as_str();
        let media = respond::media(self.accepted.format);
        // A deleted object is its last state under the revision of the deletion.
        let moved = revision != entry.revision();
        match (self.accepted.shape, media) {
            (Shape::Table, _) => {
                let mut writer = table::Writer::new(&self.scope, self.table_options, !self.columns_sent);
                self.columns_sent = true;
                writer.push(entry)?;
                let table = writer.finish(&ListMeta { revision, ..ListMeta::default() });
                json_frame(name, &table[..table.len() - 1], out);
            }
            (Shape::Metadata, Media::Protobuf) => {
                let metadata = respond::metadata_message(&self.scope, entry).await?;
                let metadata = if moved { wire::with_revision(&metadata, revision) } else { metadata.to_vec() };
                let mut message = Vec::new();
                protobuf::put_bytes(&mut message, 1, &metadata);
                protobuf_frame(name, &protobuf::seal("meta.k8s.io/v1", "PartialObjectMetadata", &message), out);
            }
            (shape, Media::Json) => {
                let encoding = entry.encoding(codec, self.scope.slot, Media::Json).await?;
                out.extend_from_slice(b"{\"type\":\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\",\"object\":");
                let parts = encoding.parts;
                let (start, end) = if shape == Shape::Metadata {
                    out.extend_from_slice(respond::PARTIAL_HEAD);
                    parts.metadata
                } else {
                    (0, parts.end)
                };
                if moved {
                    out.extend_from_slice(encoding.slice((start, parts.resource_version.0)));
                    out.extend_from_slice(itoa::Buffer::new().format(revision).as_bytes());
                    out.extend_from_slice(encoding.slice((parts.resource_version.1, end)));
                } else {
                    out.extend_from_slice(encoding.slice((start, end)));
                }
                out.extend_from_slice(if shape == Shape::Metadata { b"}}\n" } else { b"}\n" });
            }
            (Shape::Whole, Media::Protobuf) => {
                let encoding = entry.encoding(codec, self.scope.slot, Media::Protobuf).await?;
                if moved {
                    let object = wire::envelope_with_revision(&encoding, revision)
                        .ok_or_else(|| ApiError::internal("an encoding lost its envelope"))?;
                    protobuf_frame(name, &object, out);
                } else {
                    protobuf_frame(name, encoding.object(), out);
                }
            }
        }
        Ok(())
    }

    fn error(&self, error: &ApiError, out: &mut Vec<u8>) {
        match self.accepted.format {
            Format::Protobuf => protobuf_frame("ERROR", &answer::status_protobuf(error), out),
            _ => {
                let status = answer::status_json(error);
                json_frame("ERROR", status.strip_suffix(b"\n").unwrap_or(&status), out);
            }
        }
    }
}

fn bookmark_tree(scope: &Scope, revision: Revision, initial_end: bool) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion", revision.to_string());
    if initial_end {
        metadata.object_mut("annotations").insert(INITIAL_EVENTS_END, "true");
    }
    let mut tree = Map::new();
    tree.insert("kind", scope.resource.kind.as_str());
    tree.insert("apiVersion", scope.version().group_version.to_string());
    tree.insert("metadata", metadata);
    Value::Object(tree)
}

fn partial_message(encoding: &Encoding) -> Vec<u8> {
    let mut message = Vec::new();
    protobuf::put_bytes(&mut message, 1, encoding.slice(encoding.parts.metadata));
    protobuf::seal("meta.k8s.io/v1", "PartialObjectMetadata", &message)
}

fn json_frame(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":");
    json::write_string(out, kind);
    out.extend_from_slice(b",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// Four bytes of length, then a bare `WatchEvent` whose object stands in an envelope.
fn protobuf_frame(kind: &str, object: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&protobuf::watch_event_head(kind, object.len()));
    out.extend_from_slice(object);
}

type FrameStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

fn frames(watcher: Watcher, framer: Framer) -> impl Stream<Item = Bytes> {
    stream::unfold(Some((watcher, framer)), |state| async move {
        let (mut watcher, mut framer) = state?;
        let told = watcher.next().await?;
        let mut out = Vec::new();
        match framer.frame(&told, &mut out).await {
            Ok(frame) => Some((frame, Some((watcher, framer)))),
            Err(error) => {
                framer.error(&error, &mut out);
                Some((out.into(), None))
            }
        }
    })
}

/// A stream of frames as a body. The lock is never contended: it makes the stream shareable, as bodies have to be.
struct StreamBody(Mutex<FrameStream>);

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = self.0.get_mut().as_mut().poll_next(context);
        next.map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The same for consumers in this process: objects, not bytes.
struct InProcessSource {
    changes: Pin<Box<dyn Stream<Item = Result<Change, ApiError>> + Send>>,
}

impl ChangeSource for InProcessSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Change, ApiError>>> {
        self.changes.as_mut().poll_next(context)
    }
}

fn in_process_watch(watcher: Result<Watcher, ApiError>) -> Result<Response<Body>, ApiError> {
    let changes: Pin<Box<dyn Stream<Item = Result<Change, ApiError>> + Send>> = match watcher {
        Err(error) => Box::pin(stream::once(std::future::ready(Err(error)))),
        Ok(mut watcher) => {
            let woken = watcher.registry.clock.now();
            watcher.pace = Some(Pace { woken, busy: false, waited: false });
            Box::pin(changes(watcher))
        }
    };
    let source: Box<dyn ChangeSource> = Box::new(InProcessSource { changes });
    let mut answer = respond::answer(StatusCode::OK, Format::Json, Body::Empty);
    answer.extensions_mut().insert(InProcessWatch(Arc::new(std::sync::Mutex::new(Some(source)))));
    Ok(answer)
}

fn changes(watcher: Watcher) -> impl Stream<Item = Result<Change, ApiError>> {
    stream::unfold((watcher, Vec::<Told>::new().into_iter()), |(mut watcher, mut told)| async move {
        loop {
            if let Some(one) = told.next() {
                return Some((shared_change(&watcher.scope, one), (watcher, told)));
            }
            told = watcher.next().await?.into_iter();
        }
    })
}

fn shared_change(scope: &Scope, told: Told) -> Result<Change, ApiError> {
    match told {
        Told::Error(error) => Err(error),
        Told::Bookmark { revision, initial_end } => {
            let object = Object::new(Arc::new(bookmark_tree(scope, revision, initial_end)));
            Ok(Change { kind: ChangeKind::Bookmark, object: Arc::new(object) })
        }
        Told::Change { kind, entry, revision } => {
            let object = shared_object(scope, scope.slot, &entry, revision)?;
            Ok(Change { kind, object })
        }
    }
}

fn shared_object(scope: &Scope, slot: Slot, entry: &Entry, revision: Revision) -> Result<Arc<Object>, ApiError> {
    let object = entry.object(scope.cache.codec(), slot)?;
    if revision == entry.revision() {
        return Ok(object);
    }
    let mut tree = Value::clone(object.tree());
    if let Some(map) = tree.as_object_mut() {
        map.object_mut("metadata").insert("resourceVersion", revision.to_string());
    }
    Ok(Arc::new(Object::new(Arc::new(tree))))
}
