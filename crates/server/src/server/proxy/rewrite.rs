//! Links in proxied answers: a page that was made for `/` is read below `/api/v1/.../proxy/`, so its `Location` and the
//! addresses in its HTML get that prefix.
//!
//! HTML is rewritten as it streams: only tags are held back until they are whole, within a bound; what is no tag, or
//! too long for one, passes as it is.
//!
//! Mirrors apimachinery/pkg/util/proxy/transport.go.

/// What addresses are rewritten from and to.
#[derive(Clone, Debug)]
pub(super) struct Rewrite {
    /// `HOST:PORT` of the back end.
    pub(super) backend: String,
    /// The client's `Host`.
    pub(super) client_host: String,
    /// The path of the proxy itself, without a slash at its end.
    pub(super) prefix: String,
}

impl Rewrite {
    /// The address as the client has to ask for it; `None` when it stays (relative, somebody else's, right already).
    pub(super) fn url(&self, url: &str) -> Option<String> {
        let (host, path) = match url.split_once("://") {
            Some((scheme, rest))
                if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) =>
            {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            _ => match url.strip_prefix("//") {
                Some(rest) => {
                    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    (Some(&rest[..end]), &rest[end..])
                }
                None => (None, url),
            },
        };
        if host.is_some_and(|host| host != self.backend && host != self.client_host) || !path.starts_with('/') {
            return None;
        }
        let kept = match host {
            // An address that names this server keeps naming it.
            Some(host) if host == self.client_host => &url[..url.len() - path.len()],
            _ => "",
        };
        if path.starts_with(&self.prefix) {
            return (host.is_some() && kept.is_empty()).then(|| path.to_owned());
        }
        Some(format!("{kept}{}{path}", self.prefix))
    }
}

/// Attributes that hold addresses, by element (`atomsToAttrs`).
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW: &[&str] = &["iframe", "noembed", "noframes", "plaintext", "script", "style", "textarea", "title", "xmp"];

/// The longest tag that is held back.
const LONGEST_TAG: usize = 64 * 1024;

/// Rewrites a page as it comes.
pub(super) struct Page {
    rewrite: Rewrite,
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Markup,
    Comment,
    /// Until the end tag of this element.
    Raw(&'static str),
}

impl Page {
    pub(super) fn new(rewrite: Rewrite) -> Self {
        Self { rewrite, held: Vec::new(), state: State::Markup }
    }

    /// What may be sent on, given more of the page.
    pub(super) fn feed(&mut self, more: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(more);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len() + 64);
        let mut rest = held.as_slice();
        while let Some(used) = self.step(rest, &mut out) {
            rest = &rest[used..];
        }
        self.held = rest.to_vec();
        out
    }

    /// What is left when the page is over.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Consumes one piece; `None` when more has to come first.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if rest.is_empty() {
            return None;
        }
        match self.state {
            State::Comment => {
                let (used, found) = until(rest, b"-->");
                if found {
                    self.state = State::Markup;
                }
                pass(rest, used, out)
            }
            State::Raw(element) => {
                let (used, found) = until_end_tag(rest, element);
                if found {
                    self.state = State::Markup;
                }
                pass(rest, used, out)
            }
            State::Markup => self.markup(rest, out),
        }
    }

    fn markup(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if rest[0] != b'<' {
            return pass(rest, memchr(b'<', rest).unwrap_or(rest.len()), out);
        }
        if rest.starts_with(b"<!--") {
            self.state = State::Comment;
            return pass(rest, 4, out);
        }
        if b"<!--".starts_with(rest) {
            return None;
        }
        if !rest[1].is_ascii_alphabetic() {
            return pass(rest, 1, out);
        }
        let Some(end) = tag_end(rest) else {
            // No tag is that long: this was text.
            return if rest.len() > LONGEST_TAG { pass(rest, 1, out) } else { None };
        };
        let name = self.tag(&rest[..end], out);
        if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
            self.state = State::Raw(raw);
        }
        Some(end)
    }

    /// Writes one start tag with its addresses rewritten; its name.
    fn tag(&self, tag: &[u8], out: &mut Vec<u8>) -> String {
        let name_end = tag[1..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(tag.len(), |at| at + 1);
        let name = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        let Some((_, wanted)) = ATTRIBUTES.iter().find(|(element, _)| *element == name) else {
            out.extend_from_slice(tag);
            return name;
        };
        let mut sent = 0;
        for (attribute, start, end) in attributes(tag, name_end) {
            if !wanted.contains(&attribute.as_str()) {
                continue;
            }
            if let Some(url) = std::str::from_utf8(&tag[start..end]).ok().and_then(|url| self.rewrite.url(url)) {
                out.extend_from_slice(&tag[sent..start]);
                out.extend_from_slice(url.as_bytes());
                sent = end;
            }
        }
        out.extend_from_slice(&tag[sent..]);
        name
    }
}

fn pass(rest: &[u8], used: usize, out: &mut Vec<u8>) -> Option<usize> {
    out.extend_from_slice(&rest[..used]);
    (used > 0).then_some(used)
}

fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|other| *other == byte)
}

/// How much can go before or with the end mark, and whether the mark is there. Without it as much stays as the mark
/// may have begun.
fn until(bytes: &[u8], mark: &[u8]) -> (usize, bool) {
    match bytes.windows(mark.len()).position(|window| window == mark) {
        Some(at) => (at + mark.len(), true),
        None => (bytes.len().saturating_sub(mark.len() - 1), false),
    }
}

