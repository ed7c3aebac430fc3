//! Tree to YAML, as `kubectl get -o yaml` prints it: keys sorted the way go-yaml sorts them, lists not indented, text
//! plain where it can be, lines folded near 80 columns (`go.yaml.in/yaml/v2`, `encode.go` and `emitterc.go`).

use super::resolve::{Scalar, is_base_60, resolve};
use crate::value::{Map, Name, Value};

/// Column after which a space becomes a line break.
const BEST_WIDTH: usize = 80;

/// Writes a tree as one YAML document, line end included.
pub fn to_string(value: &Value) -> String {
    let mut writer = Writer { out: String::new(), column: 0 };
    match value {
        Value::Object(map) if !map.is_empty() => writer.mapping(map, 0, true),
        Value::Array(items) if !items.is_empty() => writer.sequence(items, 0, true),
        other => {
            writer.scalar(other, 0, false);
            writer.line();
        }
    }
    writer.out
}

struct Writer {
    out: String,
    /// Characters in the current line.
    column: usize,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }
    fn symbol(&mut self, symbol: char) {
        self.out.push(symbol);
        self.column += 1;
    }
    fn line(&mut self) {
        self.out.push('\n');
        self.column = 0;
    }
    fn indent(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    /// `first_in_place`: the first entry stands where the writer is, after `- `.
    fn mapping(&mut self, map: &Map, indent: usize, first_in_place: bool) {
        let mut entries: Vec<_> = map.iter().collect();
        sort_naturally(&mut entries);
        for (index, (name, value)) in entries.into_iter().enumerate() {
            if index > 0 || !first_in_place {
                self.indent(indent);
            }
            let simple = is_simple_key(name);
            if simple {
                self.text(name, indent, true);
            } else {
                self.push("? ");
                self.text(name, indent + 2, false);
                self.line();
                self.indent(indent);
            }
            self.symbol(':');
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    self.line();
                    self.mapping(inner, indent + 2, false);
                }
                Value::Array(items) if !items.is_empty() => {
                    self.line();
                    self.sequence(items, indent, false);
                }
                other => {
                    self.symbol(' ');
                    self.scalar(other, indent + 2, false);
                    self.line();
                }
            }
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize, first_in_place: bool) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 || !first_in_place {
                self.indent(indent);
            }
            self.push("- ");
            match item {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, true),
                Value::Array(inner) if !inner.is_empty() => self.sequence(inner, indent + 2, true),
                other => {
                    self.scalar(other, indent + 2, false);
                    self.line();
                }
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize, key: bool) {
        match value {
            Value::Null => self.push("null"),
            Value::Bool(flag) => self.push(if *flag { "true" } else { "false" }),
            Value::Int(number) => self.push(itoa::Buffer::new().format(*number)),
            Value::Float(number) => self.push(&crate::codec::scalar::go_float(*number)),
            Value::String(text) => self.text(text, indent, key),
            Value::Array(_) => self.push("[]"),
            Value::Object(_) => self.push("{}"),
        }
    }

    fn text(&mut self, text: &str, indent: usize, key: bool) {
        let means_itself = resolve(text) == Scalar::Text && !is_base_60(text);
        let shape = Shape::of(text);
        if text.contains('\n') && shape.block && !key {
            return self.literal(text, indent);
        }
        if means_itself && !text.contains('\n') && shape.plain && !text.is_empty() {
            return self.folded(text, indent, key, |writer, text| writer.push(text));
        }
        if !means_itself || text.contains('\n') || !shape.single {
            return self.double_quoted(text, indent, key);
        }
        self.symbol('\'');
        self.single_quoted(text, indent, key);
        self.symbol('\'');
    }

    /// Words, broken at a single space once the line is full.
    fn folded(&mut self, text: &str, indent: usize, key: bool, write: impl Fn(&mut Self, &str)) {
        let mut after_space = false;
        let symbols: Vec<char> = text.chars().collect();
        let mut buffer = [0; 4];
        for (index, &symbol) in symbols.iter().enumerate() {
            let next_is_space = symbols.get(index + 1) == Some(&' ');
            if symbol == ' ' && !key && !after_space && self.column > BEST_WIDTH && !next_is_space {
                self.line();
                self.indent(indent);
            } else {
                write(self, symbol.encode_utf8(&mut buffer));
            }
            after_space = symbol == ' ';
        }
    }

    fn single_quoted(&mut self, text: &str, indent: usize, key: bool) {
        let symbols: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (index, &symbol) in symbols.iter().enumerate() {
            let inside = index > 0 && index + 1 < symbols.len();
            let next_is_space = symbols.get(index + 1) == Some(&' ');
            if symbol == ' ' && !key && !after_space && inside && self.column > BEST_WIDTH && !next_is_space {
                self.line();
                self.indent(indent);
            } else {
                self.symbol(symbol);
                if symbol == '\'' {
                    self.symbol('\'');
                }
            }
            after_space = symbol == ' ';
        }
    }

    fn double_quoted(&mut self, text: &str, indent: usize, key: bool) {
        self.symbol('"');
        let symbols: Vec<char> = text.chars().collect();
        let mut after_space = false;
        // libyaml looks for the mark at the start of the buffer whatever character it is at.
        let starts_with_bom = text.starts_with('\u{feff}');
        for (index, &symbol) in symbols.iter().enumerate() {
            let escape = match symbol {
                '\0' => Some("\\0".to_owned()),
                '\u{7}' => Some("\\a".to_owned()),
                '\u{8}' => Some("\\b".to_owned()),
                '\t' => Some("\\t".to_owned()),
                '\n' => Some("\\n".to_owned()),
                '\u{b}' => Some("\\v".to_owned()),
                '\u{c}' => Some("\\f".to_owned()),
                '\r' => Some("\\r".to_owned()),
                '\u{1b}' => Some("\\e".to_owned()),
                '"' => Some("\\\"".to_owned()),
                '\\' => Some("\\\\".to_owned()),
                '\u{85}' => Some("\\N".to_owned()),
                '\u{a0}' => Some("\\_".to_owned()),
                '\u{2028}' => Some("\\L".to_owned()),
                '\u{2029}' => Some("\\P".to_owned()),
                other if is_printable(other) && !starts_with_bom => None,
                other => Some(match other as u32 {
                    code @ ..0x100 => format!("\\x{code:02X}"),
                    code @ ..0x10000 => format!("\\u{code:04X}"),
                    code => format!("\\U{code:08X}"),
                }),
            };
            match escape {
                Some(escape) => {
                    self.push(&escape);
                    after_space = false;
                }
                None if symbol == ' ' => {
                    let inside = index > 0 && index + 1 < symbols.len();
                    if !key && !after_space && inside && self.column > BEST_WIDTH {
                        self.line();
                        self.indent(indent);
                        // A space at the start of a line would be folded away.
                        if symbols.get(index + 1) == Some(&' ') {
                            self.symbol('\\');
                        }
                    } else {
                        self.symbol(' ');
                    }
                    after_space = true;
                }
                None => {
                    self.symbol(symbol);
                    after_space = false;
                }
            }
        }
        self.symbol('"');
    }

    /// `|`, with what says how the text begins and ends.
    fn literal(&mut self, text: &str, indent: usize) {
        self.symbol('|');
        if text.starts_with([' ', '\n']) {
            self.push("2");
        }
        let body = text.trim_end_matches('\n');
        match text.len() - body.len() {
            0 => self.symbol('-'),
            1 if !body.is_empty() => {}
            _ => self.symbol('+'),
        }
        let inner = text.strip_suffix('\n').unwrap_or(text);
        for line in inner.split('\n') {
            self.line();
            if !line.is_empty() {
                self.indent(indent);
                self.push(line);
            }
        }
    }
}

