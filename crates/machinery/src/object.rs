//! A shared, immutable object, and a stream of changes to such objects: what crosses from the watch cache to informers
//! when both live in one process, and what the client makes of frames when they do not.
//!
//! An [`Object`] remembers what consumers made of it ([`Object::projection`]), so in one process an event is projected
//! once per type, however many informers see it.

use crate::error::ApiError;
use crate::value::Value;
use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// An object at one revision.
pub struct Object {
    tree: Arc<Value>,
    projections: Mutex<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
}

impl Object {
    /// From its tree, which holds `metadata.resourceVersion`, `apiVersion` and `kind`.
    pub fn new(tree: Arc<Value>) -> Self {
        Self { tree, projections: Mutex::new(Vec::new()) }
    }
    /// The tree.
    pub fn tree(&self) -> &Arc<Value> {
        &self.tree
    }
    /// What `make` makes of the tree; made at most once per type `T` for this object, except in a race, where one of
    /// the results is kept. A failure is not remembered.
    pub fn projection<T, E>(&self, make: impl FnOnce(&Arc<Value>) -> Result<T, E>) -> Result<Arc<T>, E>
    where
        T: Send + Sync + 'static,
    {
        if let Some(found) = self.find::<T>() {
            return Ok(found);
        }
        let made = Arc::new(make(&self.tree)?);
        let mut projections = self.projections.lock().unwrap_or_else(PoisonError::into_inner);
        projections.push((TypeId::of::<T>(), Arc::clone(&made) as Arc<dyn Any + Send + Sync>));
        Ok(made)
    }
    fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let projections = self.projections.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = projections.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        Arc::clone(found).downcast().ok()
    }
}

/// `type` of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are upstream's constants")]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl ChangeKind {
    /// The text in a watch frame.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// One change that a watch delivers.
#[derive(Clone)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The object after it; for a delete, the last state with the revision of the deletion.
    pub object: Arc<Object>,
}

/// A watch's changes in order. `Ready(None)`: the server ended the watch and it can be resumed. `Err`: an `ERROR` frame
/// (410 when it cannot be resumed), after which nothing follows. Dropping it ends the watch.
pub trait ChangeSource: Send {
    /// The next change.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Change, ApiError>>>;
}

/// An in-process answer to a watch, put into the response's extensions by the server instead of a body. Taken once.
#[derive(Clone)]
pub struct InProcessWatch(pub Arc<Mutex<Option<Box<dyn ChangeSource>>>>);

/// An in-process answer to a list, put into the response's extensions by the server instead of a body.
#[derive(Clone)]
pub struct InProcessList {
    /// The items.
    pub items: Arc<[Arc<Object>]>,
    /// The list's `metadata.resourceVersion`.
    pub resource_version: String,
    /// The list's `metadata.continue`; empty at the end.
    pub continue_token: String,
}
