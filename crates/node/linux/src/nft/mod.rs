//! nftables over netlink: batches that are committed as one transaction, and the dumps that tell what is there.
//!
//! A [`Batch`] holds messages in order; [`Nft::commit`] sends it as one datagram, and the kernel takes all of it or
//! nothing. A refusal names the object that was refused ([`Error::Refused`]): the batch keeps only byte offsets, and
//! the words are read back out of the refused message, so the happy path formats nothing.
//!
//! No policy here: what tables hold is decided by `skiff-proxy` and `skiff-cni`.

mod expr;
mod query;

pub use expr::{
    CT_NEW, CT_STATUS_DNAT, Cmp, Ct, Data, DynsetOp, Element, Expr, FIB_DADDR, FIB_IIF, FIB_SADDR, FibResult, Meta,
    RTN_LOCAL, Reject, Verdict, concat, reg,
};
pub use query::{ChainInfo, SetInfo, TableInfo};

use rustix::io::Errno;

use crate::netlink::{Error, Message, MessageMut, Socket, attrs_at};

const NETLINK_NETFILTER: u32 = 12;
const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// Elements go in messages of at most this size (an attribute cannot exceed 64 KiB).
const ELEMENTS_BYTES: usize = 48 << 10;

/// Address family of a table (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

impl Family {
    /// `nft`'s word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// A table by family and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<'a> {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: &'a str,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat`, `route`.
    pub kind: &'static str,
    /// Which hook.
    pub point: HookPoint,
    /// Lower runs first.
    pub priority: i32,
}

/// `NF_INET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HookPoint {
    /// Before routing.
    Prerouting = 0,
    /// To this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// After routing.
    Postrouting = 4,
}

/// Type numbers that `nft list` prints keys by. The kernel only stores them.
pub mod key_type {
    /// Unsigned number of any size. Not for a concatenation: without a size `nft list` cannot take it apart, and aborts.
    pub const INTEGER: u32 = 4;
    /// `ipv4_addr`.
    pub const IPV4: u32 = 7;
    /// `ipv6_addr`.
    pub const IPV6: u32 = 8;
    /// `inet_proto`.
    pub const INET_PROTO: u32 = 12;
    /// `inet_service`.
    pub const INET_SERVICE: u32 = 13;
    /// `mark`: four bytes.
    pub const MARK: u32 = 19;

    /// A concatenation.
    pub const fn concat(types: &[u32]) -> u32 {
        let mut all = 0;
        let mut i = 0;
        while i < types.len() {
            all = (all << 6) | types[i];
            i += 1;
        }
        all
    }
}

/// What a set maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapTo {
    /// It is a set.
    Nothing,
    /// Verdicts.
    Verdicts,
    /// Values of this type and length.
    Values {
        /// See [`key_type`].
        kind: u32,
        /// Bytes.
        len: u32,
    },
}

/// A set or map to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name; for an anonymous one `__set%d` or `__map%d`.
    pub name: String,
    /// See [`key_type`].
    pub key_type: u32,
    /// Bytes of a key; parts of a concatenation count padded.
    pub key_len: u32,
    /// Set, or map of what.
    pub to: MapTo,
    /// Elements may be added by `dynset` and time out after so many milliseconds.
    pub timeout: Option<u64>,
    /// Greatest number of elements, for sets that packets fill.
    pub size: Option<u32>,
    /// Lives and dies with the rule that names it; constant.
    pub anonymous: bool,
}

