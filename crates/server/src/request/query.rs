//! The query string, decoded once.

use std::borrow::Cow;

/// Decoded pairs of a query string, in the order sent. Keys may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    pairs: smallvec::SmallVec<[(Cow<'a, str>, Cow<'a, str>); 4]>,
}

impl<'a> Query<'a> {
    /// Reads what follows `?`. Pairs that do not decode are dropped, as Go's `URL.Query` drops them.
    pub fn parse(query: &'a str) -> Self {
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'))
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(key)?, decode(value)?))
            })
            .collect();
        Self { pairs }
    }

    /// Of a URI.
    pub fn of(uri: &'a http::Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(own, _)| own == key).map(|(_, value)| &**value)
    }

    /// Every value of `key`.
    pub fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> + 'q {
        self.pairs.iter().filter(move |(own, _)| own == key).map(|(_, value)| &**value)
    }

    /// Whether `key` is set: upstream takes every value but `false` and `0` for true, the empty one included
    /// (`Convert_Slice_string_To_bool`).
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (&**key, &**value))
    }
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| byte == b'%' || byte == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            plain => out.push(plain),
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_drops_the_broken() {
        let query = Query::parse("a=1&b=x%20y+z&a=2&bad=%zz&flag&no=false&semi=a;b=c");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.get("bad"), None);
        assert_eq!(query.get("semi"), None);
        assert!(query.flag("flag") && !query.flag("no") && !query.flag("missing"));
    }
}
