//! SPDY/3.1 frames, as far as `kubectl exec`, `attach`, `cp` and `port-forward` and their servers use them.
//!
//! Go's implementation sends no window updates and heeds none: neither do we. Header blocks are zlib streams that share
//! one dictionary and live as long as the connection, one in each direction.

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest piece in which data is handed on; longer frames come in pieces.
const PIECE: usize = 64 * 1024;
/// Largest control frame that is read, and largest header block behind it.
const MAX_CONTROL: usize = 64 * 1024;
const MAX_HEADERS: usize = 256 * 1024;

/// What went wrong on a SPDY connection.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection broke.
    #[error("the SPDY connection broke")]
    Io(#[from] io::Error),
    /// The other end does not keep to the protocol.
    #[error("the SPDY peer broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Names and values of a header block.
pub type Headers = Vec<(String, String)>;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd from clients, even from servers.
        id: u32,
        /// Its headers.
        headers: Headers,
        /// Nothing follows.
        fin: bool,
    },
    /// Accepts a stream.
    SynReply {
        /// Which.
        id: u32,
        /// Nothing follows.
        fin: bool,
    },
    /// Bytes of a stream.
    Data {
        /// Which.
        id: u32,
        /// The bytes.
        bytes: Bytes,
        /// Nothing follows.
        fin: bool,
    },
    /// Ends a stream at once.
    Reset {
        /// Which.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Asks for, or is, an answer with the same id.
    Ping(u32),
    /// No more streams are accepted.
    GoAway,
    /// Something that changes nothing here.
    Ignored,
}

