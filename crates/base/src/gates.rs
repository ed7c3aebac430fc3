//! Feature gates: upstream's names, stages and defaults as data, settings checked once at the start.
//!
//! An unknown name is refused, a locked gate keeps its value, and a gate that nothing here asks can only be set to the
//! value it has: a switch without effect is never accepted in silence. `AllAlpha` and `AllBeta` are upstream's two
//! collective gates; they turn what nothing asks neither on nor off, so they too need every member to be asked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "upstream's words")]
pub enum Stage {
    Alpha,
    Beta,
    Ga,
    Deprecated,
}

/// One gate of the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Upstream's name.
    pub name: &'static str,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is on when nothing is said.
    pub default: bool,
    /// Whether the default cannot be changed.
    pub locked: bool,
}

/// Every gate of 1.36, sorted by name (`cargo xtask reference`).
pub fn all() -> &'static [Gate] {
    static GATES: OnceLock<Vec<Gate>> = OnceLock::new();
    GATES.get_or_init(|| include_str!("gates.tsv").lines().filter_map(parse_line).collect())
}

fn parse_line(line: &'static str) -> Option<Gate> {
    let mut columns = line.split('\t');
    let name = columns.next()?;
    let stage = match columns.next()? {
        "Alpha" => Stage::Alpha,
        "Beta" => Stage::Beta,
        "Deprecated" => Stage::Deprecated,
        _ => Stage::Ga,
    };
    Some(Gate { name, stage, default: columns.next()? == "true", locked: columns.next()? == "locked" })
}

/// The gate with this name.
pub fn find(name: &str) -> Option<&'static Gate> {
    let gates = all();
    gates.binary_search_by(|gate| gate.name.cmp(name)).ok().map(|index| &gates[index])
}

/// Why a setting is not accepted, in upstream's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Not `name=true` or `name=false`.
    #[error("invalid value of {name}={value}, err: must be true or false")]
    Value {
        /// Of which gate.
        name: String,
        /// What was said.
        value: String,
    },
    /// No `=`.
    #[error("missing bool value for {0}")]
    Missing(String),
    /// No such gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// It cannot be changed.
    #[error("cannot set feature gate {name} to {value}, feature is locked to {default}")]
    Locked {
        /// Which.
        name: &'static str,
        /// What was said.
        value: bool,
        /// What it is.
        default: bool,
    },
    /// Nothing here asks it.
    #[error("cannot set feature gate {name} to {value}: this feature cannot be switched here, it is always {default}")]
    Absent {
        /// Which.
        name: &'static str,
        /// What was said.
        value: bool,
        /// What it is.
        default: bool,
    },
}

/// The gates as set for this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    set: BTreeMap<&'static str, bool>,
}

impl Gates {
    /// Reads `A=true,B=false` (and `component:A=true`, which upstream writes since 1.31). `asked`: the gates that the
    /// code asks. Every mistake is told.
    pub fn parse(settings: &str, asked: &[&str]) -> Result<Self, Vec<GateError>> {
        let mut gates = Self::default();
        let mut errors = Vec::new();
        for setting in settings.split(',').map(str::trim).filter(|setting| !setting.is_empty()) {
            if let Err(error) = gates.set(setting, asked) {
                errors.push(error);
            }
        }
        if errors.is_empty() { Ok(gates) } else { Err(errors) }
    }

    fn set(&mut self, setting: &str, asked: &[&str]) -> Result<(), GateError> {
        let (name, value) = setting.split_once('=').ok_or_else(|| GateError::Missing(setting.to_owned()))?;
        let name = name.trim();
        let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
        let value = match value.trim() {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
            "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
            other => return Err(GateError::Value { name: name.to_owned(), value: other.to_owned() }),
        };
        if let Some(stage) = match name {
            "AllAlpha" => Some(Stage::Alpha),
            "AllBeta" => Some(Stage::Beta),
            _ => None,
        } {
            for gate in all().iter().filter(|gate| gate.stage == stage && !gate.locked) {
                self.set_gate(gate, value, asked)?;
            }
            return Ok(());
        }
        let gate = find(name).ok_or_else(|| GateError::Unknown(name.to_owned()))?;
        self.set_gate(gate, value, asked)
    }

    fn set_gate(&mut self, gate: &'static Gate, value: bool, asked: &[&str]) -> Result<(), GateError> {
        let Gate { name, default, locked, .. } = *gate;
        if value != default && locked {
            return Err(GateError::Locked { name, value, default });
        }
        if value != default && !asked.contains(&name) {
            return Err(GateError::Absent { name, value, default });
        }
        self.set.insert(name, value);
        Ok(())
    }

    /// Whether a gate is on. A name that is no gate is a mistake in our code: it is off.
    pub fn enabled(&self, name: &str) -> bool {
        debug_assert!(find(name).is_some(), "{name} is no feature gate");
        self.set.get(name).copied().unwrap_or_else(|| find(name).is_some_and(|gate| gate.default))
    }
}

/// As `kubernetes_feature_enabled` and logs show them: only what differs from the default.
impl fmt::Display for Gates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        out.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_release() {
        assert!(all().len() > 200);
        assert!(all().windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, each once");
        let gate = find("WatchList").expect("a gate of 1.36");
        assert_eq!((gate.stage, gate.default, gate.locked), (Stage::Beta, true, false));
        assert!(Gates::default().enabled("WatchList"));
    }

    #[test]
    fn refuses_what_has_no_effect() {
        let parse = |text: &str| {
            let shown = |errors: Vec<GateError>| errors.iter().map(GateError::to_string).collect::<Vec<_>>().join("; ");
            Gates::parse(text, &["WatchList"]).map(|gates| gates.to_string()).map_err(shown)
        };
        assert_eq!(parse("WatchList=false"), Ok("WatchList=false".into()));
        assert_eq!(parse("kube:WatchList=false"), Ok("WatchList=false".into()));
        assert_eq!(
            parse("Nonsense=true,WatchList=maybe,WatchList"),
            Err("unrecognized feature gate: Nonsense; invalid value of WatchList=maybe, err: must be true or false; \
                 missing bool value for WatchList"
                .into())
        );
        let locked = all().iter().find(|gate| gate.locked && gate.default).expect("some gate is locked");
        assert_eq!(
            parse(&format!("{}=false", locked.name)),
            Err(format!("cannot set feature gate {} to false, feature is locked to true", locked.name))
        );
        assert!(parse("AllAlpha=true").is_err(), "alpha features that are not there cannot be turned on");
        assert_eq!(parse("AllAlpha=false").map(|_| ()), Ok(()));
    }
}
