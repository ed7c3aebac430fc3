//! Kubernetes' own types: quantities, addresses, URLs, versions, formats (`k8s.io/apiserver/pkg/cel/library`).

use super::super::EvalError;
use super::super::signatures::FORMATS;
use super::super::value::{Outcome, Val, failed, some, text};
use super::{strings, texts};
use crate::names::{self, Cidr};
use crate::quantity::{Format, Quantity};
use base64::Engine;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

pub(super) fn call<'v>(name: &str, method: bool, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    if let Some(format) = name.strip_prefix("format.") {
        let find = |name: &str| FORMATS.iter().find(|known| **known == name).map(|name| Val::Format(name));
        return match args {
            [] => find(format).map(Ok),
            [Val::Str(name)] if format == "named" => Some(Ok(match find(name) {
                Some(found) => some(found),
                None => Val::Optional(None),
            })),
            _ => None,
        };
    }
    match args {
        [Val::Str(source)] if !method => from_text(name, source),
        [Val::Str(source), Val::Bool(lenient)] if !method => match name {
            "semver" => Some(Semver::parse(source, *lenient).map(|found| Val::Semver(Rc::new(found)))),
            "isSemver" => Some(Ok(Val::Bool(Semver::parse(source, *lenient).is_ok()))),
            _ => None,
        },
        [Val::Quantity(own), rest @ ..] => quantity(name, *own, rest),
        [Val::Ip(own)] => address(name, *own).map(Ok),
        [Val::Cidr(own), rest @ ..] => cidr(name, *own, rest),
        [Val::Url(own)] => own.part(name).map(Ok),
        [Val::Semver(own), rest @ ..] => own.call(name, rest),
        [Val::Format(format), Val::Str(value)] if name == "validate" => {
            let mistakes = mistakes(format, value);
            Some(Ok(if mistakes.is_empty() { Val::Optional(None) } else { some(texts(mistakes)) }))
        }
        _ => None,
    }
}

fn from_text<'v>(name: &str, source: &str) -> Option<Outcome<'v>> {
    let is = |found: bool| Some(Ok(Val::Bool(found)));
    match name {
        "quantity" => Some(match Quantity::parse(source) {
            Ok(found) => Ok(Val::Quantity(found)),
            Err(error) => failed(error.to_string()),
        }),
        "isQuantity" => is(Quantity::parse(source).is_ok()),
        "ip" => Some(parse_ip(source).map(Val::Ip)),
        "isIP" => is(parse_ip(source).is_ok()),
        "ip.isCanonical" => Some(parse_ip(source).map(|found| Val::Bool(found.to_string() == source))),
        "cidr" => Some(parse_cidr(source).map(Val::Cidr)),
        "isCIDR" => is(parse_cidr(source).is_ok()),
        "url" => Some(Url::parse(source).map(|found| Val::Url(Rc::new(found)))),
        "isURL" => is(Url::parse(source).is_ok()),
        "semver" => Some(Semver::parse(source, false).map(|found| Val::Semver(Rc::new(found)))),
        "isSemver" => is(Semver::parse(source, false).is_ok()),
        _ => None,
    }
}

fn quantity<'v>(name: &str, own: Quantity, rest: &[Val<'v>]) -> Option<Outcome<'v>> {
    let other = match rest {
        [] => None,
        [Val::Quantity(other)] => Some(*other),
        [Val::Int(number)] => Some(Quantity::new(*number, Format::DecimalSI)),
        _ => return None,
    };
    Some(match (name, other) {
        ("sign", None) => Ok(Val::Int(i64::from(own.sign()))),
        ("isInteger", None) => Ok(Val::Bool(own.as_int().is_some())),
        ("asInteger", None) => {
            own.as_int().map_or_else(|| failed("cannot convert value to integer"), |number| Ok(Val::Int(number)))
        }
        ("asApproximateFloat", None) => Ok(Val::Double(own.as_f64())),
        ("add", Some(other)) => {
            let mut sum = own;
            sum.add(other);
            Ok(Val::Quantity(sum))
        }
        ("sub", Some(other)) => {
            let mut left = own;
            left.sub(other);
            Ok(Val::Quantity(left))
        }
        ("isGreaterThan", Some(other)) => Ok(Val::Bool(own > other)),
        ("isLessThan", Some(other)) => Ok(Val::Bool(own < other)),
        ("compareTo", Some(other)) => Ok(Val::Int(own.cmp(&other) as i64)),
        _ => return None,
    })
}

/// Without zones, and without IPv4 in IPv6.
fn parse_ip(source: &str) -> Result<IpAddr, EvalError> {
    match source.parse() {
        Ok(IpAddr::V6(found)) if found.to_ipv4_mapped().is_some() => {
            failed(format!("IPv4-mapped IPv6 address {} is not allowed", crate::error::quote(source)))
        }
        Ok(found) => Ok(found),
        Err(_) => {
            failed(format!("IP Address {} parse error during conversion from string", crate::error::quote(source)))
        }
    }
}

