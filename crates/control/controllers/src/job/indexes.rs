//! Sets of completion indexes, as `status.completedIndexes` writes them (`orderedIntervals` in `indexed_job_utils.go`).

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i64>);

impl Indexes {
    /// Reads `1,3-5,7`; what is no index below `completions` is left out, so a hostile text costs no memory.
    pub(crate) fn parse(text: &str, completions: i64) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
                indexes.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Self(indexes)
    }
    pub(crate) fn insert(&mut self, index: i64) {
        self.0.insert(index);
    }
    pub(crate) fn contains(&self, index: i64) -> bool {
        self.0.contains(&index)
    }
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().copied()
    }
}

impl std::fmt::Display for Indexes {
    /// `1,3-5,7`; two neighbours are written apart.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(out, "{comma}{first}")?;
            if last > first {
                write!(out, "{}{last}", if last == first + 1 { ',' } else { '-' })?;
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_read_and_write() {
        for text in ["", "1", "1,2", "0-2", "1,3-5,7", "3,4,9"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-99999999999,x,5-", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("-1-1", 3).len(), 0);
    }
}
