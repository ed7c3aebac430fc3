//! IP addresses and CIDRs as API fields hold them (`k8s.io/apimachinery/pkg/util/validation/ip.go`).
//!
//! Old fields accept what Go accepted before 1.17 (`k8s.io/utils/net` calls it *sloppy*): octets with leading zeros, and
//! IPv4-mapped IPv6, both of which other programs read differently. The strict rule (gate `StrictIPCIDRValidation`)
//! refuses those; where it is off they only cause a warning.

use crate::error::quote;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with a prefix length, as written: bits beyond the prefix are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address; an IPv4-mapped IPv6 address stays IPv6.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
}

impl Cidr {
    /// The network: the address with the bits beyond the prefix cleared.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }
    fn to_text(self) -> String {
        format!("{}/{}", go_text(self.network()), self.prefix)
    }
}

/// A run of digits at the start of `text`: its value (saturating) and length; `None` without digits.
fn number(text: &[u8], radix: u32) -> Option<(u32, usize)> {
    let mut value = 0u32;
    let mut length = 0;
    while let Some(digit) = text.get(length).and_then(|&byte| char::from(byte).to_digit(radix)) {
        value = value.saturating_mul(radix).saturating_add(digit);
        length += 1;
    }
    (length > 0).then_some((value, length))
}

fn parse_ipv4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let (value, length) = number(part.as_bytes(), 10)?;
        if length != part.len() {
            return None;
        }
        *octet = u8::try_from(value).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn parse_ipv6_sloppy(text: &str) -> Option<Ipv6Addr> {
    let mut groups: Vec<u16> = Vec::with_capacity(8);
    let mut ellipsis = None;
    let mut rest = text;
    if let Some(after) = rest.strip_prefix("::") {
        ellipsis = Some(0);
        rest = after;
    }
    while !rest.is_empty() {
        if groups.len() == 8 {
            return None;
        }
        let (value, length) = number(rest.as_bytes(), 16)?;
        if rest.as_bytes().get(length) == Some(&b'.') {
            if groups.len() > 6 || (ellipsis.is_none() && groups.len() != 6) {
                return None;
            }
            let [a, b, c, d] = parse_ipv4_sloppy(rest)?.octets();
            groups.push(u16::from_be_bytes([a, b]));
            groups.push(u16::from_be_bytes([c, d]));
            break;
        }
        groups.push(u16::try_from(value).ok()?);
        rest = &rest[length..];
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(':').filter(|after| !after.is_empty())?;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.is_some() {
                return None;
            }
            ellipsis = Some(groups.len());
            rest = after;
        }
    }
    let missing = 8usize.checked_sub(groups.len())?;
    match ellipsis {
        None if missing > 0 => return None,
        Some(_) if missing == 0 => return None,
        Some(position) => {
            groups.splice(position..position, std::iter::repeat_n(0, missing));
        }
        None => {}
    }
    let groups: [u16; 8] = groups.try_into().ok()?;
    Some(Ipv6Addr::from(groups))
}

/// `ParseIPSloppy`. Without zones, like Go's `net.IP`.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    match text.bytes().find(|byte| matches!(byte, b'.' | b':'))? {
        b'.' => parse_ipv4_sloppy(text).map(IpAddr::V4),
        _ => parse_ipv6_sloppy(text).map(IpAddr::V6),
    }
}

/// `ParseCIDRSloppy`.
pub fn parse_cidr_sloppy(text: &str) -> Option<Cidr> {
    let (address, mask) = text.split_once('/')?;
    let address = parse_ip_sloppy(address)?;
    let (prefix, length) = number(mask.as_bytes(), 10)?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    if length != mask.len() || prefix > widest {
        return None;
    }
    Some(Cidr { address, prefix: u8::try_from(prefix).ok()? })
}

/// How Go prints a `net.IP`: an IPv4-mapped address as IPv4.
fn go_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}
fn mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some())
}
/// `net.IP.To4() != nil`.
fn is_four(address: IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}
fn strictly_parsed(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}
/// `netip.ParsePrefix`: no sign, no leading zero.
fn strict_prefix(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        strictly_parsed(address).is_some() && (length == "0" || !length.starts_with('0'))
    })
}

