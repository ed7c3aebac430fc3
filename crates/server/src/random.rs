//! Random bytes for names and ids, which every write needs: asked of the kernel for many at a time.

use std::cell::RefCell;

const BATCH: usize = 1024;

/// Sixteen random bytes. Not for keys and tokens: what comes next lies in memory.
pub(crate) fn bytes() -> [u8; 16] {
    thread_local! {
        static BYTES: RefCell<(usize, [u8; BATCH])> = const { RefCell::new((BATCH, [0; BATCH])) };
    }
    BYTES.with_borrow_mut(|(used, bytes)| {
        if *used >= BATCH {
            getrandom::fill(bytes).expect("the system gives random numbers");
            *used = 0;
        }
        *used += 16;
        bytes[*used - 16..*used].try_into().expect("16 bytes")
    })
}

/// A random UUID.
pub(crate) fn uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}
