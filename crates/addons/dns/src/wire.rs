//! The DNS message format: reading queries and upstream answers, writing answers.
//!
//! Every read is checked against the message's end, and names may hold at most 255 bytes and 126 pointers (each strictly
//! backwards), so no input makes a reader panic, loop, or allocate more than a name.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Record types that are known by name here.
#[expect(missing_docs, reason = "the RFCs' names")]
pub mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// The class of everything.
pub const CLASS_IN: u16 = 1;

/// Answer codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Good, perhaps empty.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// It could not be answered.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not spoken here.
    NotImp = 4,
    /// Not allowed.
    Refused = 5,
    /// The EDNS version is not spoken (extended).
    BadVers = 16,
}

impl Rcode {
    /// As in metrics.
    pub fn word(code: u16) -> &'static str {
        match code {
            0 => "NOERROR",
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            16 => "BADVERS",
            _ => "OTHER",
        }
    }
}

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the client.
    pub id: u16,
    /// The question's bytes as they came, name's case included.
    pub question: Vec<u8>,
    /// The name in lower case, with dots, without the last dot; the root is empty.
    pub name: String,
    /// Type.
    pub qtype: u16,
    /// Class.
    pub qclass: u16,
    /// Recursion desired.
    pub recursion: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
    /// EDNS.
    pub edns: Option<Edns>,
}

/// What the client said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer it takes.
    pub udp_size: u16,
    /// Version; only 0 exists.
    pub version: u8,
    /// Wants DNSSEC records.
    pub dnssec: bool,
}

/// Why a message is no query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadQuery {
    /// Too short for a header, or itself an answer: say nothing.
    Ignore,
    /// Answer with this code, under this id.
    Answer(u16, Rcode),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Where the name that starts at `at` ends in the message.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => {
                message.get(at + 1)?;
                return Some(at + 2);
            }
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The name at `at` in lower case. Bytes that are no letters, digits, `-` or `_` are escaped as in master files, so two
/// different names never read the same.
fn read_name(message: &[u8], mut at: usize) -> Option<String> {
    let mut name = String::new();
    let mut total = 0;
    let mut lowest = at;
    loop {
        match *message.get(at)? {
            0 => return Some(name),
            length if length & 0xc0 == 0xc0 => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                if target >= lowest {
                    return None;
                }
                lowest = target;
                at = target;
            }
            length if length & 0xc0 == 0 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                total += label.len() + 1;
                if total > 254 {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                for byte in label {
                    match byte {
                        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(*byte)),
                        b'A'..=b'Z' => name.push(char::from(byte.to_ascii_lowercase())),
                        other => write!(name, "\\{other:03}").ok()?,
                    }
                }
                at += 1 + usize::from(length);
            }
            _ => return None,
        }
    }
}

impl Query {
    /// Reads a query.
    pub fn parse(message: &[u8]) -> Result<Self, BadQuery> {
        let (Some(id), Some(flags), Some(_)) = (u16_at(message, 0), u16_at(message, 2), message.get(..12)) else {
            return Err(BadQuery::Ignore);
        };
        if flags & 0x8000 != 0 {
            return Err(BadQuery::Ignore);
        }
        if flags & 0x7800 != 0 {
            return Err(BadQuery::Answer(id, Rcode::NotImp));
        }
        let bad = BadQuery::Answer(id, Rcode::FormErr);
        Self::parse_body(message, id, flags).ok_or(bad)
    }

    fn parse_body(message: &[u8], id: u16, flags: u16) -> Option<Self> {
        // One question; several were never answered by anybody.
        if u16_at(message, 4)? != 1 {
            return None;
        }
        let end = skip_name(message, 12)?;
        // A question's name has nothing before it to point to.
        let name = read_name(message, 12)?;
        let (qtype, qclass) = (u16_at(message, end)?, u16_at(message, end + 2)?);
        let question = message.get(12..end + 4)?.to_vec();
        if question.iter().take(end - 12).any(|b| b & 0xc0 == 0xc0) && question.len() != name_len(&question)? + 4 {
            return None;
        }
        let mut at = end + 4;
        let records = u32::from(u16_at(message, 6)?) + u32::from(u16_at(message, 8)?) + u32::from(u16_at(message, 10)?);
        let mut edns = None;
        for _ in 0..records {
            let after = skip_name(message, at)?;
            let length = usize::from(u16_at(message, after + 8)?);
            message.get(after + 10..after + 10 + length)?;
            if u16_at(message, after)? == rtype::OPT {
                if edns.is_some() {
                    return None;
                }
                let ttl = u32_at(message, after + 4)?;
                edns = Some(Edns {
                    udp_size: u16_at(message, after + 2)?,
                    version: (ttl >> 16) as u8,
                    dnssec: ttl & 0x8000 != 0,
                });
            }
            at = after + 10 + length;
        }
        let (recursion, checking_disabled) = (flags & 0x0100 != 0, flags & 0x0010 != 0);
        Some(Self { id, question, name, qtype, qclass, recursion, checking_disabled, edns })
    }