/// The dictionary of header blocks, as the protocol fixes it.
fn dictionary() -> Vec<u8> {
    const NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
        if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
        proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
        user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
        keep-alive origin";
    const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
        Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
        Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May \
        Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,\
        image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
        deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut out = Vec::with_capacity(1423);
    for name in NAMES.split_ascii_whitespace() {
        let name = name.replace('_', " ");
        out.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(REST.as_bytes());
    out
}

/// Reads frames.
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
    inflate: Decompress,
    /// A data frame that is handed on in pieces: stream, bytes left, fin.
    data: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Over a connection that has changed protocols.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(16 * 1024), inflate: Decompress::new(true), data: None }
    }

    /// The next frame; `None` when the connection ended between two.
    pub async fn read(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((id, left, fin)) = self.data.take() {
            return self.data(id, left, fin).await.map(Some);
        }
        if self.buffer.is_empty() && self.io.read_buf(&mut self.buffer).await? == 0 {
            return Ok(None);
        }
        self.fill(8).await?;
        let head = self.buffer.split_to(8);
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        let fin = flags & 1 != 0;
        if word & 0x8000_0000 == 0 {
            return self.data(word, length, fin).await.map(Some);
        }
        if word >> 16 & 0x7fff != 3 {
            return Err(SpdyError::Protocol("not version 3"));
        }
        if length > MAX_CONTROL {
            return Err(SpdyError::Protocol("a control frame is too long"));
        }
        self.fill(length).await?;
        let body = self.buffer.split_to(length).freeze();
        self.control(word & 0xffff, fin, &body).map(Some)
    }

    /// At most one piece of a data frame.
    async fn data(&mut self, id: u32, length: usize, fin: bool) -> Result<Frame, SpdyError> {
        let wanted = length.min(PIECE);
        if wanted > 0 && self.buffer.is_empty() {
            self.fill(1).await?;
        }
        let size = wanted.min(self.buffer.len());
        let bytes = self.buffer.split_to(size).freeze();
        let left = length - size;
        if left > 0 {
            self.data = Some((id, left, fin));
        }
        Ok(Frame::Data { id, bytes, fin: fin && left == 0 })
    }

    fn control(&mut self, kind: u32, fin: bool, body: &[u8]) -> Result<Frame, SpdyError> {
        let word = |at: usize| {
            let bytes = body.get(at..at + 4).ok_or(SpdyError::Protocol("a control frame is too short"))?;
            Ok::<u32, SpdyError>(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        Ok(match kind {
            1 => {
                let id = word(0)? & 0x7fff_ffff;
                let block = body.get(10..).ok_or(SpdyError::Protocol("a control frame is too short"))?;
                Frame::SynStream { id, headers: self.headers(block)?, fin }
            }
            2 | 8 => {
                let id = word(0)? & 0x7fff_ffff;
                // Inflated even when nobody reads them: the next block builds on this one.
                self.headers(&body[4..])?;
                if kind == 2 { Frame::SynReply { id, fin } } else { Frame::Ignored }
            }
            3 => Frame::Reset { id: word(0)? & 0x7fff_ffff, status: word(4)? },
            6 => Frame::Ping(word(0)?),
            7 => Frame::GoAway,
            _ => Frame::Ignored,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let mut take = |length: usize| {
            let (head, tail) = rest.split_at_checked(length).ok_or(SpdyError::Protocol("a header block is cut"))?;
            rest = tail;
            Ok::<&[u8], SpdyError>(head)
        };
        let mut headers = Headers::new();
        let number = |bytes: &[u8]| usize::try_from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let number = |bytes: &[u8]| number(bytes).map_err(|_| SpdyError::Protocol("a header is too long"));
        for _ in 0..number(take(4)?)? {
            let length = number(take(4)?)?;
            let name = String::from_utf8_lossy(take(length)?).into_owned();
            let length = number(take(4)?)?;
            let values = String::from_utf8_lossy(take(length)?).into_owned();
            headers.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = vec![0; (block.len() * 4).clamp(1024, MAX_HEADERS)];
        let (mut read, mut written) = (0, 0);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let outcome = self.inflate.decompress(&block[read..], &mut out[written..], FlushDecompress::Sync);
            read += usize::try_from(self.inflate.total_in() - before_in).unwrap_or(0);
            written += usize::try_from(self.inflate.total_out() - before_out).unwrap_or(0);
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    let set = self.inflate.set_dictionary(&dictionary());
                    set.map_err(|_| SpdyError::Protocol("another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Protocol("a header block does not inflate")),
                Ok(_) => (),
            }
            if written == out.len() {
                if out.len() >= MAX_HEADERS {
                    return Err(SpdyError::Protocol("a header block is too long"));
                }
                out.resize((out.len() * 2).min(MAX_HEADERS), 0);
            } else if read >= block.len() {
                out.truncate(written);
                return Ok(out);
            } else if matches!(outcome, Ok(Status::StreamEnd)) {
                return Err(SpdyError::Protocol("the header stream ended"));
            }
        }
    }

    async fn fill(&mut self, length: usize) -> Result<(), SpdyError> {
        while self.buffer.len() < length {
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
}

/// Writes frames.
pub struct Writer<W> {
    io: W,
    deflate: Compress,
    started: bool,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Over a connection that has changed protocols.
    pub fn new(io: W) -> Self {
        Self { io, deflate: Compress::new(Compression::fast(), true), started: false }
    }

    /// Opens a stream.
    pub async fn syn_stream(&mut self, id: u32, headers: &[(&str, &str)]) -> Result<(), SpdyError> {
        let mut body = Vec::new();
        body.extend_from_slice(&id.to_be_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend(self.block(headers)?);
        self.control(1, &body).await
    }

    /// Accepts a stream.
    pub async fn syn_reply(&mut self, id: u32) -> Result<(), SpdyError> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend(self.block(&[])?);
        self.control(2, &body).await
    }

    /// Sends bytes of a stream.
    pub async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) -> Result<(), SpdyError> {
        let mut out = Vec::with_capacity(8 + bytes.len());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&head(u8::from(fin), bytes.len())?);
        out.extend_from_slice(bytes);
        self.send(&out).await
    }

    /// Ends a stream at once.
    pub async fn reset(&mut self, id: u32, status: u32) -> Result<(), SpdyError> {
        let mut body = id.to_be_bytes().to_vec();
        body.extend_from_slice(&status.to_be_bytes());
        self.control(3, &body).await
    }

    /// Sends a ping, or answers one.
    pub async fn ping(&mut self, id: u32) -> Result<(), SpdyError> {
        self.control(6, &id.to_be_bytes()).await
    }

    /// Says that no more streams are accepted.
    pub async fn go_away(&mut self, last: u32) -> Result<(), SpdyError> {
        let mut body = last.to_be_bytes().to_vec();
        body.extend_from_slice(&[0; 4]);
        self.control(7, &body).await
    }

    /// Ends the connection below.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    async fn control(&mut self, kind: u16, body: &[u8]) -> Result<(), SpdyError> {
        let mut out = Vec::with_capacity(8 + body.len());
        out.extend_from_slice(&[0x80, 3]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&head(0, body.len())?);
        out.extend_from_slice(body);
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), SpdyError> {
        self.io.write_all(bytes).await?;
        self.io.flush().await?;
        Ok(())
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        let mut put = |length: usize| plain.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
        put(headers.len());
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        if !std::mem::replace(&mut self.started, true) {
            let set = self.deflate.set_dictionary(&dictionary());
            set.map_err(|_| SpdyError::Protocol("the dictionary was not taken"))?;
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let mut read = 0;
        loop {
            let before = self.deflate.total_in();
            let outcome = self.deflate.compress_vec(&plain[read..], &mut out, FlushCompress::Sync);
            outcome.map_err(|_| SpdyError::Protocol("headers do not deflate"))?;
            read += usize::try_from(self.deflate.total_in() - before).unwrap_or(0);
            if read >= plain.len() && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

fn head(flags: u8, length: usize) -> Result<[u8; 4], SpdyError> {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24);
    let [_, high, middle, low] = length.ok_or(SpdyError::Protocol("a frame is too long"))?.to_be_bytes();
    Ok([flags, high, middle, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let bytes = dictionary();
        assert_eq!(bytes.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in bytes {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[tokio::test]
    async fn frames_come_back() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (mut writer, mut reader) = (Writer::new(near), Reader::new(far));
        writer.syn_stream(1, &[("streamtype", "error")]).await.unwrap();
        writer.syn_stream(3, &[("streamtype", "data"), ("port", "80")]).await.unwrap();
        writer.syn_reply(1).await.unwrap();
        writer.data(1, &vec![7; 100_000], true).await.unwrap();
        writer.ping(5).await.unwrap();
        writer.reset(3, 5).await.unwrap();
        drop(writer);
        let own = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut next = async || reader.read().await.unwrap();
        let first = Frame::SynStream { id: 1, headers: own(&[("streamtype", "error")]), fin: false };
        assert_eq!(next().await, Some(first));
        let second = Frame::SynStream { id: 3, headers: own(&[("streamtype", "data"), ("port", "80")]), fin: false };
        assert_eq!(next().await, Some(second));
        assert_eq!(next().await, Some(Frame::SynReply { id: 1, fin: false }));
        let mut sum = 0;
        loop {
            let Some(Frame::Data { id: 1, bytes, fin }) = next().await else { panic!("no data") };
            sum += bytes.len();
            if fin {
                break;
            }
        }
        assert_eq!(sum, 100_000);
        assert_eq!(next().await, Some(Frame::Ping(5)));
        assert_eq!(next().await, Some(Frame::Reset { id: 3, status: 5 }));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn refuses_what_breaks_the_protocol() {
        for (what, bytes) in [
            ("version 2", &[0x80u8, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..]),
            ("long control frame", &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..]),
            ("short frame", &[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1][..]),
            ("headers that are no zlib", &[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4][..]),
            ("cut data", &[0, 0, 0, 1, 0, 0, 0, 9, 1][..]),
        ] {
            let mut reader = Reader::new(bytes);
            let mut outcome = reader.read().await;
            if outcome.is_ok() {
                outcome = reader.read().await;
            }
            assert!(outcome.is_err(), "{what}: {outcome:?}");
        }
    }
}
