//! Capabilities: names, sets, and dropping to a set.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Names in the kernel's order, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps(pub u64);

impl Caps {
    /// All that this code knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The one called `name`, with or without `CAP_`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().position(|known| *known == plain).map(|bit| Self(1 << bit))
    }

    /// Members of both.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What the calling process may hand on.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self(rustix::thread::capabilities(None)?.permitted.bits()))
    }
}

/// Takes everything outside `keep` from the bounding set, so that no program run later can regain it.
pub fn bound(keep: Caps) -> io::Result<()> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.0 & (1 << bit) == 0 {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Beyond the kernel's last capability.
                Err(rustix::io::Errno::INVAL) => break,
                other => other?,
            }
        }
    }
    Ok(())
}

/// Keeps the permitted set across the change of user.
pub fn keep_across_setuid() -> io::Result<()> {
    Ok(rustix::thread::set_keep_capabilities(true)?)
}

/// Sets permitted and effective to `caps`, and `ambient` (also inheritable), which a program run as a user other
/// than root keeps.
pub fn limit(caps: Caps, ambient: Caps) -> io::Result<()> {
    let set = CapabilitySet::from_bits_retain(caps.0);
    let inheritable = CapabilitySet::from_bits_retain(ambient.0);
    rustix::thread::set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable })?;
    rustix::thread::clear_ambient_capability_set()?;
    for bit in 0..64 {
        if ambient.0 & (1 << bit) != 0 {
            rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << bit), true)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_the_kernels_bits() {
        assert_eq!(Caps::named("CAP_SYS_ADMIN"), Some(Caps(1 << 21)));
        assert_eq!(Caps::named("net_raw"), Some(Caps(1 << 13)));
        assert_eq!(Caps::named("CHECKPOINT_RESTORE"), Some(Caps(1 << 40)));
        assert_eq!(Caps::named("CAP_CAP_CHOWN"), None);
    }
}