    /// The largest answer to give over UDP. Above 1,232 bytes packets may be fragmented, and fragments lost.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(512, |edns| usize::from(edns.udp_size).clamp(512, usize::from(MAX_UDP)))
    }
}

/// Largest UDP answer.
pub const MAX_UDP: u16 = 1232;

/// Length of an uncompressed name at the start of `bytes`.
fn name_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A name server.
    Ns(String),
    /// A service: priority, weight, port, target.
    Srv(u16, u16, u16, String),
    /// Text.
    Txt(String),
    /// The zone: name server, mailbox, serial, and the smallest TTL.
    Soa(String, String, u32, u32),
}

impl Data {
    fn rtype(&self) -> u16 {
        match self {
            Self::A(_) => rtype::A,
            Self::Aaaa(_) => rtype::AAAA,
            Self::Cname(_) => rtype::CNAME,
            Self::Ptr(_) => rtype::PTR,
            Self::Ns(_) => rtype::NS,
            Self::Srv(..) => rtype::SRV,
            Self::Txt(_) => rtype::TXT,
            Self::Soa(..) => rtype::SOA,
        }
    }
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Owner; `None`: the question's name, in the question's case.
    pub name: Option<String>,
    /// Seconds it may be kept.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer before it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authority: Vec<Record>,
    /// Additional section.
    pub additional: Vec<Record>,
    /// Code, by number.
    pub rcode: u16,
    /// We know, rather than have heard.
    pub authoritative: bool,
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|l| !l.is_empty()) {
        // Names here are made of validated object names; a longer label could only come from a broken object, and a
        // cut one is not found, which is right.
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
}

