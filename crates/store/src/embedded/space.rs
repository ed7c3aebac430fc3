//! The thread that keeps room ahead of the log and forgets what fell behind the horizon.
//!
//! A segment is made (space reserved, name durable) before the log needs it, so the commit thread never waits for the
//! file system, and a full disk shows here: writes are then refused, the last part of the current segment is left for
//! deletes, and the next try follows after [`super::Tuning::retry`], by itself, until space is back.

use super::disk;
use super::recover;
use super::shared::Shared;
use crate::StoreError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Revisions forgotten under one hold of the lock.
const FORGET_CHUNK: usize = 256;

/// The thread's life.
pub(crate) fn run(shared: &Shared) {
    const IDLE: Duration = Duration::from_secs(3600);
    let mut wait = Duration::ZERO;
    loop {
        shared.space.wait(wait);
        if shared.is_closing() {
            return;
        }
        wait = if step(shared) { IDLE } else { shared.tuning.retry };
    }
}

/// One round. Whether a segment stands ready.
pub(crate) fn step(shared: &Shared) -> bool {
    forget(shared);
    prepare_ahead(shared)
}

/// Whether a segment stands ready.
pub(crate) fn prepare_ahead(shared: &Shared) -> bool {
    let number = {
        let files = shared.files.lock();
        if !files.prepared.is_empty() {
            return true;
        }
        files.next_number
    };
    match recover::prepare(&*shared.disk, shared.store_id, number, shared.tuning.segment_bytes) {
        Ok(prepared) => {
            {
                let mut files = shared.files.lock();
                files.next_number = number + 1;
                files.prepared.push_back(prepared);
            }
            shared.refresh_room(&mut shared.state.write());
            let broken = shared.no_segment.lock().take().is_some();
            if shared.full.swap(false, Ordering::AcqRel) || broken {
                tracing::info!(disk = shared.disk.describe(), "log segments can be made again: writes go on");
            }
            shared.room_changed.notify_waiters();
            true
        }
        Err(error) => {
            let disk = shared.disk.describe();
            if disk::is_full(&error) {
                if !shared.full.swap(true, Ordering::AcqRel) {
                    tracing::error!(
                        disk,
                        "no space left: writes are refused, reads and deletes go on until space returns"
                    );
                }
            } else {
                let error = StoreError::io(format!("making the next log segment in {disk}"), error);
                let known = shared.no_segment.lock().replace(error.clone()).is_some();
                if !known {
                    tracing::error!(%error, "writes are refused when the current segment is full, until this succeeds");
                }
            }
            shared.room_changed.notify_waiters();
            false
        }
    }
}

fn forget(shared: &Shared) {
    loop {
        let mut state = shared.state.write();
        // Under the state's lock, so that no reader pins an older revision in between.
        let limit = shared.forget_limit();
        let forgotten = shared.hub.write().forget(limit, FORGET_CHUNK);
        for event in forgotten.iter().flat_map(|changes| changes.iter()) {
            state.index.forget(&event.kv.key, event.kv.mod_revision);
        }
        drop(state);
        if forgotten.len() < FORGET_CHUNK {
            return;
        }
    }
}
