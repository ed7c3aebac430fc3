//! The text of label selectors: `x in (foo,,baz),y,z notin ()`, `a=b,!c`, `n>3`.
//!
//! Mirrors the lexer and parser of `k8s.io/apimachinery/pkg/labels/selector.go`, with one departure: a NUL byte is a
//! wrong character here, where upstream takes it for the end of the text and selects more than was asked for.

use super::SelectorError;
use super::labels::{Operator, Requirement, label_key_error};
use crate::field::FieldPath;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Less,
    NotEquals,
    Open,
    Word(&'a str),
}

impl<'a> Token<'a> {
    /// What stood in the text.
    fn literal(self) -> &'a str {
        match self {
            Self::End => "",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::DoubleEquals => "==",
            Self::Equals => "=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::NotEquals => "!=",
            Self::Open => "(",
            Self::Word(text) => text,
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    next: Token<'a>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut parser = Self { rest: text, next: Token::End };
        parser.consume();
        parser
    }

    /// Takes the next token and looks one further.
    fn consume(&mut self) -> Token<'a> {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (token, length) = match text.as_bytes() {
            [] => (Token::End, 0),
            [b'=', b'=', ..] => (Token::DoubleEquals, 2),
            [b'!', b'=', ..] => (Token::NotEquals, 2),
            [b'=', ..] => (Token::Equals, 1),
            [b'!', ..] => (Token::Not, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            [b',', ..] => (Token::Comma, 1),
            [b'>', ..] => (Token::Greater, 1),
            [b'<', ..] => (Token::Less, 1),
            _ => {
                let special = ['=', '!', '(', ')', ',', '>', '<', ' ', '\t', '\r', '\n'];
                let length = text.find(special).unwrap_or(text.len());
                (Token::Word(&text[..length]), length)
            }
        };
        self.rest = &text[length..];
        std::mem::replace(&mut self.next, token)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.consume();
        let absent = token == Token::Not;
        if absent {
            token = self.consume();
        }
        let Token::Word(key) = token else { return Err(format!("found '{}', expected: identifier", token.literal())) };
        // Upstream's path is nil here and prints so.
        if let Some(error) = label_key_error(key, &FieldPath::new("<nil>")) {
            return Err(error.to_string());
        }
        let operator = match self.next {
            Token::End | Token::Comma if absent => Operator::DoesNotExist,
            Token::End | Token::Comma => Operator::Exists,
            // `!x in (a)` is refused: after `!KEY` upstream keeps the operator it has and expects the end.
            _ if absent => Operator::DoesNotExist,
            _ => self.operator()?,
        };
        let values = match operator {
            Operator::Exists | Operator::DoesNotExist => BTreeSet::new(),
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        Requirement::new(key, operator, values).map_err(|error| error.0)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        match self.consume() {
            Token::Word("in") => Ok(Operator::In),
            Token::Word("notin") => Ok(Operator::NotIn),
            Token::Equals => Ok(Operator::Equals),
            Token::DoubleEquals => Ok(Operator::DoubleEquals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            other => Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.literal())),
        }
    }

    fn exact_value(&mut self) -> Result<&'a str, String> {
        if matches!(self.next, Token::End | Token::Comma) {
            return Ok("");
        }
        match self.consume() {
            Token::Word(value) => Ok(value),
            other => Err(format!("found '{}', expected: identifier", other.literal())),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<&'a str>, String> {
        let open = self.consume();
        if open != Token::Open {
            return Err(format!("found '{}' expected: '('", open.literal()));
        }
        match self.next {
            Token::Word(_) | Token::Comma => {
                let values = self.identifiers()?;
                self.consume();
                Ok(values)
            }
            Token::Close => {
                self.consume();
                Ok(BTreeSet::from([""]))
            }
            other => Err(format!("found '{}', expected: ',', ')' or identifier", other.literal())),
        }
    }

    /// Values between the parentheses; an empty one counts. Stops before the closing parenthesis.
    fn identifiers(&mut self) -> Result<BTreeSet<&'a str>, String> {
        let mut values = BTreeSet::new();
        loop {
            match self.consume() {
                Token::Word(value) => {
                    values.insert(value);
                    match self.next {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.literal())),
                    }
                }
                Token::Comma => {
                    if values.is_empty() || matches!(self.next, Token::Close | Token::Comma) {
                        values.insert("");
                    }
                    if self.next == Token::Close {
                        return Ok(values);
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.literal())),
            }
        }
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.next {
                Token::Word(_) | Token::Not => {}
                Token::End => return Ok(requirements),
                other => {
                    return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.literal()));
                }
            }
            let requirement = self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
            requirements.push(requirement);
            match self.consume() {
                Token::End => return Ok(requirements),
                Token::Comma if matches!(self.next, Token::Word(_) | Token::Not) => {}
                Token::Comma => {
                    return Err(format!("found '{}', expected: identifier after ','", self.next.literal()));
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.literal())),
            }
        }
    }
}

/// Requirements in the order written.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    Parser::new(text).requirements().map_err(SelectorError)
}
