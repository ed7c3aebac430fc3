//! Command lines of components in upstream's syntax: `--flag=value`, `--flag value`, `--switch`, `-v=2`.
//!
//! A component says which of upstream's flags it serves ([`Served`]); the rest of upstream's flags are refused **by
//! name** (nothing acts upon them), unless they are given their default, which changes nothing. What upstream does not
//! know either is an unknown flag, with the nearest name told. All mistakes are told at once. The same table is what
//! `--help` and the documents show ([`help`]).

use std::collections::BTreeMap;
use std::time::Duration;

/// A component of upstream whose flags are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "upstream's names")]
pub enum Component {
    KubeApiserver,
    KubeControllerManager,
    KubeScheduler,
    Kubelet,
    KubeProxy,
}

impl Component {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }
    fn table(self) -> &'static str {
        match self {
            Self::KubeApiserver => include_str!("flags/kube-apiserver.txt"),
            Self::KubeControllerManager => include_str!("flags/kube-controller-manager.txt"),
            Self::KubeScheduler => include_str!("flags/kube-scheduler.txt"),
            Self::Kubelet => include_str!("flags/kubelet.txt"),
            Self::KubeProxy => include_str!("flags/kube-proxy.txt"),
        }
    }
    /// Upstream's flags.
    pub fn flags(self) -> impl Iterator<Item = Flag> {
        self.table().lines().filter_map(Flag::parse)
    }
}

/// One of upstream's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// Go's name of the type; empty for a switch.
    pub kind: &'static str,
    /// As `--help` shows it; empty for Go's zero value.
    pub default: &'static str,
}

impl Flag {
    fn parse(line: &'static str) -> Option<Self> {
        let rest = line.strip_prefix("--")?;
        let (head, default) = match rest.split_once("(default ") {
            Some((head, default)) => (head.trim_end(), default.strip_suffix(')').unwrap_or(default)),
            None => (rest.trim_end(), ""),
        };
        let (name, kind) = head.split_once(' ').map_or((head, ""), |(name, kind)| (name, kind.trim()));
        Some(Self { name, kind, default: default.trim_matches('"') })
    }

    fn is_switch(self) -> bool {
        self.kind.is_empty()
    }

    /// Whether a value is the one that holds without the flag.
    fn is_default(self, value: &str) -> bool {
        let value = value.trim_matches('"');
        let same_time = || Some(parse_duration(value)? == parse_duration(self.default)?);
        if value == self.default || (self.kind == "duration" && same_time() == Some(true)) {
            return true;
        }
        self.default.is_empty() && matches!(value, "" | "0" | "false" | "0s" | "[]")
            || self.is_switch() && self.default.is_empty() && value == "false"
    }
}

/// A flag that a component acts upon, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Without dashes.
    pub name: &'static str,
    /// What it does here.
    pub help: &'static str,
    /// Type and default of a flag that upstream does not have.
    own: Option<(&'static str, &'static str)>,
    /// What holds when it is not given, where that is not upstream's default.
    holds: Option<&'static str>,
}

impl Served {
    /// One of upstream's.
    pub const fn upstream(name: &'static str, help: &'static str) -> Self {
        Self { name, help, own: None, holds: None }
    }
    /// One of ours: `kind` is Go's name of its type.
    pub const fn own(name: &'static str, kind: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, help, own: Some((kind, default)), holds: None }
    }
    /// The same, with what holds when it is not given; for people.
    #[must_use]
    pub const fn holding(self, default: &'static str) -> Self {
        Self { holds: Some(default), ..self }
    }
    /// Whether upstream does not have it.
    pub const fn is_own(&self) -> bool {
        self.own.is_some()
    }
    fn flag(&self) -> Option<Flag> {
        self.own.map(|(kind, default)| Flag { name: self.name, kind, default })
    }
}

/// Every component logs.
const VERBOSITY: Flag = Flag { name: "v", kind: "Level", default: "0" };

/// The flags of a component that are served, each with its type and what holds when it is not given. A name that upstream does not have is a
/// mistake in the table; it is left out, and a test finds it.
pub fn served(component: Component, served: &[Served]) -> Vec<(Flag, Served)> {
    let upstream: BTreeMap<&'static str, Flag> = component.flags().map(|flag| (flag.name, flag)).collect();
    let find = |one: &Served| {
        let flag = one.flag().or_else(|| upstream.get(one.name).copied())?;
        Some((Flag { default: one.holds.unwrap_or(flag.default), ..flag }, *one))
    };
    served.iter().filter_map(find).collect()
}

