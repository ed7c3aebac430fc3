//! Decoders against mutated input: whatever comes, an error or an end, never a panic, never more than came.

use bytes::Bytes;
use skiff_net::remotecommand::{Outcome, Version};
use skiff_net::spdy::{self, Frame};
use skiff_net::websocket::{self, Message, Role};
use tokio::io::AsyncWriteExt;

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() & 0xff).unwrap()
    }
    /// Flips, cuts, doubles and inserts.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(out.len().max(1));
            match self.below(4) {
                0 if !out.is_empty() => out[at] ^= 1 << self.below(8),
                1 => out.truncate(at.max(1)),
                2 => out.insert(at.min(out.len()), self.byte()),
                _ => {
                    let piece = out[at.min(out.len())..].to_vec();
                    out.extend(piece.iter().take(64));
                }
            }
        }
        out
    }
}

async fn seed_spdy() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = spdy::Writer::new(&mut bytes);
    writer.syn_stream(1, &[("streamtype", "error"), ("port", "80")]).await.unwrap();
    writer.syn_reply(1).await.unwrap();
    writer.data(1, b"some data", false).await.unwrap();
    writer.syn_stream(3, &[("streamtype", "data"), ("requestid", "7")]).await.unwrap();
    writer.ping(1).await.unwrap();
    writer.data(1, b"", true).await.unwrap();
    writer.go_away(3).await.unwrap();
    bytes
}

#[tokio::test]
async fn spdy() {
    let seed = seed_spdy().await;
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..3_000 {
        let input = random.mutate(&seed);
        let mut reader = spdy::Reader::new(input.as_slice());
        let mut data = 0;
        while let Ok(Some(frame)) = reader.read().await {
            if let Frame::Data { bytes, .. } = frame {
                data += bytes.len();
            }
        }
        assert!(data <= input.len());
    }
}

#[tokio::test]
async fn websocket() {
    let mut seed = Vec::new();
    for (opcode, payload) in [(0x81u8, &b"text"[..]), (0x02, b"frag"), (0x80, b"ment"), (0x89, b"p"), (0x88, &[3, 232])]
    {
        seed.extend_from_slice(&[opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0]);
        seed.extend_from_slice(payload);
    }
    let mut random = Random(0xfeed_beef_cafe_f00d);
    for _ in 0..3_000 {
        let input = random.mutate(&seed);
        let (mut far, near) = tokio::io::duplex(4096);
        far.write_all(&input).await.unwrap();
        drop(far);
        let (mut reader, _writer) = websocket::split(Box::new(near), Role::Server);
        let mut data = 0;
        while let Ok(Some(message)) = reader.read().await {
            if let Message::Binary(bytes) | Message::Text(bytes) = message {
                data += bytes.len();
            }
        }
        assert!(data <= input.len());
    }
}

#[test]
fn outcomes() {
    let seed = Outcome::Exit { code: 3, message: "three".into() }.encode(Version::V4);
    let mut random = Random(42);
    for _ in 0..3_000 {
        // Whatever it says, it is not success by accident.
        let input = Bytes::from(random.mutate(&seed));
        assert_ne!(Outcome::parse(&input, Version::V4), Outcome::Success, "{input:?}");
    }
}