fn parse_cidr(source: &str) -> Result<Cidr, EvalError> {
    let fault = || {
        EvalError::Failed(format!(
            "network address parse error during conversion from string: {}",
            crate::error::quote(source)
        ))
    };
    let (address, prefix) = source.split_once('/').ok_or_else(fault)?;
    let address = parse_ip(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let plain = !prefix.is_empty()
        && prefix.bytes().all(|byte| byte.is_ascii_digit())
        && (prefix == "0" || !prefix.starts_with('0'));
    let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= most && plain).ok_or_else(fault)?;
    Ok(Cidr { address, prefix })
}

fn address<'v>(name: &str, own: IpAddr) -> Option<Val<'v>> {
    let multicast = match own {
        IpAddr::V4(own) => own.octets()[..3] == [224, 0, 0],
        IpAddr::V6(own) => own.segments()[0] & 0xff0f == 0xff02,
    };
    let local = match own {
        IpAddr::V4(own) => own.is_link_local(),
        IpAddr::V6(own) => own.segments()[0] & 0xffc0 == 0xfe80,
    };
    Some(match name {
        "family" => Val::Int(if own.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(own.is_unspecified()),
        "isLoopback" => Val::Bool(own.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(multicast),
        "isLinkLocalUnicast" => Val::Bool(local),
        "isGlobalUnicast" => {
            let broadcast = matches!(own, IpAddr::V4(own) if own.is_broadcast());
            Val::Bool(!(own.is_unspecified() || own.is_loopback() || own.is_multicast() || local || broadcast))
        }
        _ => return None,
    })
}

/// Whether the network holds an address.
fn holds(network: Cidr, address: IpAddr) -> bool {
    address.is_ipv4() == network.address.is_ipv4()
        && Cidr { address, prefix: network.prefix }.network() == network.network()
}

fn cidr<'v>(name: &str, own: Cidr, rest: &[Val<'v>]) -> Option<Outcome<'v>> {
    let within = |other: Cidr| Val::Bool(other.prefix >= own.prefix && holds(own, other.address));
    Some(match (name, rest) {
        ("containsIP", [Val::Ip(address)]) => Ok(Val::Bool(holds(own, *address))),
        ("containsIP", [Val::Str(address)]) => parse_ip(address).map(|address| Val::Bool(holds(own, address))),
        ("containsCIDR", [Val::Cidr(other)]) => Ok(within(*other)),
        ("containsCIDR", [Val::Str(other)]) => parse_cidr(other).map(within),
        ("ip", []) => Ok(Val::Ip(own.address)),
        ("masked", []) => Ok(Val::Cidr(Cidr { address: own.network(), prefix: own.prefix })),
        ("prefixLength", []) => Ok(Val::Int(own.prefix.into())),
        _ => return None,
    })
}

/// A URL with a scheme, or a path from the root (`url.ParseRequestURI`).
#[derive(Clone, Debug)]
pub(in super::super) struct Url {
    text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    pub(in super::super) fn text(&self) -> &str {
        &self.text
    }

    fn parse(source: &str) -> Result<Self, EvalError> {
        let fault = |why: &str| {
            failed(format!(
                "URL parse error during conversion from string: parse {}: {why}",
                crate::error::quote(source)
            ))
        };
        if source.bytes().any(|byte| byte.is_ascii_control()) {
            return fault("net/url: invalid control character in URL");
        }
        let letters = source.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)).count();
        let starts = source.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let (scheme, rest) = match source.get(letters..letters + 1) {
            Some(":") if starts => (source[..letters].to_ascii_lowercase(), &source[letters + 1..]),
            _ if source.starts_with('/') => (String::new(), source),
            _ => return fault("invalid URI for request"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() || rest.starts_with('/') || !rest.is_empty() => {
                let end = rest.find('/').unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
            _ if rest.starts_with('/') => ("", rest),
            _ => return fault("invalid URI for request"),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.contains(' ') || host.contains('[') != host.contains(']') {
            return fault("invalid character in host name");
        }
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map(|(_, port)| port);
        if port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit())) {
            return fault("invalid port after host");
        }
        let (text, host, path, query) = (source.to_owned(), host.to_owned(), path.to_owned(), query.to_owned());
        Ok(Self { text, scheme, host, path, query })
    }

    fn part<'v>(&self, name: &str) -> Option<Val<'v>> {
        let bracket = self.host.find(']');
        let (hostname, port) = match (bracket, self.host.rsplit_once(':')) {
            (Some(end), _) => (&self.host[1..end], self.host[end + 1..].trim_start_matches(':')),
            (None, Some((name, port))) => (name, port),
            (None, None) => (self.host.as_str(), ""),
        };
        Some(match name {
            "getScheme" => text(self.scheme.as_str()),
            "getHost" => text(self.host.as_str()),
            "getHostname" => text(hostname),
            "getPort" => text(port),
            "getEscapedPath" => text(self.path.replace(' ', "%20")),
            "getQuery" => {
                let mut all: Vec<(String, Vec<String>)> = Vec::new();
                for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let (key, value) = (unescaped(key), unescaped(value));
                    match all.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, values)) => values.push(value),
                        None => all.push((key, vec![value])),
                    }
                }
                Val::Map(Rc::new(all.into_iter().map(|(key, values)| (text(key), texts(values))).collect()))
            }
            _ => return None,
        })
    }
}

