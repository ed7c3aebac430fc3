//! The socket: send a request, read acknowledgements or a dump.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::Error;
use super::message::{Message, NLM_F_DUMP, Received, attrs_at, messages};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NETLINK_GET_STRICT_CHK: i32 = 12;

/// How long the kernel may take for one answer. A batch is answered when it is committed; commits of hundreds of
/// thousands of objects take seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A dump that was interrupted by a change is started again this often.
const DUMP_TRIES: usize = 16;

/// A netlink socket of one protocol in one network namespace.
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    port: u32,
    buffer: Vec<u8>,
    send_buffer: usize,
}

/// An acknowledgement: zero or an error for one message of a request.
#[derive(Debug)]
pub struct Ack {
    /// Which message.
    pub seq: u32,
    /// `None`: done.
    pub error: Option<Errno>,
    /// The kernel's text.
    pub detail: Option<String>,
}

impl Socket {
    /// Opens a socket of `protocol` in the calling thread's network namespace, subscribed to the multicast groups of
    /// the bit mask `groups`.
    pub fn open(protocol: u32, groups: u32) -> Result<Self, Error> {
        let wrap = |source| Error::Open { protocol, source };
        let number = NonZeroU32::new(protocol).map(Protocol::from_raw);
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number)
            .map_err(wrap)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(wrap)?;
        let port = rustix::net::getsockname(&fd)
            .ok()
            .and_then(|any| SocketAddrNetlink::try_from(any).ok())
            .map_or(0, |address| address.pid());
        for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK] {
            set_option(fd.as_fd(), option).map_err(wrap)?;
        }
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(wrap)?;
        // Errors of a large batch, and dumps, must not overflow the default of 208 KiB. Without CAP_NET_ADMIN in the
        // initial user namespace the forced form fails and the limit of the host stays: not worth failing for.
        if sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, 4 << 20).map_err(wrap)?;
        }
        Ok(Self { fd, seq: 1, port, buffer: vec![0; 64 << 10], send_buffer: 0 })
    }

    /// The port the kernel gave us; notifications of our own changes carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// A fresh sequence number.
    pub fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Reserves `count` consecutive sequence numbers and returns the first.
    pub fn reserve_seq(&mut self, count: u32) -> u32 {
        if self.seq.checked_add(count).is_none() {
            self.seq = 1;
        }
        let first = self.seq + 1;
        self.seq += count;
        first
    }

    /// Sends the bytes as one datagram: a batch must not be split.
    pub fn send(&mut self, message: &Message, what: &str) -> Result<(), Error> {
        let bytes = message.as_bytes();
        let wrap = |source| Error::Send { what: what.to_owned(), bytes: bytes.len(), source };
        // The kernel counts the whole buffer and some overhead against the send buffer.
        let wanted = bytes.len().saturating_mul(2).max(256 << 10);
        if wanted > self.send_buffer {
            if sockopt::set_socket_send_buffer_size_force(&self.fd, wanted).is_err() {
                sockopt::set_socket_send_buffer_size(&self.fd, wanted).map_err(wrap)?;
            }
            self.send_buffer = wanted;
        }
        loop {
            match rustix::net::send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(source) => return Err(wrap(source)),
            }
        }
    }

    /// Reads one datagram and calls `each` for its messages until that says stop.
    fn receive(&mut self, what: &str, each: &mut dyn FnMut(Received<'_>) -> bool) -> Result<bool, Error> {
        let length = loop {
            // TRUNC makes the kernel tell the true length, so that a larger datagram is noticed, not cut in silence.
            match rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(source) => return Err(Error::Receive { what: what.to_owned(), source }),
            }
        };
        let Some(datagram) = self.buffer.get(..length) else {
            self.buffer.resize(length.next_power_of_two(), 0);
            return Err(Error::Receive { what: what.to_owned(), source: Errno::MSGSIZE });
        };
        for message in messages(datagram) {
            if each(message) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads acknowledgements until `done` says that the last one was seen.
    pub fn acks(&mut self, what: &str, mut done: impl FnMut(Ack) -> bool) -> Result<(), Error> {
        loop {
            let end = self.receive(what, &mut |message| message.kind == NLMSG_ERROR && done(parse_ack(&message)))?;
            if end {
                return Ok(());
            }
        }
    }

    /// One request with one acknowledgement. The message must have asked for it (`NLM_F_ACK`) under `seq`.
    pub fn request(&mut self, message: &Message, seq: u32, what: &str) -> Result<(), Error> {
        self.send(message, what)?;
        let mut outcome = Ok(());
        self.acks(what, |ack| {
            if ack.seq != seq {
                return false;
            }
            if let Some(source) = ack.error {
                outcome = Err(Error::Refused { what: what.to_owned(), detail: ack.detail, source });
            }
            true
        })?;
        outcome
    }

    /// One request with one answer that is not an acknowledgement (`RTM_GETLINK` by name, `NFT_MSG_GETGEN`).
    pub fn fetch<T>(
        &mut self,
        message: &Message,
        seq: u32,
        what: &str,
        mut parse: impl FnMut(Received<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.send(message, what)?;
        let mut outcome = Ok(None);
        while !self.receive(what, &mut |received| {
            if received.seq != seq {
                return false;
            }
            if received.kind == NLMSG_ERROR {
                let ack = parse_ack(&received);
                if let Some(source) = ack.error {
                    outcome = Err(Error::Refused { what: what.to_owned(), detail: ack.detail, source });
                }
            } else {
                outcome = Ok(parse(received));
            }
            true
        })? {}
        outcome
    }

    /// A dump: `build` writes the request, `each` sees every object. Starts again when the kernel says that the
    /// table changed meanwhile; `restart` then clears what was gathered.
    pub fn dump<C: Default>(
        &mut self,
        what: &str,
        kind: u16,
        fixed: &[u8],
        fill: impl Fn(&mut super::MessageMut<'_>),
        each: impl Fn(&mut C, Received<'_>),
    ) -> Result<C, Error> {
        for _ in 0..DUMP_TRIES {
            let seq = self.next_seq();
            let mut message = Message::new();
            message.push(kind, NLM_F_DUMP, seq, fixed, &fill);
            self.send(&message, what)?;
            let mut found = C::default();
            let mut interrupted = false;
            let mut failure = None;
            while !self.receive(what, &mut |received| {
                if received.seq != seq {
                    return false;
                }
                interrupted |= received.flags & NLM_F_DUMP_INTR != 0;
                match received.kind {
                    NLMSG_DONE => true,
                    NLMSG_ERROR => {
                        failure = Some(parse_ack(&received));
                        true
                    }
                    _ => {
                        each(&mut found, received);
                        false
                    }
                }
            })? {}
            match failure {
                Some(Ack { error: Some(Errno::INTR), .. }) => {}
                Some(Ack { error: Some(source), detail, .. }) => {
                    return Err(Error::Refused { what: what.to_owned(), detail, source });
                }
                _ if interrupted => {}
                _ => return Ok(found),
            }
        }
        Err(Error::Interrupted { what: what.to_owned() })
    }

    /// Reads what notifications are waiting, without waiting for more. `Err` with `ENOBUFS` says that some were lost.
    pub fn notifications(&mut self, mut each: impl FnMut(Received<'_>)) -> Result<(), Error> {
        loop {
            match rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((_, length)) => match self.buffer.get(..length) {
                    Some(datagram) => messages(datagram).for_each(&mut each),
                    None => {
                        self.buffer.resize(length.next_power_of_two(), 0);
                        return Err(Error::Receive { what: "notifications".into(), source: Errno::NOBUFS });
                    }
                },
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(source) => return Err(Error::Receive { what: "notifications".into(), source }),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn parse_ack(message: &Received<'_>) -> Ack {
    let number = message.payload.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    let error = (number != 0).then(|| Errno::from_raw_os_error(number.saturating_neg()));
    let detail = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            // The refused message follows, only its header when the answer is capped; then the attributes.
            let inner = message.payload.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
            let quoted = if message.flags & NLM_F_CAPPED != 0 { 16 } else { (inner as usize).next_multiple_of(4) };
            attrs_at(message.payload, 4usize.saturating_add(quoted))
                .find(|a| a.kind == NLMSGERR_ATTR_MSG)
                .and_then(|a| a.str())
                .map(str::to_owned)
        })
        .flatten();
    // In an error message the sequence number of the header is the one of the refused message.
    Ack { seq: message.seq, error, detail }
}

fn set_option(fd: BorrowedFd<'_>, option: i32) -> Result<(), Errno> {
    let one: libc::c_int = 1;
    // SAFETY: needed because rustix has no call for SOL_NETLINK options. Sound: the descriptor is borrowed for the
    // call, the pointer is to a live c_int and the length is its size; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL);
    // Kernels before 4.20 lack one or the other; they only make answers better.
    if errno == Errno::NOPROTOOPT { Ok(()) } else { Err(errno) }
}
