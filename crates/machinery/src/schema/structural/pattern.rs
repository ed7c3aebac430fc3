//! Go's regular expressions in the syntax of the `regex` crate. Both run in linear time; what differs is that Go's
//! `\d`, `\w`, `\s` and `\b` mean ASCII, and that `[`, `&&`, `--` and `~~` are plain inside a Go class.

use regex::{Regex, RegexBuilder};

/// Memory that one compiled expression may take.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles an expression that is written for Go.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .nest_limit(250)
        .build()
        .map_err(|error| {
            let text = error.to_string();
            text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned()
        })
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut symbols = pattern.chars().peekable();
    let mut in_class = false;
    // In `[]a]` and `[^]a]` the first bracket is plain.
    let mut class_start = false;
    while let Some(symbol) = symbols.next() {
        let at_start = std::mem::take(&mut class_start);
        match symbol {
            '\\' => {
                let Some(escaped) = symbols.next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, in_class) {
                    ('d', true) => out.push_str("0-9"),
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('s', true) => out.push_str("\\t\\n\\f\\r "),
                    ('s', false) => out.push_str("[\\t\\n\\f\\r ]"),
                    ('S', _) => out.push_str("[^\\t\\n\\f\\r ]"),
                    ('b' | 'B', false) => out.extend(["(?-u:\\", &escaped.to_string(), ")"]),
                    ('Q', false) => {
                        let rest: String = symbols.by_ref().collect();
                        let (quoted, after) = rest.split_once("\\E").unwrap_or((&rest, ""));
                        return out + &regex::escape(quoted) + &translate(after);
                    }
                    _ => out.extend(['\\', escaped]),
                }
            }
            '[' if !in_class => {
                in_class = true;
                class_start = true;
                out.push('[');
            }
            '[' if symbols.peek() == Some(&':') => {
                // A POSIX class: copied up to its end.
                out.push('[');
                for inner in symbols.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            '^' if at_start => {
                class_start = true;
                out.push('^');
            }
            ']' if at_start => out.push_str("\\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', symbol]),
            '-' if in_class && symbols.peek() == Some(&'-') => out.push_str("\\-"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_expressions() {
        for (pattern, text, matches) in [
            (r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$", "* * * * */5", true),
            (r"^\d$", "٣", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[\D]+$", "abc", true),
            (r"^[[a]+$", "[a", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]+$", "b]", false),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[a&&b]+$", "&", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^\/api\/v1$", "/api/v1", true),
            (r"^\Qa.b\E+$", "a.bb", true),
            (r"^[a\]]+$", "]", true),
            (r"^(?P<x>a)$", "a", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} on {text}");
        }
        assert!(compile("a(").is_err());
        assert!(compile("(a{1000}){1000}").is_err(), "too large a program is refused");
    }
}
