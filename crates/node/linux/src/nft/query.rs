//! What is there: generation, tables, chains, sets, elements.

use super::{Data, Element, Family, Nft, SUBSYSTEM, Table, Verdict};
use crate::netlink::{Attr, Error, Message, Received, attrs_at};

const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSET: u16 = 10;
const GETSETELEM: u16 = 13;
const GETGEN: u16 = 16;

/// A table of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// `NFPROTO_*`.
    pub family: u8,
    /// Name.
    pub name: String,
    /// Unique while the namespace lives: a table deleted and made again has another.
    pub handle: u64,
    /// Chains, sets and objects in it.
    pub uses: u32,
}

/// A chain of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Name.
    pub name: String,
    /// Handle.
    pub handle: u64,
    /// Rules in it, and references to it.
    pub uses: u32,
}

/// A set or map of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetInfo {
    /// Name.
    pub name: String,
    /// Handle.
    pub handle: u64,
    /// `NFT_SET_*`.
    pub flags: u32,
}

fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

impl Nft {
    /// The generation: one more after each commit by anybody in this namespace.
    pub fn generation(&mut self) -> Result<u32, Error> {
        let seq = self.socket.next_seq();
        let mut message = Message::new();
        message.push(SUBSYSTEM | GETGEN, 0, seq, &header(0), |_| {});
        let found = self.socket.fetch(&message, seq, "reading the nftables generation", |m| {
            attrs_at(m.payload, 4).find(|a| a.kind == 1).and_then(|a| a.be32())
        })?;
        found.ok_or_else(|| Error::Receive {
            what: "reading the nftables generation".into(),
            source: rustix::io::Errno::BADMSG,
        })
    }

    /// All tables of all families.
    pub fn tables(&mut self) -> Result<Vec<TableInfo>, Error> {
        self.socket.dump(
            "listing nftables tables",
            SUBSYSTEM | GETTABLE,
            &header(0),
            |_| {},
            |all: &mut Vec<TableInfo>, m| {
                let mut info = TableInfo { family: family(&m), name: String::new(), handle: 0, uses: 0 };
                for attr in attrs_at(m.payload, 4) {
                    match attr.kind {
                        1 => info.name = attr.str().unwrap_or_default().to_owned(),
                        3 => info.uses = attr.be32().unwrap_or_default(),
                        4 => info.handle = attr.be64().unwrap_or_default(),
                        _ => {}
                    }
                }
                all.push(info);
            },
        )
    }

    /// A table, if it is there.
    pub fn table(&mut self, table: Table<'_>) -> Result<Option<TableInfo>, Error> {
        Ok(self.tables()?.into_iter().find(|t| t.family == table.family as u8 && t.name == table.name))
    }

    /// Chains of a table.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<ChainInfo>, Error> {
        self.socket.dump(
            "listing nftables chains",
            SUBSYSTEM | GETCHAIN,
            &header(table.family as u8),
            |_| {},
            |all: &mut Vec<ChainInfo>, m| {
                let mut info = ChainInfo { name: String::new(), handle: 0, uses: 0 };
                let mut ours = false;
                for attr in attrs_at(m.payload, 4) {
                    match attr.kind {
                        1 => ours = attr.str() == Some(table.name),
                        2 => info.handle = attr.be64().unwrap_or_default(),
                        3 => info.name = attr.str().unwrap_or_default().to_owned(),
                        6 => info.uses = attr.be32().unwrap_or_default(),
                        _ => {}
                    }
                }
                if ours {
                    all.push(info);
                }
            },
        )
    }

    /// Handles of the rules of a table, in order, with their chain.
    pub fn rules(&mut self, table: Table<'_>) -> Result<Vec<(String, u64)>, Error> {
        self.socket.dump(
            "listing nftables rules",
            SUBSYSTEM | GETRULE,
            &header(table.family as u8),
            |m| m.str(1, table.name),
            |all: &mut Vec<(String, u64)>, m| {
                let mut chain = String::new();
                let mut handle = 0;
                for attr in attrs_at(m.payload, 4) {
                    match attr.kind {
                        2 => chain = attr.str().unwrap_or_default().to_owned(),
                        3 => handle = attr.be64().unwrap_or_default(),
                        _ => {}
                    }
                }
                all.push((chain, handle));
            },
        )
    }

    /// How many rules a table holds.
    pub fn count_rules(&mut self, table: Table<'_>) -> Result<usize, Error> {
        self.socket.dump(
            "counting nftables rules",
            SUBSYSTEM | GETRULE,
            &header(table.family as u8),
            |m| m.str(1, table.name),
            |all: &mut usize, _| *all += 1,
        )
    }

    /// Sets and maps of a table, the anonymous ones included.
    pub fn sets(&mut self, table: Table<'_>) -> Result<Vec<SetInfo>, Error> {
        self.socket.dump(
            "listing nftables sets",
            SUBSYSTEM | GETSET,
            &header(table.family as u8),
            |m| m.str(1, table.name),
            |all: &mut Vec<SetInfo>, m| {
                let mut info = SetInfo { name: String::new(), handle: 0, flags: 0 };
                for attr in attrs_at(m.payload, 4) {
                    match attr.kind {
                        2 => info.name = attr.str().unwrap_or_default().to_owned(),
                        3 => info.flags = attr.be32().unwrap_or_default(),
                        16 => info.handle = attr.be64().unwrap_or_default(),
                        _ => {}
                    }
                }
                all.push(info);
            },
        )
    }

    /// Elements of a set or map.
    pub fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Vec<Element>, Error> {
        self.socket.dump(
            "listing nftables elements",
            SUBSYSTEM | GETSETELEM,
            &header(table.family as u8),
            |m| {
                m.str(1, table.name);
                m.str(2, set);
            },
            |all: &mut Vec<Element>, m| {
                let lists = attrs_at(m.payload, 4).filter(|a| a.kind == 3);
                all.extend(lists.flat_map(|list| list.nested()).filter_map(|e| parse_element(&e)));
            },
        )
    }

    /// Whether a table is there under that family and name.
    pub fn has_table(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        Ok(self.table(Table { family, name })?.is_some())
    }
}

fn family(message: &Received<'_>) -> u8 {
    message.payload.first().copied().unwrap_or_default()
}

fn parse_element(element: &Attr<'_>) -> Option<Element> {
    let mut key = None;
    let mut data = Data::None;
    for attr in element.nested() {
        match attr.kind {
            1 => key = attr.nested().find(|a| a.kind == 1).map(|a| a.value.to_vec()),
            2 => data = attr.nested().find_map(|a| parse_data(&a)).unwrap_or(Data::None),
            _ => {}
        }
    }
    Some(Element { key: key?, data })
}

fn parse_data(attr: &Attr<'_>) -> Option<Data> {
    if attr.kind == 1 {
        return Some(Data::Value(attr.value.to_vec()));
    }
    let code = attr.nested().find(|a| a.kind == 1)?.be32()? as i32;
    let chain = || attr.nested().find(|a| a.kind == 2).and_then(|a| a.str()).map(str::to_owned);
    Some(Data::Verdict(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        _ => return None,
    }))
}