/// What `--help` says: each flag with its type and default, then what it does.
pub fn help(component: Component, flags: &[Served]) -> String {
    let mut text = String::new();
    for (flag, one) in served(component, flags) {
        let kind = if flag.kind.is_empty() { String::new() } else { format!(" {}", flag.kind) };
        let default = if flag.default.is_empty() { String::new() } else { format!(" (default {})", flag.default) };
        text.push_str(&format!("  --{}{kind}\n          {}{default}\n", flag.name, one.help));
    }
    text.push_str("  -v, --v Level\n          Log level: from 4 on details, from 8 on everything (default 0)\n");
    text
}

/// A mistake on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Neither we nor upstream know it.
    #[error("unknown flag: --{name}{}", hint.map(|hint| format!(" (did you mean --{hint}?)")).unwrap_or_default())]
    Unknown {
        /// What was said.
        name: String,
        /// The nearest known name.
        hint: Option<&'static str>,
    },
    /// Upstream knows it; nothing here acts upon it.
    #[error("--{name} is a flag of {component} that skiff does not act upon; leave it out or give its default")]
    Absent {
        /// Which.
        name: String,
        /// Whose.
        component: &'static str,
    },
    /// No value.
    #[error("flag needs an argument: --{0}")]
    MissingValue(String),
    /// A value of the wrong form.
    #[error("invalid argument \"{value}\" for \"--{name}\" flag: {why}")]
    Value {
        /// Which.
        name: String,
        /// What was said.
        value: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Components take no arguments.
    #[error("unexpected argument \"{0}\"")]
    Argument(String),
}

/// What a command line said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    values: BTreeMap<String, Vec<String>>,
    /// `--help` or `-h` was there.
    pub help: bool,
    /// `--version`, as said; empty when not.
    pub version: bool,
}

impl Values {
    /// Reads arguments (without the program's name). `served`: flags of the component that have effect.
    pub fn parse<I>(component: Component, served: &[Served], arguments: I) -> Result<Self, Vec<FlagError>>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let mut flags: BTreeMap<&'static str, Flag> = component.flags().map(|flag| (flag.name, flag)).collect();
        flags.extend(served.iter().filter_map(|one| Some((one.name, one.flag()?))));
        flags.insert("v", VERBOSITY);
        let is_served = |name: &str| name == "v" || served.iter().any(|one| one.name == name);
        let mut values = Self::default();
        let mut errors = Vec::new();
        let mut arguments = arguments.into_iter().map(Into::into).peekable();
        while let Some(argument) = arguments.next() {
            let Some((name, mut value)) = split(&argument) else {
                errors.push(FlagError::Argument(argument));
                continue;
            };
            match name.as_str() {
                "help" | "h" => {
                    values.help = true;
                    continue;
                }
                "version" => {
                    values.version = true;
                    continue;
                }
                _ => (),
            }
            let Some(flag) = flags.get(name.as_str()).copied() else {
                let hint = nearest(&name, flags.keys().copied());
                errors.push(FlagError::Unknown { name, hint });
                // Its value, if it had one, would only be told as a second mistake.
                if value.is_none() {
                    arguments.next_if(|next: &String| !next.starts_with('-'));
                }
                continue;
            };
            if value.is_none() && flag.is_switch() {
                value = Some("true".to_owned());
            }
            let Some(value) = value.or_else(|| arguments.next()) else {
                errors.push(FlagError::MissingValue(name));
                continue;
            };
            if !is_served(flag.name) && !flag.is_default(&value) {
                errors.push(FlagError::Absent { name, component: component.name() });
                continue;
            }
            if let Err(why) = check(flag, &value) {
                errors.push(FlagError::Value { name, value, why });
                continue;
            }
            values.values.entry(name).or_default().push(value);
        }
        if errors.is_empty() { Ok(values) } else { Err(errors) }
    }

    /// The last value of a flag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }
    /// A switch.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(parse_bool)
    }
    /// A whole number.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }
    /// A duration.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        parse_duration(self.get(name)?)
    }
    /// A list: values given apart or with commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let all = self.values.get(name).map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }
    /// Everything that was said.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.values.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }
}

/// Name (underscores count as dashes, as upstream's normaliser has it) and value.
fn split(argument: &str) -> Option<(String, Option<String>)> {
    let body = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-').filter(|rest| !rest.is_empty()))?;
    if body.is_empty() {
        return None;
    }
    let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
    // `-v2`
    if !argument.starts_with("--") && value.is_none() && name.len() > 1 && name.starts_with('v') {
        return Some(("v".to_owned(), Some(name[1..].to_owned())));
    }
    Some((name.replace('_', "-"), value))
}