const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// `IsValidIP`; with `strict` also refuses leading zeros and IPv4-mapped IPv6.
pub fn is_valid_ip(value: &str, strict: bool) -> Vec<String> {
    let message = match parse_ip_sloppy(value) {
        None => NOT_AN_IP,
        Some(_) if strict && strictly_parsed(value).is_none() => "must not have leading 0s",
        Some(address) if strict && mapped(address) => "must not be an IPv4-mapped IPv6 address",
        Some(_) => return Vec::new(),
    };
    vec![message.to_owned()]
}
/// `IsValidIPv4Address`.
pub fn is_valid_ipv4_address(value: &str) -> Vec<String> {
    if parse_ip_sloppy(value).is_some_and(is_four) {
        return Vec::new();
    }
    vec!["must be a valid IPv4 address".to_owned()]
}
/// `IsValidIPv6Address`.
pub fn is_valid_ipv6_address(value: &str) -> Vec<String> {
    if parse_ip_sloppy(value).is_some_and(|address| !is_four(address)) {
        return Vec::new();
    }
    vec!["must be a valid IPv6 address".to_owned()]
}
/// `IsValidCIDR`; with `strict` also refuses leading zeros, IPv4-mapped IPv6 and bits beyond the prefix.
pub fn is_valid_cidr(value: &str, strict: bool) -> Vec<String> {
    let Some(cidr) = parse_cidr_sloppy(value) else { return vec![NOT_A_CIDR.to_owned()] };
    let mut errors = Vec::new();
    if strict {
        if !strict_prefix(value) {
            errors.push("must not have leading 0s in IP or prefix length".to_owned());
        } else if mapped(cidr.address) {
            errors.push("must not have an IPv4-mapped IPv6 address".to_owned());
        }
        if cidr.address != cidr.network() {
            errors.push("must not have bits set beyond the prefix length".to_owned());
        }
    }
    errors
}
/// `IsValidInterfaceAddress`: an address with its subnet's length, in canonical form.
pub fn is_valid_interface_address(value: &str) -> Vec<String> {
    let Some(cidr) = parse_cidr_sloppy(value) else { return vec![NOT_A_CIDR.to_owned()] };
    let prefix = if mapped(cidr.address) { cidr.prefix.saturating_sub(96) } else { cidr.prefix };
    let canonical = format!("{}/{prefix}", go_text(cidr.address));
    if value == canonical { Vec::new() } else { vec![format!("must be in canonical form ({})", quote(&canonical))] }
}

/// `GetWarningsForIP`, without the field's path, for a value that [`is_valid_ip`] accepted.
pub fn warnings_for_ip(value: &str) -> Vec<String> {
    let Some(address) = parse_ip_sloppy(value) else { return Vec::new() };
    if strictly_parsed(value).is_none() || mapped(address) {
        return vec![format!(
            "non-standard IP address {} will be considered invalid in a future Kubernetes release: use {}",
            quote(value),
            quote(&go_text(address))
        )];
    }
    let canonical = address.to_string();
    if address.is_ipv6() && canonical != value {
        return vec![format!(
            "IPv6 address {} should be in RFC 5952 canonical format ({})",
            quote(value),
            quote(&canonical)
        )];
    }
    Vec::new()
}

/// `GetWarningsForCIDR`, without the field's path, for a value that [`is_valid_cidr`] accepted.
pub fn warnings_for_cidr(value: &str) -> Vec<String> {
    let Some(cidr) = parse_cidr_sloppy(value) else { return Vec::new() };
    let mut warnings = Vec::new();
    if cidr.address != cidr.network() {
        let widest = if cidr.address.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{widest}", go_text(cidr.address));
        warnings.push(format!(
            "CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(value),
            quote(&cidr.to_text()),
            quote(&single)
        ));
    }
    if !strict_prefix(value) || mapped(cidr.address) {
        warnings.push(format!(
            "non-standard CIDR value {} will be considered invalid in a future Kubernetes release: use {}",
            quote(value),
            quote(&cidr.to_text())
        ));
    }
    let canonical = format!("{}/{}", cidr.address, cidr.prefix);
    if warnings.is_empty() && cidr.address.is_ipv6() && canonical != value {
        warnings.push(format!(
            "IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
            quote(value),
            quote(&canonical)
        ));
    }
    warnings
}
