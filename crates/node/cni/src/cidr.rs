//! Address ranges of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: address (host bits zero) and prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

/// Not an address range.
#[derive(Debug, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidCidr(pub String);

impl Cidr {
    /// The network that holds `ip`.
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return None;
        }
        let mask = mask(ip.is_ipv4(), prefix);
        Some(Self { ip: from_number(ip.is_ipv4(), number(ip) & mask), prefix })
    }

    /// First address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }

    /// Holds the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && number(ip) & mask(ip.is_ipv4(), self.prefix) == number(self.ip)
    }

    /// The mask's bytes.
    pub fn mask_bytes(&self) -> Vec<u8> {
        octets(from_number(self.is_ipv4(), mask(self.is_ipv4(), self.prefix)))
    }

    /// The first and last address that a host can have: without network and broadcast address, which a /31 or /32
    /// (/127, /128) does not have.
    pub fn hosts(&self) -> (IpAddr, IpAddr) {
        let v4 = self.is_ipv4();
        let (bits, first) = (if v4 { 32 } else { 128 }, number(self.ip));
        let last = first | !mask(v4, self.prefix) & mask(v4, bits);
        if bits - self.prefix <= 1 {
            return (self.ip, from_number(v4, last));
        }
        (from_number(v4, first + 1), from_number(v4, if v4 { last - 1 } else { last }))
    }
}

fn mask(v4: bool, prefix: u8) -> u128 {
    let bits = if v4 { 32u32 } else { 128 };
    let all = if v4 { u128::from(u32::MAX) } else { u128::MAX };
    let host = bits - u32::from(prefix).min(bits);
    if host == 128 { 0 } else { (all >> host) << host }
}

/// The address as a number.
pub fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address with that number.
pub fn from_number(v4: bool, number: u128) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::from(number as u32)) } else { IpAddr::V6(Ipv6Addr::from(number)) }
}

/// 4 or 16 bytes.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let wrong = || InvalidCidr(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (ip, prefix) = (ip.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        Self::new(ip, prefix).ok_or_else(wrong)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.1.0/24");
        assert!(cidr.contains("10.244.1.255".parse().unwrap()));
        assert!(!cidr.contains("10.244.2.0".parse().unwrap()));
        assert!(!cidr.contains("::1".parse().unwrap()));
        assert_eq!(cidr.hosts(), ("10.244.1.1".parse().unwrap(), "10.244.1.254".parse().unwrap()));
        assert_eq!(cidr.mask_bytes(), [255, 255, 255, 0]);
        let one: Cidr = "10.0.0.9/32".parse().unwrap();
        assert_eq!(one.hosts(), ("10.0.0.9".parse().unwrap(), "10.0.0.9".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("fe80::1".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", "10.0.0.0/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