/// In which styles a text can stand (`yaml_emitter_analyze_scalar`).
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

impl Shape {
    fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self { plain: true, single: true, block: false };
        }
        let mut shape = Self { plain: true, single: true, block: true };
        if text.starts_with("---") || text.starts_with("...") {
            shape.plain = false;
        }
        let symbols: Vec<char> = text.chars().collect();
        let is_blank = |symbol: Option<&char>| symbol.is_none_or(|symbol| matches!(symbol, ' ' | '\t' | '\n' | '\r'));
        let mut special = false;
        let (mut space_break, mut break_space) = (false, false);
        let (mut previous_space, mut previous_break, mut preceded_by_blank) = (false, false, true);
        for (index, &symbol) in symbols.iter().enumerate() {
            let followed_by_blank = is_blank(symbols.get(index + 1));
            let indicator = if index == 0 {
                match symbol {
                    '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => {
                        true
                    }
                    '?' | ':' | '-' => followed_by_blank,
                    _ => false,
                }
            } else {
                match symbol {
                    ':' => followed_by_blank,
                    '#' => preceded_by_blank,
                    _ => false,
                }
            };
            if indicator {
                shape.plain = false;
            }
            if !is_printable(symbol) {
                special = true;
            }
            let is_break = matches!(symbol, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
            if symbol == ' ' {
                if index == 0 {
                    shape.plain = false;
                }
                if index + 1 == symbols.len() {
                    shape.plain = false;
                    shape.block = false;
                }
                break_space |= previous_break;
                (previous_space, previous_break) = (true, false);
            } else if is_break {
                shape.plain = false;
                space_break |= previous_space;
                (previous_space, previous_break) = (false, true);
            } else {
                (previous_space, previous_break) = (false, false);
            }
            preceded_by_blank = is_blank(Some(&symbol));
        }
        if break_space {
            shape.plain = false;
            shape.single = false;
        }
        if space_break || special {
            shape.plain = false;
            shape.single = false;
            shape.block = false;
        }
        shape
    }
}

