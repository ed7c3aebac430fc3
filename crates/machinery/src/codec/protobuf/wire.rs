//! Tags, varints and lengths.

use crate::codec::DecodeError;
use std::ops::Range;

/// Wire type of numbers and flags.
pub(super) const VARINT: u8 = 0;
/// Wire type of eight bytes.
pub const FIXED64: u8 = 1;
/// Wire type of whatever has a length: texts, bytes, messages.
pub(super) const BYTES: u8 = 2;
const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;
pub(super) const FIXED32: u8 = 5;

#[cold]
pub(super) fn failed(text: impl Into<String>) -> DecodeError {
    DecodeError::Protobuf(text.into())
}
/// `io.ErrUnexpectedEOF`.
#[cold]
fn cut_short() -> DecodeError {
    failed("unexpected EOF")
}

/// A message that is read.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or_else(cut_short)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(failed("proto: integer overflow"))
    }
    /// The next field's number and wire type.
    pub(super) fn tag(&mut self) -> Result<(u32, u8), DecodeError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0);
        let number =
            number.ok_or_else(|| failed(format!("proto: illegal tag {} (wire type {})", tag >> 3, tag & 7)))?;
        Ok((number, u8::try_from(tag & 7).expect("three bits")))
    }
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| failed("proto: negative length found during unmarshaling"))?;
        self.take(length)
    }
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(taken)
    }
    pub(super) fn fixed64(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
    }
    /// Passes over a field that the schema does not know. Groups are counted, not recursed into.
    pub(super) fn skip(&mut self, wire: u8) -> Result<(), DecodeError> {
        let mut wire = wire;
        let mut groups = 0u64;
        loop {
            match wire {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                BYTES => drop(self.bytes()?),
                FIXED32 => drop(self.take(4)?),
                START_GROUP => groups += 1,
                END_GROUP if groups == 0 => return Err(failed("proto: unexpected end of group")),
                END_GROUP => groups -= 1,
                other => return Err(failed(format!("proto: illegal wireType {other}"))),
            }
            if groups == 0 {
                return Ok(());
            }
            wire = self.tag()?.1;
        }
    }
}

/// Where the bytes of a message's first field with this number are, if it is one of those that have a length. Nothing is
/// decoded: for whoever splices messages that it has.
pub fn field_range(message: &[u8], number: u32) -> Option<Range<usize>> {
    let mut input = Input::new(message);
    while !input.is_empty() {
        match input.tag().ok()? {
            (found, BYTES) => {
                let bytes = input.bytes().ok()?;
                let end = message.len() - input.rest.len();
                if found == number {
                    return Some(end - bytes.len()..end);
                }
            }
            (_, wire) => input.skip(wire).ok()?,
        }
    }
    None
}

/// Writes a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
/// Writes a field's number and wire type.
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire));
}
/// Writes a field of bytes, text or a message at hand.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
/// Writes a field of a number.
pub fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(out, number, VARINT);
    put_varint(out, value.cast_unsigned());
}
/// Bytes that a field with a number below 16 takes whose value has this length.
pub fn field_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}
/// Bytes that a varint takes.
pub(super) fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes a nested message: one byte is kept for the length, and the body moved up when that is not enough. Almost all
/// messages of an object are shorter than 128 bytes, and only those around them move.
pub(super) fn put_message(out: &mut Vec<u8>, number: u32, body: impl FnOnce(&mut Vec<u8>)) {
    put_tag(out, number, BYTES);
    let start = out.len();
    out.push(0);
    body(out);
    let length = out.len() - start - 1;
    let extra = varint_len(length as u64) - 1;
    if extra > 0 {
        out.resize(out.len() + extra, 0);
        out.copy_within(start + 1..start + 1 + length, start + 1 + extra);
    }
    let mut rest = length as u64;
    for slot in &mut out[start..start + extra] {
        *slot = (rest & 0x7f) as u8 | 0x80;
        rest >>= 7;
    }
    out[start + extra] = rest as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) | 1] {
                let mut out = Vec::new();
                put_varint(&mut out, number);
                assert_eq!(out.len(), varint_len(number), "{number}");
                assert_eq!(Input::new(&out).varint().unwrap(), number);
            }
        }
    }

    #[test]
    fn fields_are_found_unread() {
        let mut message = Vec::new();
        put_int(&mut message, 1, 300);
        put_bytes(&mut message, 2, b"second");
        put_bytes(&mut message, 20, b"twentieth");
        for (number, value) in [(2, "second"), (20, "twentieth")] {
            assert_eq!(&message[field_range(&message, number).unwrap()], value.as_bytes());
        }
        assert_eq!(field_range(&message, 1), None, "a number has no range");
        assert_eq!(field_range(&message, 3), None);
        assert_eq!(field_range(&message[..message.len() - 1], 20), None, "cut short");
        assert_eq!(put_bytes_len("second"), field_len(6));
    }
    fn put_bytes_len(text: &str) -> usize {
        let mut out = Vec::new();
        put_bytes(&mut out, 2, text.as_bytes());
        out.len()
    }

    #[test]
    fn nested_lengths() {
        for size in [0, 1, 127, 128, 129, 16_383, 16_384, 3_000_000] {
            let mut out = Vec::new();
            put_message(&mut out, 3, |out| out.extend((0..size).map(|index: u32| index as u8)));
            let mut input = Input::new(&out);
            assert_eq!(input.tag().unwrap(), (3, BYTES));
            let body = input.bytes().unwrap();
            assert!(input.is_empty());
            assert!(body.iter().zip(0u32..).all(|(byte, index)| *byte == index as u8));
            assert_eq!(body.len(), size as usize);
        }
    }
}
