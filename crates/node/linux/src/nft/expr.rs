//! The expressions of nftables' register machine, as the kernel wants them.
//!
//! A rule is a list of these, run in order until one does not match. Values move through sixteen 4-byte registers
//! ([`reg`]); register 0 of the old numbering is the verdict. Addresses and ports are in network order, marks,
//! interface numbers and generated numbers in host order: the kernel compares bytes.

use crate::netlink::MessageMut;

/// The `n`th 4-byte register (`NFT_REG32_00` and on).
pub const fn reg(n: u32) -> u32 {
    8 + n
}

const VERDICT_REGISTER: u32 = 0;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
pub(super) const LIST_ELEM: u16 = 1;

/// What becomes of the packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Dropped.
    Drop,
    /// Passes this hook's chain.
    Accept,
    /// Back to the calling chain.
    Return,
    /// Goes on in the chain, and comes back.
    Jump(String),
    /// Goes on in the chain, and does not come back.
    Goto(String),
}

impl Verdict {
    pub(super) fn encode(&self, m: &mut MessageMut<'_>) {
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Return => (-5, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
        };
        m.nest(DATA_VERDICT, |m| {
            m.be32(CODE, code as u32);
            if let Some(chain) = chain {
                m.str(CHAIN, chain);
            }
        });
    }
}

/// Keys of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// Packet mark (host order).
    Mark = 3,
    /// Incoming interface number (host order).
    Iif = 4,
    /// Outgoing interface number (host order).
    Oif = 5,
    /// Address family (one byte, `NFPROTO_*`).
    NfProto = 15,
    /// Layer 4 protocol (one byte).
    L4Proto = 16,
    /// Group of the incoming interface (host order).
    IifGroup = 21,
    /// Group of the outgoing interface (host order).
    OifGroup = 22,
}

/// Comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Cmp {
    /// Equal.
    Eq = 0,
    /// Not equal.
    Neq = 1,
    /// Less.
    Lt = 2,
    /// At most.
    Lte = 3,
    /// Greater.
    Gt = 4,
    /// At least.
    Gte = 5,
}

/// Keys of `ct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ct {
    /// State bits (host order), see [`CT_NEW`].
    State = 0,
    /// Status bits (host order), see [`CT_STATUS_DNAT`].
    Status = 2,
}

/// `ct state new`.
pub const CT_NEW: u32 = 8;
/// `ct status dnat`.
pub const CT_STATUS_DNAT: u32 = 1 << 5;

/// What `fib` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FibResult {
    /// Interface number, 0 when there is no route (host order).
    Oif = 1,
    /// `RTN_*` of the address (host order), see [`RTN_LOCAL`].
    AddrType = 3,
}

/// `fib ... type local`.
pub const RTN_LOCAL: u32 = 2;
/// Look up the source address.
pub const FIB_SADDR: u32 = 1;
/// Look up the destination address.
pub const FIB_DADDR: u32 = 2;
/// Only a route out of the incoming interface counts.
pub const FIB_IIF: u32 = 8;

