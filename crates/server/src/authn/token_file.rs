//! Tokens of `--token-auth-file`: lines of `token,user,uid,"group1,group2"` (`token/tokenfile`).

use crate::request::UserInfo;
use std::collections::HashMap;

/// Why a token file cannot be used. Tells the line, never what stands in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenFileError {
    /// Fewer than three columns.
    #[error("line {0}: token, user name and user uid are needed")]
    Columns(usize),
    /// A quote that is not closed.
    #[error("line {0}: a quote is not closed")]
    Quote(usize),
    /// Nothing in front of the first comma.
    #[error("line {0}: the token is empty")]
    Empty(usize),
}

/// Tokens, by the SHA-256 of each.
pub struct TokenFile {
    users: HashMap<[u8; 32], UserInfo>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "TokenFile({} tokens)", self.users.len())
    }
}

impl TokenFile {
    /// Reads the file's text. Of two lines with one token the later wins, as upstream has it.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line).ok_or(TokenFileError::Quote(number))?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::Columns(number));
            };
            if token.is_empty() {
                return Err(TokenFileError::Empty(number));
            }
            let groups = rest.first().map_or("", String::as_str).split(',').map(str::trim);
            let groups = groups.filter(|group| !group.is_empty()).map(str::to_owned).collect();
            let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
            let key: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
            users.insert(key, UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() });
        }
        Ok(Self { users })
    }

    pub(super) fn find(&self, digest: &[u8; 32]) -> Option<&UserInfo> {
        self.users.get(digest)
    }
}

/// Columns of a CSV line; `None` when a quote is not closed.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut symbols = line.chars().peekable();
    while let Some(symbol) = symbols.next() {
        let column = out.last_mut()?;
        match symbol {
            '"' if quoted && symbols.peek() == Some(&'"') => {
                symbols.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            ' ' if !quoted && column.is_empty() => (),
            plain => column.push(plain),
        }
    }
    (!quoted).then_some(out)
}
