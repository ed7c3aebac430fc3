//! A client that shares no code with the product: one request over TLS with the administrator's certificate.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a request shows who sends it.
#[derive(Clone, Copy)]
pub(crate) enum As<'a> {
    Admin,
    Token(&'a str),
    Nobody,
}

/// The API server at one address.
#[derive(Clone)]
pub(crate) struct Api {
    address: SocketAddr,
    admin: Arc<ClientConfig>,
    nobody: Arc<ClientConfig>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

fn base64(text: &str) -> Vec<u8> {
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(((bits >> count) & 0xff) as u8);
        }
    }
    bytes
}

/// The decoded value of one `key: value` line of a kubeconfig.
fn entry(kubeconfig: &str, key: &str) -> Vec<u8> {
    let value =
        kubeconfig.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(':'));
    base64(value.unwrap_or_else(|| panic!("{key} is in the kubeconfig")).trim().trim_matches('"'))
}

impl Api {
    /// As the administrator whose kubeconfig this is.
    pub(crate) fn from_kubeconfig(path: &Path, address: SocketAddr) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let mut roots = RootCertStore::empty();
        for one in CertificateDer::pem_slice_iter(&entry(&text, "certificate-authority-data")) {
            roots.add(one.unwrap()).unwrap();
        }
        let chain =
            CertificateDer::pem_slice_iter(&entry(&text, "client-certificate-data")).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(&entry(&text, "client-key-data")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let admin = Arc::new(builder.clone().with_client_auth_cert(chain, key).unwrap());
        Self { address, admin, nobody: Arc::new(builder.with_no_client_auth()) }
    }

    /// One request on a connection of its own. An error means that it is unknown whether it was carried out.
    pub(crate) fn request(&self, who: As<'_>, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let config = if matches!(who, As::Admin) { &self.admin } else { &self.nobody };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        let content = body.map(Value::to_string).unwrap_or_default();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let token = match who {
            As::Token(token) => format!("Authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nConnection: close\r\n{token}\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        // A server that will not read all of a request says so in an answer.
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content.as_bytes()));
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes);
        let ended = sent.and(ended);
        match parse(&bytes) {
            Some(answer) => Ok(answer),
            None => Err(ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        }
    }

    pub(crate) fn get(&self, path: &str) -> io::Result<Answer> {
        self.request(As::Admin, "GET", path, None)
    }
}

/// A whole answer; `None` when it is cut.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let code = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let mut rest = &bytes[end + 4..];
    if header("transfer-encoding") == Some("chunked") {
        let mut body = Vec::new();
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
            rest = &rest[line + 2..];
            if size == 0 {
                return Some(Answer { code, body });
            }
            body.extend_from_slice(rest.get(..size)?);
            rest = rest.get(size + 2..)?;
        }
    }
    let size = header("content-length").map_or(Some(rest.len()), |length| length.parse().ok())?;
    Some(Answer { code, body: rest.get(..size)?.to_vec() })
}

/// `GET path` by HTTP/1.0 without TLS: the whole answer.
pub(crate) fn fetch(address: &str, path: &str) -> io::Result<String> {
    let address = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