/// What `dynset` does with an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DynsetOp {
    /// Adds it when absent.
    Add = 0,
    /// Adds it, or renews its timeout.
    Update = 1,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP (or ICMPv6) with this code of the family.
    Icmp(u8),
    /// TCP reset.
    TcpReset,
    /// ICMP by the kernel's family-independent code.
    Icmpx(u8),
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads a value.
    Immediate {
        /// Into this register.
        dreg: u32,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Goes on only if the comparison holds.
    Cmp {
        /// Of this register.
        sreg: u32,
        /// By this operator.
        op: Cmp,
        /// With these bytes.
        value: Vec<u8>,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        /// From.
        sreg: u32,
        /// To.
        dreg: u32,
        /// Mask.
        mask: Vec<u8>,
        /// Exclusive or.
        xor: Vec<u8>,
    },
    /// Looks a key up in a set (goes on only if it is, or is not, there) or in a map.
    Lookup {
        /// Key from this register on.
        sreg: u32,
        /// Where a map's value goes; `Some(0)` for a verdict map; `None` for a set.
        dreg: Option<u32>,
        /// Name.
        set: String,
        /// For an anonymous set made in the same batch.
        set_id: Option<u32>,
        /// Goes on when the key is *not* there.
        invert: bool,
    },
    /// Loads a property of the packet.
    Meta {
        /// Into.
        dreg: u32,
        /// Which.
        key: Meta,
    },
    /// Sets a property of the packet.
    SetMeta {
        /// From.
        sreg: u32,
        /// Which.
        key: Meta,
    },
    /// Loads from the network header.
    Network {
        /// Into.
        dreg: u32,
        /// From this offset.
        offset: u32,
        /// So many bytes.
        len: u32,
    },
    /// Loads from the transport header.
    Transport {
        /// Into.
        dreg: u32,
        /// From this offset.
        offset: u32,
        /// So many bytes.
        len: u32,
    },
    /// Loads a property of the connection.
    Ct {
        /// Into.
        dreg: u32,
        /// Which.
        key: Ct,
    },
    /// Destination NAT to the address and port in registers.
    Dnat {
        /// `NFPROTO_*`.
        family: u8,
        /// Address.
        addr: u32,
        /// Port.
        port: Option<u32>,
    },
    /// Source NAT to the address in a register.
    Snat {
        /// `NFPROTO_*`.
        family: u8,
        /// Address.
        addr: u32,
    },
    /// Source NAT to the outgoing interface's address, ports chosen at random.
    Masquerade {
        /// Ports by a full random search instead of by hash.
        fully_random: bool,
    },
    /// Asks the routing table.
    Fib {
        /// Into.
        dreg: u32,
        /// For what.
        result: FibResult,
        /// `FIB_*`.
        flags: u32,
    },
    /// Changes a set from the packet path.
    Dynset {
        /// Which set.
        set: String,
        /// How.
        op: DynsetOp,
        /// Key from this register on.
        key: u32,
        /// A map's value.
        data: Option<u32>,
        /// Milliseconds; `None`: the set's.
        timeout: Option<u64>,
    },
    /// Refuses the packet.
    Reject(Reject),
    /// Counts.
    Counter,
    /// Loads a random number below `modulus` (host order).
    Random {
        /// Into.
        dreg: u32,
        /// Bound.
        modulus: u32,
    },
    /// Loads a hash (Jenkins) below `modulus` (host order).
    Hash {
        /// From this register on.
        sreg: u32,
        /// So many bytes.
        len: u32,
        /// Into.
        dreg: u32,
        /// Bound.
        modulus: u32,
        /// Seed.
        seed: u32,
    },
}

impl Expr {
    /// `register == value`.
    pub fn eq(sreg: u32, value: impl Into<Vec<u8>>) -> Self {
        Self::Cmp { sreg, op: Cmp::Eq, value: value.into() }
    }

    /// `register != value`.
    pub fn neq(sreg: u32, value: impl Into<Vec<u8>>) -> Self {
        Self::Cmp { sreg, op: Cmp::Neq, value: value.into() }
    }

    /// Membership in a named set.
    pub fn in_set(sreg: u32, set: &str) -> Self {
        Self::Lookup { sreg, dreg: None, set: set.to_owned(), set_id: None, invert: false }
    }

    /// Verdict by a named map.
    pub fn vmap(sreg: u32, map: &str) -> Self {
        Self::Lookup { sreg, dreg: Some(VERDICT_REGISTER), set: map.to_owned(), set_id: None, invert: false }
    }

    /// `jump`.
    pub fn jump(chain: &str) -> Self {
        Self::Verdict(Verdict::Jump(chain.to_owned()))
    }

    /// `goto`.
    pub fn goto(chain: &str) -> Self {
        Self::Verdict(Verdict::Goto(chain.to_owned()))
    }