/// Messages to be committed together.
#[derive(Default)]
pub struct Batch {
    message: Message,
    offsets: Vec<usize>,
    set_ids: u32,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// No message yet.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// How many netlink messages a commit sends, the two of the batch frame included.
    pub fn messages(&self) -> usize {
        if self.is_empty() { 0 } else { self.offsets.len() + 1 }
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.message.as_bytes().len()
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, fill: impl FnOnce(&mut MessageMut<'_>)) {
        if self.offsets.is_empty() {
            self.frame(BATCH_BEGIN);
        }
        self.offsets.push(self.bytes());
        self.message.push(SUBSYSTEM | kind, flags, 0, &[family as u8, 0, 0, 0], fill);
    }

    fn frame(&mut self, kind: u16) {
        self.offsets.push(self.bytes());
        self.message.push(kind, 0, 0, &[0, 0, 0, 10], |_| {});
    }

    /// Makes a table, or finds it.
    pub fn add_table(&mut self, table: Table<'_>) {
        self.push(NEWTABLE, NLM_F_CREATE, table.family, |m| {
            m.str(1, table.name);
            m.be32(2, 0);
        });
    }

    /// Removes a table with all it holds. It must exist; `add_table` first when in doubt.
    pub fn delete_table(&mut self, table: Table<'_>) {
        self.push(DELTABLE, 0, table.family, |m| m.str(1, table.name));
    }

    /// Makes a chain, or finds it.
    pub fn add_chain(&mut self, table: Table<'_>, name: &str, hook: Option<Hook>) {
        self.push(NEWCHAIN, NLM_F_CREATE, table.family, |m| {
            m.str(1, table.name);
            m.str(3, name);
            if let Some(hook) = hook {
                m.nest(4, |m| {
                    m.be32(1, hook.point as u32);
                    m.be32(2, hook.priority as u32);
                });
                m.be32(5, 1);
                m.str(7, hook.kind);
            }
        });
    }

    /// Removes an empty chain that nothing refers to.
    pub fn delete_chain(&mut self, table: Table<'_>, name: &str) {
        self.push(DELCHAIN, 0, table.family, |m| {
            m.str(1, table.name);
            m.str(3, name);
        });
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: Table<'_>, name: &str) {
        self.push(DELRULE, 0, table.family, |m| {
            m.str(1, table.name);
            m.str(2, name);
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, table: Table<'_>, chain: &str, exprs: &[Expr]) {
        self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, table.family, |m| {
            m.str(1, table.name);
            m.str(2, chain);
            m.nest(4, |m| exprs.iter().for_each(|e| e.encode(m)));
        });
    }

    /// Makes a set or map, or finds it. Returns the number by which the rest of this batch can name it.
    pub fn add_set(&mut self, table: Table<'_>, set: &Set) -> u32 {
        const ANONYMOUS: u32 = 1;
        const CONSTANT: u32 = 2;
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const VERDICTS: u32 = 0xffff_ff00;
        self.set_ids += 1;
        let id = self.set_ids;
        let mut flags = 0;
        if set.anonymous {
            flags |= ANONYMOUS | CONSTANT;
        }
        if set.to != MapTo::Nothing {
            flags |= MAP;
        }
        if set.timeout.is_some() {
            flags |= TIMEOUT | EVAL;
        }
        self.push(NEWSET, NLM_F_CREATE, table.family, |m| {
            m.str(1, table.name);
            m.str(2, &set.name);
            m.be32(3, flags);
            m.be32(4, set.key_type);
            m.be32(5, set.key_len);
            match set.to {
                MapTo::Nothing => {}
                MapTo::Verdicts => {
                    m.be32(6, VERDICTS);
                    m.be32(7, 0);
                }
                MapTo::Values { kind, len } => {
                    m.be32(6, kind);
                    m.be32(7, len);
                }
            }
            if let Some(size) = set.size {
                m.nest(9, |m| m.be32(1, size));
            }
            m.be32(10, id);
            if let Some(timeout) = set.timeout {
                m.be64(11, timeout);
            }
        });
        id
    }

    /// Removes a set that no rule names.
    pub fn delete_set(&mut self, table: Table<'_>, name: &str) {
        self.push(DELSET, 0, table.family, |m| {
            m.str(1, table.name);
            m.str(2, name);
        });
    }

    /// Adds elements; those there already with the same value are left alone, another value is refused.
    pub fn add_elements(&mut self, table: Table<'_>, set: &str, id: Option<u32>, elements: &[Element]) {
        self.elements(NEWSETELEM, NLM_F_CREATE, table, set, id, elements);
    }

    /// Removes elements; they must be there.
    pub fn delete_elements(&mut self, table: Table<'_>, set: &str, elements: &[Element]) {
        self.elements(DELSETELEM, 0, table, set, None, elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: Table<'_>,
        set: &str,
        id: Option<u32>,
        mut elements: &[Element],
    ) {
        while !elements.is_empty() {
            let mut bytes = 0;
            let taken = elements
                .iter()
                .take_while(|e| {
                    bytes += e.size();
                    bytes <= ELEMENTS_BYTES
                })
                .count()
                .max(1);
            let (now, rest) = elements.split_at(taken);
            elements = rest;
            self.push(kind, flags, table.family, |m| {
                m.str(1, table.name);
                m.str(2, set);
                if let Some(id) = id {
                    m.be32(4, id);
                }
                m.nest(3, |m| now.iter().for_each(|e| e.encode(m, kind == NEWSETELEM)));
            });
        }
    }

    /// Words for the message with this index, read back out of it.
    fn describe(&self, index: usize) -> String {
        let Some(bytes) = self.offsets.get(index).and_then(|at| self.message.as_bytes().get(*at..)) else {
            return "nftables batch".into();
        };
        let kind = bytes.get(4..6).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
        let length = bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes) as usize;
        let names: Vec<_> = attrs_at(bytes.get(..length).unwrap_or_default(), 20).filter(|a| a.kind <= 3).collect();
        let named = |n| names.iter().find(|a| a.kind == n).and_then(|a| a.str()).unwrap_or("?");
        let table = named(1);
        match (kind & 0xff, kind >> 8) {
            (_, 0) => "nftables batch".into(),
            (NEWTABLE, _) => format!("nftables: adding table {table}"),
            (DELTABLE, _) => format!("nftables: deleting table {table}"),
            (NEWCHAIN, _) => format!("nftables: adding chain {table} {}", named(3)),
            (DELCHAIN, _) => format!("nftables: deleting chain {table} {}", named(3)),
            (NEWRULE, _) => format!("nftables: adding a rule to chain {table} {}", named(2)),
            (DELRULE, _) => format!("nftables: flushing chain {table} {}", named(2)),
            (NEWSET, _) => format!("nftables: adding set {table} {}", named(2)),
            (DELSET, _) => format!("nftables: deleting set {table} {}", named(2)),
            (NEWSETELEM, _) => format!("nftables: adding elements to {table} {}", named(2)),
            (DELSETELEM, _) => format!("nftables: deleting elements of {table} {}", named(2)),
            (other, _) => format!("nftables: message {other} on {table}"),
        }
    }
}

/// A connection to nftables of one network namespace.
pub struct Nft {
    pub(super) socket: Socket,
}

impl Nft {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER, 0)? })
    }

    /// Opens one inside `netns`; it can be used from here.
    pub fn open_in(netns: &crate::netlink::netns::NetNs) -> Result<Self, Error> {
        netns.run(Self::open)?
    }

    /// Commits a batch: all of it, or nothing and the first refusal.
    pub fn commit(&mut self, mut batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        // Only the last message asks to be acknowledged. The kernel answers after the commit, errors in order, so
        // its answer is the last; an acknowledgement for each would overflow our receive buffer.
        let last = *batch.offsets.last().expect("not empty");
        batch.message.add_flags(last, NLM_F_ACK);
        let count = batch.offsets.len();
        batch.frame(BATCH_END);
        let base = self.socket.reserve_seq(count as u32 + 1);
        batch.message.set_seqs(&batch.offsets, base);
        self.socket.send(&batch.message, "an nftables batch")?;
        let mut first: Option<(usize, Option<String>, Errno)> = None;
        self.socket.acks("an nftables batch", |ack| {
            let index = ack.seq.wrapping_sub(base) as usize;
            if index >= count {
                return false; // a late answer to something else
            }
            if let Some(errno) = ack.error {
                first.get_or_insert((index, ack.detail, errno));
            }
            // An error for the frame means that the commit as a whole failed, and is the only answer.
            index == count - 1 || index == 0
        })?;
        match first {
            None => Ok(()),
            Some((index, detail, source)) => Err(Error::Refused { what: batch.describe(index), detail, source }),
        }
    }
}