fn check(flag: Flag, value: &str) -> Result<(), &'static str> {
    let fine = match flag.kind {
        "" => parse_bool(value).is_some(),
        "int" | "int32" | "int64" | "uint" | "Level" => value.parse::<i64>().is_ok(),
        "float" | "float32" | "float64" => value.parse::<f64>().is_ok_and(f64::is_finite),
        "duration" => parse_duration(value.strip_prefix('-').unwrap_or(value)).is_some(),
        "ip" => value.parse::<std::net::IpAddr>().is_ok(),
        _ => true,
    };
    if fine {
        return Ok(());
    }
    Err(match flag.kind {
        "" => "must be true or false",
        "duration" => "must be a duration such as 1m30s",
        "ip" => "must be an IP address",
        _ => "must be a number",
    })
}

fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, without signs: `1h30m`, `1.5s`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.').filter(|end| *end > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|symbol: char| symbol.is_ascii_digit() || symbol == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

/// The name that differs least, when it is near.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|one| (distance(name, one), one)).min()?;
    (near.0 <= 3.min(name.len() / 3)).then_some(near.1)
}

/// How many letters must change (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Values, Vec<String>> {
        let served = ["bind-address", "leader-elect", "leader-elect-lease-duration", "tls-cipher-suites"]
            .map(|name| Served::upstream(name, ""))
            .into_iter()
            .chain([Served::own("data-dir", "string", "/var/lib/skiff", "")])
            .collect::<Vec<_>>();
        Values::parse(Component::KubeScheduler, &served, arguments.iter().copied())
            .map_err(|errors| errors.iter().map(FlagError::to_string).collect())
    }

    #[test]
    fn reads_upstreams_syntax() {
        let arguments = [
            "--bind-address=127.0.0.1",
            "--leader-elect",
            "--leader_elect_lease_duration",
            "20s",
            "--tls-cipher-suites=A,B",
            "--tls-cipher-suites",
            "C",
            "-v=4",
            "--secure-port=10259",
            "--leader-elect-renew-deadline=0h0m10s",
            "--data-dir=/d",
        ];
        let Ok(values) = parse(&arguments) else { panic!("refused") };
        assert_eq!(values.get("bind-address"), Some("127.0.0.1"));
        assert_eq!(values.flag("leader-elect"), Some(true));
        assert_eq!(values.duration("leader-elect-lease-duration"), Some(Duration::from_secs(20)));
        assert_eq!(values.list("tls-cipher-suites"), ["A", "B", "C"]);
        assert_eq!(values.integer("v"), Some(4));
        assert_eq!(values.get("data-dir"), Some("/d"));
        assert_eq!(values.get("secure-port"), Some("10259"));
    }

    #[test]
    fn tells_every_mistake() {
        let arguments = [
            "--bind-adress=1.2.3.4",
            "--secure-port=1",
            "--leader-elect=perhaps",
            "--bind-address=x",
            "stray",
            "--bind-address",
        ];
        let Err(errors) = parse(&arguments) else { panic!("accepted") };
        assert_eq!(
            errors,
            [
                "unknown flag: --bind-adress (did you mean --bind-address?)",
                "--secure-port is a flag of kube-scheduler that skiff does not act upon; leave it out or give its default",
                "invalid argument \"perhaps\" for \"--leader-elect\" flag: must be true or false",
                "invalid argument \"x\" for \"--bind-address\" flag: must be an IP address",
                "unexpected argument \"stray\"",
                "flag needs an argument: --bind-address"
            ]
        );
    }

    #[test]
    fn reads_gos_durations() {
        let read = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("1h1m1.5s"), Some(3_661_500));
        assert_eq!(read("0"), Some(0));
        for wrong in ["", "5", "s", "1x", "-1s", "1.2.3s", "1e400h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_component_has_a_table() {
        use Component::{KubeApiserver, KubeControllerManager, KubeProxy, KubeScheduler, Kubelet};
        for component in [KubeApiserver, KubeControllerManager, KubeScheduler, Kubelet, KubeProxy] {
            assert!(component.flags().count() > 40, "{}", component.name());
        }
        let port = KubeApiserver.flags().find(|flag| flag.name == "secure-port");
        assert_eq!(port, Some(Flag { name: "secure-port", kind: "int", default: "6443" }));
    }
}