fn until_end_tag(bytes: &[u8], element: &str) -> (usize, bool) {
    let length = element.len() + 2;
    let is_end = |window: &[u8]| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(element.as_bytes());
    match bytes.windows(length).position(is_end) {
        // The end tag itself is markup.
        Some(at) => (at + length, true),
        None => (bytes.len().saturating_sub(length - 1), false),
    }
}

/// Where a start tag ends; quotes are heeded.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            // A quote opens a value only behind `=`.
            (None, b'"' | b'\'') if tag[..at].trim_ascii_end().ends_with(b"=") => quote = Some(*byte),
            (Some(open), byte) if *byte == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Attributes of a tag: lower-case name, and where the value stands.
fn attributes(tag: &[u8], name_end: usize) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut at = name_end;
    let is_end = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/' | b'=');
    while at < tag.len() {
        while at < tag.len() && is_end(tag[at]) {
            at += 1;
        }
        let start = at;
        while at < tag.len() && !is_end(tag[at]) {
            at += 1;
        }
        let name = String::from_utf8_lossy(&tag[start..at]).to_ascii_lowercase();
        let mut value = at;
        while value < tag.len() && tag[value].is_ascii_whitespace() {
            value += 1;
        }
        if tag.get(value) != Some(&b'=') {
            continue;
        }
        value += 1;
        while value < tag.len() && tag[value].is_ascii_whitespace() {
            value += 1;
        }
        let end = match tag.get(value) {
            Some(quote @ (b'"' | b'\'')) => {
                value += 1;
                memchr(*quote, &tag[value..]).map_or(tag.len(), |length| value + length)
            }
            _ => {
                let length = tag[value..].iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'>');
                length.map_or(tag.len(), |length| value + length)
            }
        };
        found.push((name, value, end));
        at = end + 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite() -> Rewrite {
        Rewrite {
            backend: "10.1.0.2:8080".to_owned(),
            client_host: "api:6443".to_owned(),
            prefix: "/api/v1/namespaces/d/services/web/proxy".to_owned(),
        }
    }

    #[test]
    fn addresses() {
        const PREFIX: &str = "/api/v1/namespaces/d/services/web/proxy";
        for (url, expected) in [
            ("/kubernetes", Some(format!("{PREFIX}/kubernetes"))),
            ("/kubernetes/?a=/b#c", Some(format!("{PREFIX}/kubernetes/?a=/b#c"))),
            ("http://10.1.0.2:8080/x", Some(format!("{PREFIX}/x"))),
            ("//10.1.0.2:8080/x", Some(format!("{PREFIX}/x"))),
            ("https://api:6443/x", Some(format!("https://api:6443{PREFIX}/x"))),
            ("https://api:6443/api/v1/namespaces/d/services/web/proxy/x", None),
            ("/api/v1/namespaces/d/services/web/proxy/x", None),
            ("http://10.1.0.2:8080/api/v1/namespaces/d/services/web/proxy/x", Some(format!("{PREFIX}/x"))),
            ("kubernetes", None),
            ("", None),
            ("#top", None),
            ("mailto:a@b", None),
            ("javascript:a('://')", None),
            ("http://example.com/x", None),
            ("//example.com/x", None),
        ] {
            assert_eq!(rewrite().url(url), expected, "{url}");
        }
    }

    fn page(html: &str, chunk: usize) -> String {
        let mut page = Page::new(rewrite());
        let mut out = Vec::new();
        for piece in html.as_bytes().chunks(chunk) {
            out.extend(page.feed(piece));
        }
        out.extend(page.finish());
        String::from_utf8_lossy(&out).replace("/api/v1/namespaces/d/services/web/proxy", "~")
    }

    #[test]
    fn pages() {
        for (html, expected) in [
            (r#"<a href="/x">go</a>"#, r#"<a href="~/x">go</a>"#),
            ("<A HREF = '/x'  class=y>", "<A HREF = '~/x'  class=y>"),
            ("<a href=/x>go</a>", "<a href=~/x>go</a>"),
            (r#"<a title="a > b" href="/x"/>"#, r#"<a title="a > b" href="~/x"/>"#),
            (r#"<a title="href=/y" href="x">"#, r#"<a title="href=/y" href="x">"#),
            (r#"<img src="/a.png" longdesc="/b" alt="/c">"#, r#"<img src="~/a.png" longdesc="~/b" alt="/c">"#),
            (r#"<div href="/x">"#, r#"<div href="/x">"#),
            (r#"<!-- <a href="/x"> --><a href="/x">"#, r#"<!-- <a href="/x"> --><a href="~/x">"#),
            (
                r#"<script src="/s.js">x = '<a href="/x">'</script><a href="/x">"#,
                r#"<script src="~/s.js">x = '<a href="/x">'</script><a href="~/x">"#,
            ),
            ("1 < 2 and <3 <a href=/x>", "1 < 2 and <3 <a href=~/x>"),
            (
                r#"<form action="/f" method=post><button formaction="/g">"#,
                r#"<form action="~/f" method=post><button formaction="~/g">"#,
            ),
            ("<a href=\"/x", "<a href=\"/x"),
            ("<", "<"),
            ("", ""),
        ] {
            for chunk in [1, 2, 3, 7, 1000] {
                assert_eq!(page(html, chunk), expected, "{html} in pieces of {chunk}");
            }
        }
        let long = format!("<a {}", "x ".repeat(LONGEST_TAG));
        assert_eq!(page(&long, 4096), long, "never ends, but is not held for ever");
    }
}