/// `%20` and `+` as what they stand for.
fn unescaped(source: &str) -> String {
    let mut out = Vec::new();
    let bytes = source.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = source.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A semantic version.
#[derive(Clone, Debug)]
pub(in super::super) struct Semver {
    numbers: [u64; 3],
    before: Vec<String>,
    build: String,
}

impl Semver {
    /// `lenient`: a leading `v`, missing parts and leading zeros are taken.
    fn parse(source: &str, lenient: bool) -> Result<Self, EvalError> {
        let fault = || EvalError::Failed(format!("invalid semantic version: {}", crate::error::quote(source)));
        let rest = if lenient { source.trim().trim_start_matches('v') } else { source };
        let (rest, build) = rest.split_once('+').unwrap_or((rest, ""));
        let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
        let mut numbers = [0; 3];
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3 || parts.len() < 3 && !lenient {
            return Err(fault());
        }
        for (number, part) in numbers.iter_mut().zip(&parts) {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if !digits || !lenient && part.len() > 1 && part.starts_with('0') {
                return Err(fault());
            }
            *number = part.parse().map_err(|_| fault())?;
        }
        let before: Vec<String> = before.into_iter().flat_map(|before| before.split('.')).map(str::to_owned).collect();
        let word =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !before.iter().all(|part| word(part)) || !build.is_empty() && !build.split('.').all(word) {
            return Err(fault());
        }
        Ok(Self { numbers, before, build: build.to_owned() })
    }

    fn call<'v>(&self, name: &str, rest: &[Val<'v>]) -> Option<Outcome<'v>> {
        let number = |at: usize| {
            i64::try_from(self.numbers[at]).map_or_else(|_| failed("integer overflow"), |found| Ok(Val::Int(found)))
        };
        Some(match (name, rest) {
            ("major", []) => number(0),
            ("minor", []) => number(1),
            ("patch", []) => number(2),
            ("isGreaterThan", [Val::Semver(other)]) => Ok(Val::Bool(self > other)),
            ("isLessThan", [Val::Semver(other)]) => Ok(Val::Bool(self < other)),
            ("compareTo", [Val::Semver(other)]) => Ok(Val::Int(self.cmp(other) as i64)),
            _ => return None,
        })
    }
}

impl PartialEq for Semver {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Semver {}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    /// By the rules of semver.org: builds do not count.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let part = |left: &String, right: &String| match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            (Ok(_), Err(_)) => std::cmp::Ordering::Less,
            (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
            (Err(_), Err(_)) => left.cmp(right),
        };
        let before = || match (self.before.is_empty(), other.before.is_empty()) {
            (true, false) => std::cmp::Ordering::Greater,
            (false, true) => std::cmp::Ordering::Less,
            _ => {
                let pairs = self.before.iter().zip(&other.before).map(|(left, right)| part(left, right));
                let first = pairs.into_iter().find(|found| found.is_ne());
                first.unwrap_or_else(|| self.before.len().cmp(&other.before.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(before)
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.before.is_empty() {
            write!(f, "-{}", self.before.join("."))?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

/// What is wrong with a value by a named format.
fn mistakes(format: &str, value: &str) -> Vec<String> {
    let unless = |holds: bool, what: &str| if holds { Vec::new() } else { vec![what.to_owned()] };
    let prefix = || value.strip_suffix('-').unwrap_or(value);
    match format {
        "dns1123Label" => names::is_dns1123_label(value),
        "dns1123Subdomain" => names::is_dns1123_subdomain(value),
        "dns1035Label" => names::is_dns1035_label(value),
        "qualifiedName" => names::is_qualified_name(value),
        "dns1123LabelPrefix" => names::is_dns1123_label(prefix()),
        "dns1123SubdomainPrefix" => names::is_dns1123_subdomain(prefix()),
        "dns1035LabelPrefix" => names::is_dns1035_label(prefix()),
        "labelValue" => names::is_valid_label_value(value),
        "uri" => match Url::parse(value) {
            Ok(_) => Vec::new(),
            Err(error) => vec![error.to_string()],
        },
        "uuid" => {
            let pattern = r"^(?i)[0-9A-F]{8}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{4}-?[0-9A-F]{12}$";
            unless(strings::compile(pattern).is_ok_and(|regex| regex.is_match(value)), "does not match the UUID format")
        }
        "byte" => unless(base64::engine::general_purpose::STANDARD.decode(value).is_ok(), "invalid base64"),
        "date" => unless(value.len() == 10 && value.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
        "datetime" => unless(value.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
        "ipv4" => unless(value.parse::<std::net::Ipv4Addr>().is_ok(), "must be a valid IPv4 address"),
        "ipv6" => unless(value.parse::<std::net::Ipv6Addr>().is_ok(), "must be a valid IPv6 address"),
        _ => vec![format!("unknown format {format}")],
    }
}
