//! Ranges of addresses and ports, and in which order they are handed out. Pure.
//!
//! Addresses that the server picks come from the upper band first, so that the lower one stays free for those that
//! people choose (KEP-3070, KEP-3668). Mirrors `calculateRangeOffset` of the IP and of the port allocator.

use skiff_machinery::names::{Cidr, parse_cidr_sloppy};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The usable addresses of one service network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpRange {
    text: String,
    base: u128,
    size: u128,
    four: bool,
}

/// The most addresses of one range that are looked at for one allocation.
const MOST_TRIES: u128 = 1 << 16;

impl IpRange {
    /// From CIDR notation: without the network address and, for IPv4, the broadcast address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let cidr: Cidr = parse_cidr_sloppy(text)?;
        let network = cidr.network();
        let bits = u32::from(cidr.prefix);
        let (base, width, four) = match network {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32 - bits, true),
            IpAddr::V6(ip) => (u128::from(ip), 128 - bits, false),
        };
        let all = if width >= 64 { 1u128 << 64 } else { 1u128 << width };
        let size = all.saturating_sub(if four { 2 } else { 1 });
        Some(Self { text: text.to_owned(), base, size, four })
    }

    /// `IPv4` or `IPv6`.
    pub(crate) fn family(&self) -> &'static str {
        if self.four { "IPv4" } else { "IPv6" }
    }
    /// As written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
    /// How far an address is from the network address; `None` outside of its family.
    fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        match ip {
            IpAddr::V4(ip) if self.four => u128::from(u32::from(ip)).checked_sub(self.base),
            IpAddr::V6(ip) if !self.four => u128::from(ip).checked_sub(self.base),
            _ => None,
        }
    }
    /// Whether it is a usable address of this range.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.offset_of(ip).is_some_and(|offset| (1..=self.size).contains(&offset))
    }
    /// Whether an address lies in this network, usable or not.
    pub(crate) fn spans(&self, ip: IpAddr) -> bool {
        self.offset_of(ip).is_some_and(|offset| offset <= self.size + u128::from(self.four))
    }
    /// Where the band begins from which the server picks.
    fn offset(&self) -> u128 {
        if self.size <= 16 { 0 } else { (self.size / 16).clamp(16, 256) }
    }
    /// The address with this index.
    fn at(&self, index: u128) -> IpAddr {
        let number = self.base + 1 + index;
        if self.four {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(number & 0xffff_ffff).unwrap_or(0)))
        } else {
            IpAddr::V6(Ipv6Addr::from(number))
        }
    }
    /// Addresses in the order in which they are tried: the upper band from a random place, then the lower one.
    pub(crate) fn candidates(&self, random: u64) -> impl Iterator<Item = IpAddr> + '_ {
        order(self.offset(), self.size, random)
            .take(usize::try_from(MOST_TRIES).unwrap_or(usize::MAX))
            .map(|index| self.at(index))
    }
}

/// Indices `[offset, size)` from a random one on, wrapping; then `[0, offset)`.
fn order(offset: u128, size: u128, random: u64) -> impl Iterator<Item = u128> {
    let upper = size - offset;
    let start = if upper == 0 { 0 } else { u128::from(random) % upper };
    let upper_band = (0..upper).map(move |step| offset + (start + step) % upper.max(1));
    upper_band.chain(0..offset)
}

/// Node ports (`--service-node-port-range`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 30_000, last: 32_767 }
    }
}

/// `FIRST-LAST`, `FIRST+SIZE` or one port (`net.ParsePortRange`).
impl std::str::FromStr for PortRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of ports: FIRST-LAST, FIRST+SIZE or one port");
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
        let (first, last) = match (text.split_once('-'), text.split_once('+')) {
            (Some((first, last)), _) => (number(first)?, number(last)?),
            (None, Some((first, more))) => {
                let first = number(first)?;
                (first, first.checked_add(number(more)?).ok_or_else(wrong)?)
            }
            (None, None) => (number(text)?, number(text)?),
        };
        if first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl PortRange {
    /// Whether a port is in the range.
    pub(crate) fn contains(self, port: i64) -> bool {
        (i64::from(self.first)..=i64::from(self.last)).contains(&port)
    }
    /// Ports in the order in which they are tried.
    pub(crate) fn candidates(self, random: u64) -> impl Iterator<Item = u16> {
        let size = u128::from(self.last.saturating_sub(self.first)) + 1;
        let offset = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        order(offset, size, random).map(move |index| self.first + u16::try_from(index).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_address_once_upper_band_first() {
        let range = IpRange::parse("10.0.0.0/24").unwrap();
        let all: Vec<IpAddr> = range.candidates(77).collect();
        assert_eq!(all.len(), 254);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 254);
        assert!(all[..238].iter().all(|ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[3] > 16)));
        assert_eq!(all[238], "10.0.0.1".parse::<IpAddr>().unwrap());
        assert!(range.contains("10.0.0.254".parse().unwrap()));
        assert!(!range.contains("10.0.0.255".parse().unwrap()));
        assert!(!range.contains("10.0.0.0".parse().unwrap()));
    }

    #[test]
    fn node_ports_leave_the_lower_band() {
        let ports: Vec<u16> = PortRange::default().candidates(0).collect();
        assert_eq!(ports.len(), 2768);
        assert_eq!(ports[0], 30_086);
        assert_eq!(ports[2767], 30_085);
    }

    #[test]
    fn ranges_of_ports_are_read() {
        let read = |text: &str| text.parse::<PortRange>().map(|range| range.to_string());
        assert_eq!(read("30000-32767").unwrap(), "30000-32767");
        assert_eq!(read("30000+767").unwrap(), "30000-30767");
        assert_eq!(read("80").unwrap(), "80-80");
        assert!(read("80-70").is_err() && read("a-b").is_err() && read("65535+1").is_err());
    }

    #[test]
    fn small_and_huge_ranges() {
        assert_eq!(IpRange::parse("10.0.0.0/30").unwrap().candidates(9).count(), 2);
        assert_eq!(IpRange::parse("10.0.0.0/32").unwrap().candidates(9).count(), 0);
        assert_eq!(IpRange::parse("fd00::/108").unwrap().candidates(3).count(), 1 << 16);
        assert!(IpRange::parse("fd00::/64").unwrap().contains("fd00::1".parse().unwrap()));
    }
}