fn is_printable(symbol: char) -> bool {
    matches!(symbol, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}')
        && symbol != '\u{feff}'
}

/// Whether a key can stand before its colon: short and on one line.
fn is_simple_key(name: &str) -> bool {
    name.len() <= 128 && !name.contains('\n')
}

/// Sorts by [`comes_before`]. That is no total order (`a10` < `a1b` < `a01` < `a10`), and the standard library's sorts may
/// panic on one that is not; merging cannot.
fn sort_naturally<'m>(entries: &mut Vec<(&'m Name, &'m Value)>) {
    if entries.len() < 2 {
        return;
    }
    let mut right = entries.split_off(entries.len() / 2);
    sort_naturally(entries);
    sort_naturally(&mut right);
    let mut left = std::mem::take(entries).into_iter().peekable();
    let mut right = right.into_iter().peekable();
    while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
        let next = if comes_before(other.0, one.0) { right.next() } else { left.next() };
        entries.extend(next);
    }
    entries.extend(left);
    entries.extend(right);
}

/// go-yaml's `keyList.Less`: letters after everything else, runs of digits by their number.
fn comes_before(left: &str, right: &str) -> bool {
    let mut same = left.bytes().zip(right.bytes()).take_while(|(x, y)| x == y).count();
    while !left.is_char_boundary(same) || !right.is_char_boundary(same) {
        same -= 1;
    }
    let (before, a, b) = (&left[..same], &left[same..], &right[same..]);
    let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else { return a.len() < b.len() };
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x < y,
        (false, false) => {}
        (_, right_is_letter) => return right_is_letter,
    }
    let mut digits_before = before.bytes().rev().take_while(u8::is_ascii_digit);
    let after_nonzero = (x == '0' || y == '0') && digits_before.any(|digit| digit != b'0');
    let run = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit);
        digits.fold((i64::from(after_nonzero), 0usize), |(number, length), digit| {
            (number.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')), length + 1)
        })
    };
    run(a).cmp(&run(b)).then(x.cmp(&y)).is_lt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, object};

    #[test]
    fn prints_like_kubectl() {
        let value = object! {
            "b": list![1, "x", object! { "k": "v", "a": list![list!["n"]] }],
            "a": object! { "empty": Map::new(), "none": Value::Null, "list": Value::Array(vec![]) },
            "text": "line one\nline two\n",
            "no-end": "x\ny",
            "yes": "yes",
            "number": "12",
            "quoted": "a: b",
            "hash": "a #b",
            "star": "*x",
            "plain": "a:b#c",
            "tab": "a\tb",
            "time": "2026-01-02T03:04:05Z",
            "trail": "x ",
            "nothing": "",
            "float": 1.5,
        };
        let expected = r#"a:
  empty: {}
  list: []
  none: null
b:
- 1
- x
- a:
  - - "n"
  k: v
float: 1.5
hash: 'a #b'
"no-end": |-
  x
  y
nothing: ""
number: "12"
plain: a:b#c
quoted: 'a: b'
star: '*x'
tab: "a\tb"
text: |
  line one
  line two
time: "2026-01-02T03:04:05Z"
trail: 'x '
"yes": "yes"
"#;
        assert_eq!(to_string(&value), expected.replace("\"no-end\"", "no-end"));
    }

    #[test]
    fn keys_sort_naturally() {
        let map: Map = ["a10", "a2", "b", "B", "1", "a", "_", "a1", "10"].into_iter().map(|key| (key, 1)).collect();
        let mut entries: Vec<_> = map.iter().collect();
        sort_naturally(&mut entries);
        let keys: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(keys, ["_", "1", "10", "B", "a", "a1", "a2", "a10", "b"]);
    }
}