fn push_record(out: &mut Vec<u8>, record: &Record) {
    match &record.name {
        None => out.extend_from_slice(&[0xc0, 12]),
        Some(name) => push_name(out, name),
    }
    out.extend_from_slice(&record.data.rtype().to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    match &record.data {
        Data::A(ip) => out.extend_from_slice(&ip.octets()),
        Data::Aaaa(ip) => out.extend_from_slice(&ip.octets()),
        Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => push_name(out, name),
        Data::Srv(priority, weight, port, target) => {
            for number in [priority, weight, port] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            push_name(out, target);
        }
        Data::Txt(text) => {
            for part in text.as_bytes().chunks(255) {
                out.push(part.len() as u8);
                out.extend_from_slice(part);
            }
        }
        Data::Soa(server, mailbox, serial, minimum) => {
            push_name(out, server);
            push_name(out, mailbox);
            for number in [*serial, 7200, 1800, 86400, *minimum] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
    let length = (out.len() - length_at - 2) as u16;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
}

/// The OPT record that answers a client's.
pub fn push_opt(out: &mut Vec<u8>, edns: &Edns, rcode: u16) {
    out.push(0);
    out.extend_from_slice(&rtype::OPT.to_be_bytes());
    out.extend_from_slice(&MAX_UDP.to_be_bytes());
    out.extend_from_slice(&[(rcode >> 4) as u8, 0, if edns.dnssec { 0x80 } else { 0 }, 0]);
    out.extend_from_slice(&[0, 0]);
}

/// Size of [`push_opt`]'s record.
pub const OPT_LEN: usize = 11;

/// Writes an answer of at most `limit` bytes. What does not fit is left out from the end; when an answer had to go, the
/// truncation bit says so and the client comes back over TCP.
pub fn write_answer(query: &Query, answer: &Answer, limit: usize, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&query.id.to_be_bytes());
    let mut flags: u16 = 0x8000 | answer.rcode & 0xf;
    flags |= u16::from(query.recursion) << 8;
    flags |= u16::from(answer.authoritative) << 10;
    flags |= 0x0080; // recursion is available
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&query.question);
    let room = limit.saturating_sub(if query.edns.is_some() { OPT_LEN } else { 0 });
    let mut counts = [0u16; 3];
    let mut truncated = false;
    'sections: for (section, records) in
        [&answer.answers, &answer.authority, &answer.additional].into_iter().enumerate()
    {
        for record in records {
            let before = out.len();
            push_record(out, record);
            if out.len() > room || counts[section] == u16::MAX {
                out.truncate(before);
                // Additional records are a courtesy: leaving them out is no truncation.
                truncated = section < 2;
                break 'sections;
            }
            counts[section] += 1;
        }
    }
    if let Some(edns) = &query.edns {
        push_opt(out, edns, answer.rcode);
        counts[2] += 1;
    }
    if truncated {
        out[2] |= 0x02;
    }
    for (section, count) in counts.iter().enumerate() {
        let at = 6 + section * 2;
        out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
}

/// An answer to a message that could not be read: header only.
pub fn write_error(id: u16, rcode: Rcode) -> [u8; 12] {
    let [a, b] = id.to_be_bytes();
    [a, b, 0x80, 0x80 | rcode as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// A query for an upstream server.
pub fn write_query(id: u16, question: &[u8], dnssec: bool, checking_disabled: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + question.len() + OPT_LEN);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&(0x0100 | u16::from(checking_disabled) << 4).to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(question);
    push_opt(&mut out, &Edns { udp_size: MAX_UDP, version: 0, dnssec }, 0);
    out
}

/// An upstream server's answer, taken apart as far as keeping it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The message without its OPT record; its id is the one of our query.
    pub message: Vec<u8>,
    /// Code (low four bits).
    pub rcode: u16,
    /// The truncation bit.
    pub truncated: bool,
    /// Offsets of all TTLs.
    pub ttls: Vec<u16>,
    /// Smallest TTL of the answer, or of the denial (the SOA's minimum included); `None` without any record.
    pub ttl: Option<u32>,
    /// Has records in the answer section.
    pub has_answers: bool,
}

impl Response {
    /// Reads an answer to the query with this id and question. `None`: it is not one.
    pub fn parse(message: &[u8], id: u16, question: &[u8]) -> Option<Self> {
        let flags = u16_at(message, 2)?;
        if u16_at(message, 0)? != id || flags & 0x8000 == 0 || u16_at(message, 4)? != 1 {
            return None;
        }
        // Byte by byte, case included: a forger must guess the spelling too.
        let body = 12 + question.len();
        if message.get(12..body)? != question {
            return None;
        }
        let counts = [u16_at(message, 6)?, u16_at(message, 8)?, u16_at(message, 10)?];
        let mut response = Self {
            message: Vec::new(),
            rcode: flags & 0xf,
            truncated: flags & 0x0200 != 0,
            ttls: Vec::new(),
            ttl: None,
            has_answers: counts[0] > 0,
        };
        let mut at = body;
        let mut opt = None;
        for (section, count) in counts.iter().enumerate() {
            for _ in 0..*count {
                let start = at;
                let after = skip_name(message, at)?;
                let kind = u16_at(message, after)?;
                let ttl = u32_at(message, after + 4)?;
                let length = usize::from(u16_at(message, after + 8)?);
                let data = message.get(after + 10..after + 10 + length)?;
                at = after + 10 + length;
                if kind == rtype::OPT {
                    opt = Some((start, at));
                    continue;
                }
                response.ttls.push(u16::try_from(after + 4).ok()?);
                let mut lasts = ttl;
                if kind == rtype::SOA && section == 1 {
                    lasts = lasts.min(u32_at(data, length.checked_sub(4)?)?);
                }
                if section == 0 || (section == 1 && counts[0] == 0) {
                    response.ttl = Some(response.ttl.map_or(lasts, |t| t.min(lasts)));
                }
            }
        }
        response.message = message.get(..at)?.to_vec();
        if let Some((start, end)) = opt {
            // An OPT that is not last would shift what later records point to; nobody sends that.
            if end != at {
                return None;
            }
            response.message.truncate(start);
            let left = counts[2].checked_sub(1)?;
            response.message[10..12].copy_from_slice(&left.to_be_bytes());
        }
        Some(response)
    }

    /// Its address and alias records, to go behind a name of ours that leads there.
    pub fn addresses(&self, age: u32, cap: u32) -> Vec<Record> {
        let mut records = Vec::new();
        let message = &self.message;
        let mut read = || -> Option<()> {
            let mut at = skip_name(message, 12)? + 4;
            for _ in 0..u16_at(message, 6)? {
                let after = skip_name(message, at)?;
                let ttl = u32_at(message, after + 4)?.saturating_sub(age).min(cap);
                let length = usize::from(u16_at(message, after + 8)?);
                let data = message.get(after + 10..after + 10 + length)?;
                let data = match u16_at(message, after)? {
                    rtype::A => Some(Data::A(<[u8; 4]>::try_from(data).ok()?.into())),
                    rtype::AAAA => Some(Data::Aaaa(<[u8; 16]>::try_from(data).ok()?.into())),
                    rtype::CNAME => Some(Data::Cname(read_name(message, after + 10)?)),
                    _ => None,
                };
                if let Some(data) = data {
                    records.push(Record { name: Some(read_name(message, at)?), ttl, data });
                }
                at = after + 10 + length;
            }
            Some(())
        };
        // What could be read counts; the message was checked when it came.
        let _complete = read();
        records
    }

    /// Writes it for a client: its id, its spelling of the name, TTLs less `age` but at most `cap`, cut to `limit`.
    pub fn write(&self, query: &Query, age: u32, cap: u32, limit: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.message);
        let [a, b] = query.id.to_be_bytes();
        out[0] = a;
        out[1] = b;
        // Never authoritative; recursion desired as asked, available.
        out[2] = out[2] & !0x05 & !0x02 | u8::from(query.recursion);
        out[3] |= 0x80;
        // The case of this client's question; same name, so same length.
        if let Some(place) = out.get_mut(12..12 + query.question.len()) {
            place.copy_from_slice(&query.question);
        }
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            if let Some(place) = out.get_mut(at..at + 4) {
                let ttl = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                place.copy_from_slice(&ttl.saturating_sub(age).min(cap).to_be_bytes());
            }
        }
        let opt = if query.edns.is_some() { OPT_LEN } else { 0 };
        if out.len() + opt > limit || self.truncated {
            out.truncate(12 + query.question.len());
            out[2] |= 0x02;
            out[6..12].fill(0);
        }
        if let Some(edns) = &query.edns {
            let additional = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
            out[10..12].copy_from_slice(&additional.to_be_bytes());
            push_opt(out, edns, self.rcode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn query(name: &str, qtype: u16, edns: Option<Edns>) -> Vec<u8> {
        let mut question = Vec::new();
        push_name(&mut question, name);
        question.extend_from_slice(&qtype.to_be_bytes());
        question.extend_from_slice(&CLASS_IN.to_be_bytes());
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        message.extend_from_slice(&question);
        if let Some(edns) = edns {
            push_opt(&mut message, &edns, 0);
        }
        message
    }

    #[test]
    fn queries_are_read() {
        let edns = Edns { udp_size: MAX_UDP, version: 0, dnssec: true };
        let parsed = Query::parse(&query("Web.Default.SVC.cluster.local", rtype::A, Some(edns))).unwrap();
        assert_eq!(parsed.name, "web.default.svc.cluster.local");
        assert_eq!((parsed.id, parsed.qtype, parsed.edns), (0x1234, rtype::A, Some(edns)));
        assert_eq!(&parsed.question[1..4], b"Web");
        assert_eq!(parsed.udp_limit(), 1232);
        assert_eq!(Query::parse(&query("", rtype::NS, None)).unwrap().name, "");
    }

    #[test]
    fn what_is_no_query_is_told_apart() {
        assert_eq!(Query::parse(&[0; 5]), Err(BadQuery::Ignore));
        let mut answer = query("a", 1, None);
        answer[2] |= 0x80;
        assert_eq!(Query::parse(&answer), Err(BadQuery::Ignore));
        let mut update = query("a", 1, None);
        update[2] |= 5 << 3;
        assert_eq!(Query::parse(&update), Err(BadQuery::Answer(0x1234, Rcode::NotImp)));
        let mut two = query("a", 1, None);
        two[5] = 2;
        assert_eq!(Query::parse(&two), Err(BadQuery::Answer(0x1234, Rcode::FormErr)));
        // A name that points to itself, and one without end.
        let mut looping = query("a", 1, None);
        looping.splice(12..15, [0xc0, 12]);
        assert_eq!(Query::parse(&looping), Err(BadQuery::Answer(0x1234, Rcode::FormErr)));
    }

    #[test]
    fn any_damage_ends_in_an_answer_or_an_error() {
        // Not only cut: each byte changed to each of some values, alone and with its neighbour.
        let edns = Some(Edns { udp_size: 4096, version: 0, dnssec: false });
        let good = query("a.very.long.name.example.com", rtype::SRV, edns);
        let upstream = {
            let parsed = Query::parse(&good).unwrap();
            let records = vec![Record { name: None, ttl: 60, data: Data::Srv(0, 1, 2, "x.example.com".into()) }; 3];
            let answer = Answer { answers: records.clone(), additional: records, ..Answer::default() };
            let mut out = Vec::new();
            write_answer(&parsed, &answer, 4096, &mut out);
            out
        };
        let question = Query::parse(&good).unwrap().question;
        let mut readable = 0;
        for message in [&good, &upstream] {
            for at in 0..message.len() {
                for value in [0, 1, 12, 63, 64, 127, 128, 192, 255] {
                    let mut wrong = message.clone();
                    wrong[at] = value;
                    for cut in [wrong.len(), at + 1, at] {
                        readable += usize::from(Query::parse(&wrong[..cut]).is_ok());
                        if let Some(response) = Response::parse(&wrong[..cut], 0x1234, &question) {
                            let mut out = Vec::new();
                            response.write(&Query::parse(&good).unwrap(), 5, 30, 512, &mut out);
                            readable += 1;
                        }
                    }
                }
            }
        }
        assert!(readable > 100);
    }

    #[test]
    fn long_answers_are_cut_and_say_so() {
        let parsed = Query::parse(&query("web.default.svc.cluster.local", rtype::A, None)).unwrap();
        let records: Vec<_> =
            (0..100).map(|i| Record { name: None, ttl: 30, data: Data::A([10, 0, 0, i].into()) }).collect();
        let mut out = Vec::new();
        write_answer(&parsed, &Answer { answers: records, ..Answer::default() }, 512, &mut out);
        assert!(out.len() <= 512 && out[2] & 0x02 != 0);
        assert_eq!(usize::from(u16::from_be_bytes([out[6], out[7]])), (512 - 12 - parsed.question.len()) / 16);
        let few = vec![Record { name: None, ttl: 30, data: Data::A([10, 0, 0, 1].into()) }];
        let many = vec![Record { name: Some("x".into()), ttl: 30, data: Data::A([10, 0, 0, 1].into()) }; 100];
        write_answer(&parsed, &Answer { answers: few, additional: many, ..Answer::default() }, 512, &mut out);
        assert!(out.len() <= 512 && out[2] & 0x02 == 0, "additional records are left out without a word");
    }

    #[test]
    fn an_upstream_answer_is_kept_and_given_in_the_askers_case() {
        let asked = query("ExAmPle.com", rtype::A, Some(Edns { udp_size: 1232, version: 0, dnssec: false }));
        let parsed = Query::parse(&asked).unwrap();
        let record = Record { name: None, ttl: 300, data: Data::A([192, 0, 2, 1].into()) };
        let mut wire = Vec::new();
        write_answer(&parsed, &Answer { answers: vec![record], ..Answer::default() }, 512, &mut wire);
        let kept = Response::parse(&wire, 0x1234, &parsed.question).unwrap();
        assert_eq!((kept.ttl, kept.rcode, kept.ttls.len()), (Some(300), 0, 1));
        assert!(Response::parse(&wire, 0x1235, &parsed.question).is_none(), "another id");
        let other = Query::parse(&query("EXAMPLE.com", rtype::A, None)).unwrap();
        assert!(Response::parse(&wire, 0x1234, &other.question).is_none(), "another spelling");
        let mut out = Vec::new();
        kept.write(&other, 290, 30, 512, &mut out);
        let back = Response::parse(&out, 0x1234, &other.question).unwrap();
        assert_eq!(back.ttl, Some(10));
        kept.write(&other, 10, 30, 512, &mut out);
        assert_eq!(Response::parse(&out, 0x1234, &other.question).unwrap().ttl, Some(30));
    }
}
