//! Installing a seccomp filter that somebody else compiled.

use std::io;

/// Size of one BPF instruction.
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Installs a filter, given as the kernel's instructions in memory order. Without `no_new_privs` the caller needs
/// `CAP_SYS_ADMIN`. Cannot be undone.
pub fn install(filter: &[u8]) -> io::Result<()> {
    if filter.is_empty() || !filter.len().is_multiple_of(INSTRUCTION) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut program: Vec<libc::sock_filter> = filter
        .chunks_exact(INSTRUCTION)
        .map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        })
        .collect();
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let descriptor = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor points to `len` instructions that outlive the call; the kernel verifies and copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const descriptor) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
