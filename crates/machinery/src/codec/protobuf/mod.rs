//! Protobuf over the schema, and the envelopes that upstream puts around it.
//!
//! Mirrors what gogo-protobuf generates for upstream (`generated.pb.go`): proto2, fields in ascending order of number, a
//! field that is no pointer in Go always written, maps sorted by key, lists of numbers unpacked. The object itself has no
//! `kind` and `apiVersion` on the wire: they travel in the envelope ([`encode_object`], [`decode_object`]).

mod envelope;
mod read;
mod wire;
mod write;

pub use envelope::{
    Envelope, MAGIC, decode_object, encode_object, is_enveloped, list_head, list_item_head, list_tail, seal,
    watch_event, watch_event_head,
};
pub use read::decode;
pub use wire::{FIXED64, field_len, field_range, put_bytes, put_int, put_tag};
pub use write::{encode, encode_into};
