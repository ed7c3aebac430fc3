//! Which devices a cgroup may use. On v2 this is a small BPF program, written here instruction by instruction.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// Kind of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both.
    Any,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// A node for it may be made.
    pub mknod: bool,
}

impl DeviceRule {
    /// No restriction.
    pub const EVERYTHING: Self =
        Self { kind: DeviceKind::Any, major: None, minor: None, read: true, write: true, mknod: true };

    /// Full access to one character device.
    pub const fn char(major: u32, minor: Option<u32>) -> Self {
        Self { kind: DeviceKind::Char, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    pub(super) fn access(&self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')].iter().filter(|(on, _)| *on).map(|(_, c)| c).collect()
    }
}

/// One eBPF instruction.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: src << 4 | dst, offset, immediate }
}

/// The context is `{ access << 16 | kind, major, minor }`, kind 1 block, 2 char; access 1 mknod, 2 read, 4 write.
/// r2 kind, r3 access, r4 major, r5 minor; each rule jumps to the next one as soon as it does not fit.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let denied = i32::from(!rule.mknod) | i32::from(!rule.read) << 1 | i32::from(!rule.write) << 2;
        let mut tests = Vec::new();
        match rule.kind {
            DeviceKind::Any => {}
            DeviceKind::Block => tests.push(op(JUMP_IF_NOT_EQUAL, 2, 0, 0, 1)),
            DeviceKind::Char => tests.push(op(JUMP_IF_NOT_EQUAL, 2, 0, 0, 2)),
        }
        if denied != 0 {
            tests.push(op(MOVE_REGISTER, 6, 3, 0, 0));
            tests.push(op(AND_IMMEDIATE, 6, 0, 0, denied));
            tests.push(op(JUMP_IF_NOT_EQUAL, 6, 0, 0, 0));
        }
        if let Some(major) = rule.major {
            tests.push(op(JUMP_IF_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            tests.push(op(JUMP_IF_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        tests.push(op(MOVE_IMMEDIATE, 0, 0, 0, 1));
        tests.push(op(EXIT, 0, 0, 0, 0));
        let len = tests.len();
        for (index, test) in tests.iter_mut().enumerate() {
            if test.code == JUMP_IF_NOT_EQUAL {
                test.offset = (len - index - 1) as i16;
            }
        }
        code.extend(tests);
    }
    code.push(op(MOVE_IMMEDIATE, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// A child can only narrow what its parents allow.
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    rest: [u64; 4],
}

/// Attaches the program for `rules` to a v2 cgroup.
pub(super) fn attach(cgroup: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    if rules == [DeviceRule::EVERYTHING] {
        return Ok(());
    }
    let code = program(rules);
    let load = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: needed as no wrapper for bpf(2) is at hand; the attribute and what it points to outlive the call, and its
    // size is the structure's, unused fields zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let target = std::fs::File::open(cgroup)?;
    let attach = AttachAttr {
        target_fd: target.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
        ..AttachAttr::default()
    };
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<AttachAttr>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
