//! Building and reading netlink messages.

use std::net::IpAddr;

/// Bytes of one or more netlink messages, each with the words that describe it in an error.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
    count: usize,
}

/// `NLM_F_REQUEST`.
pub(crate) const NLM_F_REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub(crate) const NLM_F_ACK: u16 = 4;
/// `NLM_F_DUMP` (root and match).
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// `NLA_F_NESTED`.
const NLA_F_NESTED: u16 = 0x8000;
/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

impl Message {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages it holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes as they go to the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends one message: header, the family's fixed part, then what `fill` adds.
    pub fn push(&mut self, kind: u16, flags: u16, seq: u32, fixed: &[u8], fill: impl FnOnce(&mut MessageMut<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        fill(&mut MessageMut { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.count += 1;
    }

    /// Sets flags of the message that starts at `offset` (used to ask for the acknowledgement of a batch's last one).
    pub(crate) fn add_flags(&mut self, offset: usize, flags: u16) {
        if let Some(at) = self.bytes.get_mut(offset + 6..offset + 8) {
            let old = u16::from_ne_bytes([at[0], at[1]]);
            at.copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }

    /// Numbers the messages at `offsets` from `base` on.
    pub(crate) fn set_seqs(&mut self, offsets: &[usize], base: u32) {
        for (offset, seq) in offsets.iter().zip(base..) {
            if let Some(at) = self.bytes.get_mut(offset + 8..offset + 12) {
                at.copy_from_slice(&seq.to_ne_bytes());
            }
        }
    }
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

/// The message being written: attributes are appended in order.
pub struct MessageMut<'a> {
    bytes: &'a mut Vec<u8>,
}

impl MessageMut<'_> {
    /// Raw bytes. A value longer than an attribute can be (64 KiB) is a programming error of ours: callers bound
    /// their values, and set elements are split over messages.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attribute below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// An empty attribute (a flag).
    pub fn flag(&mut self, kind: u16) {
        self.bytes(kind, &[]);
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// Host byte order, as rtnetlink has it.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Network byte order, as netfilter has it.
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Network byte order, as netfilter has it.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Network byte order, as netfilter has it.
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub fn str(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// An address, 4 or 16 bytes.
    pub fn ip(&mut self, kind: u16, value: IpAddr) {
        match value {
            IpAddr::V4(v4) => self.bytes(kind, &v4.octets()),
            IpAddr::V6(v6) => self.bytes(kind, &v6.octets()),
        }
    }

    /// A nested attribute.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut MessageMut<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(&mut MessageMut { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).expect("nested attribute below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Bytes without an attribute header (a structure inside a nested attribute, as veth's peer has it).
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub seq: u32,
    /// `nlmsg_pid`: in a notification, the port of who made the change.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Ends at the first that does not fit.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[0..4].try_into().ok()?) as usize;
        let payload = datagram.get(HEADER..length)?;
        let message = Received {
            kind: u16::from_ne_bytes(header[4..6].try_into().ok()?),
            flags: u16::from_ne_bytes(header[6..8].try_into().ok()?),
            seq: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            port: u32::from_ne_bytes(header[12..16].try_into().ok()?),
            payload,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attr<'a> {
    /// Its number, without the nested and byte-order flags.
    pub kind: u16,
    /// Its bytes.
    pub value: &'a [u8],
}

impl<'a> Attr<'a> {
    /// Host byte order.
    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.get(..4)?.try_into().ok()?))
    }

    /// Network byte order.
    pub fn be32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.get(..4)?.try_into().ok()?))
    }

    /// Network byte order.
    pub fn be64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.value.get(..8)?.try_into().ok()?))
    }

    /// Network byte order.
    pub fn be16(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.value.get(..2)?.try_into().ok()?))
    }

    /// A string up to its zero.
    pub fn str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.value.split(|b| *b == 0).next()?).ok()
    }

    /// 4 or 16 bytes.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.value.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(self.value).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(self.value).ok()?)),
            _ => None,
        }
    }

    /// The attributes inside.
    pub fn nested(&self) -> impl Iterator<Item = Attr<'a>> + use<'a> {
        attrs(self.value)
    }
}

/// Attributes of a byte range; ends at the first that does not fit.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = Attr<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = u16::from_ne_bytes([header[0], header[1]]) as usize;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attr { kind, value })
    })
}

/// Attributes after a family's fixed part of `skip` bytes.
pub fn attrs_at(bytes: &[u8], skip: usize) -> impl Iterator<Item = Attr<'_>> {
    attrs(bytes.get(skip..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new();
        message.push(7, NLM_F_ACK, 3, &[1, 2, 3], |m| {
            m.str(1, "lo");
            m.nest(2, |m| m.be32(9, 5));
        });
        let received = messages(message.as_bytes()).next().unwrap();
        assert_eq!((received.kind, received.seq), (7, 3));
        let mut all = attrs_at(received.payload, 4);
        assert_eq!(all.next().unwrap().str(), Some("lo"));
        let nested = all.next().unwrap();
        assert_eq!(nested.nested().next().unwrap().be32(), Some(5));
        assert!(all.next().is_none());
    }

    #[test]
    fn cut_messages_end_instead_of_panicking() {
        let mut message = Message::new();
        message.push(7, 0, 1, &[0; 4], |m| m.nest(1, |m| m.str(2, "abcdef")));
        let bytes = message.as_bytes();
        for cut in 0..bytes.len() {
            let mut wrong = bytes[..cut].to_vec();
            for m in messages(&wrong) {
                attrs_at(m.payload, 4).for_each(|a| a.nested().for_each(drop));
            }
            // And with every length field damaged.
            wrong.iter_mut().for_each(|b| *b ^= 0xff);
            messages(&wrong).for_each(drop);
            attrs(&wrong).for_each(|a| a.nested().for_each(drop));
        }
    }
}