    pub(super) fn encode(&self, list: &mut MessageMut<'_>) {
        list.nest(LIST_ELEM, |m| {
            m.str(1, self.name());
            m.nest(2, |m| self.data(m));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Network { .. } | Self::Transport { .. } => "payload",
            Self::Ct { .. } => "ct",
            Self::Dnat { .. } | Self::Snat { .. } => "nat",
            Self::Masquerade { .. } => "masq",
            Self::Fib { .. } => "fib",
            Self::Dynset { .. } => "dynset",
            Self::Reject(_) => "reject",
            Self::Counter => "counter",
            Self::Random { .. } => "numgen",
            Self::Hash { .. } => "hash",
        }
    }

    fn data(&self, m: &mut MessageMut<'_>) {
        match self {
            Self::Immediate { dreg, value } => {
                m.be32(1, *dreg);
                m.nest(2, |m| m.bytes(DATA_VALUE, value));
            }
            Self::Verdict(verdict) => {
                m.be32(1, VERDICT_REGISTER);
                m.nest(2, |m| verdict.encode(m));
            }
            Self::Cmp { sreg, op, value } => {
                m.be32(1, *sreg);
                m.be32(2, *op as u32);
                m.nest(3, |m| m.bytes(DATA_VALUE, value));
            }
            Self::Bitwise { sreg, dreg, mask, xor } => {
                m.be32(1, *sreg);
                m.be32(2, *dreg);
                m.be32(3, mask.len() as u32);
                m.nest(4, |m| m.bytes(DATA_VALUE, mask));
                m.nest(5, |m| m.bytes(DATA_VALUE, xor));
            }
            Self::Lookup { sreg, dreg, set, set_id, invert } => {
                m.str(1, set);
                m.be32(2, *sreg);
                if let Some(dreg) = dreg {
                    m.be32(3, *dreg);
                }
                if let Some(id) = set_id {
                    m.be32(4, *id);
                }
                if *invert {
                    m.be32(5, 1);
                }
            }
            Self::Meta { dreg, key } => {
                m.be32(1, *dreg);
                m.be32(2, *key as u32);
            }
            Self::SetMeta { sreg, key } => {
                m.be32(2, *key as u32);
                m.be32(3, *sreg);
            }
            Self::Network { dreg, offset, len } => payload(m, *dreg, 1, *offset, *len),
            Self::Transport { dreg, offset, len } => payload(m, *dreg, 2, *offset, *len),
            Self::Ct { dreg, key } => {
                m.be32(1, *dreg);
                m.be32(2, *key as u32);
            }
            Self::Dnat { family, addr, port } => {
                m.be32(1, 1);
                m.be32(2, u32::from(*family));
                m.be32(3, *addr);
                if let Some(port) = port {
                    m.be32(5, *port);
                }
            }
            Self::Snat { family, addr } => {
                m.be32(1, 0);
                m.be32(2, u32::from(*family));
                m.be32(3, *addr);
            }
            Self::Masquerade { fully_random } => {
                if *fully_random {
                    m.be32(1, 16);
                }
            }
            Self::Fib { dreg, result, flags } => {
                m.be32(1, *dreg);
                m.be32(2, *result as u32);
                m.be32(3, *flags);
            }
            Self::Dynset { set, op, key, data, timeout } => {
                m.str(1, set);
                m.be32(3, *op as u32);
                m.be32(4, *key);
                if let Some(data) = data {
                    m.be32(5, *data);
                }
                if let Some(timeout) = timeout {
                    m.be64(6, *timeout);
                }
            }
            Self::Reject(Reject::Icmp(code)) => {
                m.be32(1, 0);
                m.u8(2, *code);
            }
            Self::Reject(Reject::TcpReset) => m.be32(1, 1),
            Self::Reject(Reject::Icmpx(code)) => {
                m.be32(1, 2);
                m.u8(2, *code);
            }
            Self::Counter => {
                m.be64(1, 0);
                m.be64(2, 0);
            }
            Self::Random { dreg, modulus } => {
                m.be32(1, *dreg);
                m.be32(2, *modulus);
                m.be32(3, 1);
                m.be32(4, 0);
            }
            Self::Hash { sreg, len, dreg, modulus, seed } => {
                m.be32(1, *sreg);
                m.be32(2, *dreg);
                m.be32(3, *len);
                m.be32(4, *modulus);
                m.be32(5, *seed);
                m.be32(7, 0);
            }
        }
    }
}

fn payload(m: &mut MessageMut<'_>, dreg: u32, base: u32, offset: u32, len: u32) {
    m.be32(1, dreg);
    m.be32(2, base);
    m.be32(3, offset);
    m.be32(4, len);
}

/// A set element: key, and a map's value or verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// Key bytes, each part of a concatenation padded to four ([`concat()`]).
    pub key: Vec<u8>,
    /// What a map holds for it.
    pub data: Data,
}

/// Value of a set element.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// A set has none.
    None,
    /// Bytes.
    Value(Vec<u8>),
    /// A verdict map's.
    Verdict(Verdict),
}

impl Element {
    /// An element of a set.
    pub fn key(key: Vec<u8>) -> Self {
        Self { key, data: Data::None }
    }

    pub(super) fn encode(&self, list: &mut MessageMut<'_>, with_data: bool) {
        list.nest(LIST_ELEM, |m| {
            m.nest(1, |m| m.bytes(DATA_VALUE, &self.key));
            match &self.data {
                _ if !with_data => {}
                Data::None => {}
                Data::Value(value) => m.nest(2, |m| m.bytes(DATA_VALUE, value)),
                Data::Verdict(verdict) => m.nest(2, |m| verdict.encode(m)),
            }
        });
    }

    /// An upper bound of its encoded size.
    pub(super) fn size(&self) -> usize {
        let data = match &self.data {
            Data::None => 0,
            Data::Value(value) => value.len() + 12,
            Data::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => chain.len() + 32,
            Data::Verdict(_) => 24,
        };
        self.key.len() + data + 24
    }
}

/// Bytes of a concatenated key: each part starts at a register.
pub fn concat<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    for part in parts {
        key.extend_from_slice(part);
        while !key.len().is_multiple_of(4) {
            key.push(0);
        }
    }
    key
}
