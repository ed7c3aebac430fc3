//! `--config FILE`: a YAML mapping whose keys are the long names of the flags, lists for those that may be given again.
//!
//! It becomes a command line: what the file says and the real command line does not is added to that one, and both are
//! read by one parser. So a key means what the flag means, and precedence is flag, file, default.
//!
//! Nothing in it is passed over: an unknown key, one said twice, a wrong type or value is an error with file and line,
//! and all errors are told at once.

use crate::usage::UsageError;
use clap::builder::PossibleValue;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use saphyr_parser::{Event, Parser, ScalarStyle};
use skiff_base::flags::nearest;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Keys that have no place in the file.
const NOT_KEYS: [&str; 3] = ["config", "help", "version"];

/// A value as the file has it.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Scalar { text: String, quoted: bool },
    List(Vec<String>),
}

/// One key of the file.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    line: usize,
    said: Said,
}

/// The arguments that a file stands for, but for flags that `matches` has from the command line. `command` says which
/// flags there are.
pub(crate) fn arguments(path: &Path, command: &Command, matches: &ArgMatches) -> Result<Vec<OsString>, UsageError> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError::one(format!("--config: cannot read {name}: {error}")))?;
    let (entries, mut errors) = parse(&text);
    let mut arguments = Vec::new();
    for entry in &entries {
        match translate(entry, command) {
            Err(why) => errors.push((entry.line, why)),
            Ok((id, found)) if matches.value_source(&id) != Some(ValueSource::CommandLine) => {
                arguments.extend(found.into_iter().map(OsString::from));
            }
            Ok(_) => (),
        }
    }
    if errors.is_empty() { Ok(arguments) } else { Err(located(path, errors)) }
}

fn located(path: &Path, mut errors: Vec<(usize, String)>) -> UsageError {
    errors.sort_by_key(|(line, _)| *line);
    UsageError(errors.into_iter().map(|(line, why)| format!("{}:{line}: {why}", path.display())).collect())
}

/// Reads the mapping: what it says, and what is wrong with it, each with its line. Aliases and mappings inside are refused:
/// no flag has such a value.
fn parse(text: &str) -> (Vec<Entry>, Vec<(usize, String)>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut errors = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let mut key: Option<(String, usize)> = None;
    let mut list: Option<Vec<String>> = None;
    let mut depth = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                errors.push((error.marker().line(), format!("not YAML: {}", error.info())));
                break;
            }
        };
        let line = span.start.line();
        match event {
            Event::MappingStart(..) if depth == 0 => depth = 1,
            Event::MappingEnd => break,
            Event::MappingStart(..) | Event::Alias(_) => {
                let of = key.as_ref().map_or("a key", |(key, _)| key);
                errors.push((line, format!("{of}: a flag has one value or a list of values")));
                break;
            }
            Event::SequenceStart(..) if key.is_some() && list.is_none() => list = Some(Vec::new()),
            Event::SequenceStart(..) => {
                errors.push((line, "expected keys, as `secure-port: 6443`".to_owned()));
                break;
            }
            Event::SequenceEnd => {
                if let (Some((key, line)), Some(items)) = (key.take(), list.take()) {
                    entries.push(Entry { key, line, said: Said::List(items) });
                }
            }
            Event::Scalar(..) if depth == 0 && text.trim().is_empty() => (),
            Event::Scalar(value, style, ..) if depth == 0 => {
                let empty = value.is_empty() && style == ScalarStyle::Plain;
                if !empty {
                    errors.push((line, "expected keys, as `secure-port: 6443`".to_owned()));
                }
                break;
            }
            Event::Scalar(value, style, ..) => match (&mut list, key.take()) {
                (Some(items), of) => {
                    items.push(value.into_owned());
                    key = of;
                }
                (None, Some((key, line))) => {
                    let said = Said::Scalar { text: value.into_owned(), quoted: style != ScalarStyle::Plain };
                    entries.push(Entry { key, line, said });
                }
                (None, None) => {
                    let name = value.into_owned();
                    if let Some(first) = lines.insert(name.clone(), line) {
                        errors.push((line, format!("{name} is said twice, first in line {first}")));
                    }
                    key = Some((name, line));
                }
            },
            _ => (),
        }
    }
    (entries, errors)
}

/// The flag that an entry means, and the arguments it stands for, each checked by the flag's own parser.
fn translate(entry: &Entry, command: &Command) -> Result<(String, Vec<String>), String> {
    let key = entry.key.as_str();
    let known = || command.get_arguments().filter_map(Arg::get_long).filter(|name| !NOT_KEYS.contains(name));
    let flag = command.get_arguments().find(|arg| arg.get_long() == Some(key) && !NOT_KEYS.contains(&key));
    let Some(flag) = flag else {
        let hint = nearest(key, known()).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        return Err(format!("unknown key {key:?}{hint}"));
    };
    let several = matches!(flag.get_action(), ArgAction::Append);
    let is_switch = flag.get_num_args().is_some_and(|count| count.min_values() == 0);
    let values = match &entry.said {
        Said::List(_) if !several => return Err(format!("{key}: one value is expected, not a list")),
        Said::List(items) => items.clone(),
        Said::Scalar { text, quoted: false } if matches!(text.as_str(), "" | "~" | "null") => {
            return Err(format!("{key}: a value is missing"));
        }
        Said::Scalar { text, quoted } if is_switch && (*quoted || !matches!(text.as_str(), "true" | "false")) => {
            return Err(format!("{key}: expected true or false, not {text:?}"));
        }
        Said::Scalar { text, .. } => vec![text.clone()],
    };
    let arguments: Vec<String> = values.iter().map(|value| format!("--{key}={value}")).collect();
    for (argument, value) in arguments.iter().zip(&values) {
        let check = command.clone().no_binary_name(true).try_get_matches_from([argument]);
        check.map_err(|error| format!("{key}: {}", explain(&error, flag, value)))?;
    }
    Ok((flag.get_id().as_str().to_owned(), arguments))
}

/// What clap says about one value, without its layout.
fn explain(error: &clap::Error, flag: &Arg, value: &str) -> String {
    let possible = flag.get_possible_values();
    if !possible.is_empty() {
        let names: Vec<&str> = possible.iter().map(PossibleValue::get_name).collect();
        return format!("{value:?} is none of {}", names.join(", "));
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let why = first.rsplit_once(": ").map_or(first, |(_, why)| why);
    format!("invalid value {value:?}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    fn command() -> Command {
        crate::config::Flags::augment_args(Command::new("server"))
    }

    fn read(text: &str, line: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let matches = command().no_binary_name(true).try_get_matches_from(line).unwrap();
        let strip = |text: &String| text.replace(&format!("{}:", path.display()), "");
        let found = arguments(&path, &command(), &matches);
        found
            .map(|arguments| arguments.into_iter().map(|one| one.into_string().unwrap()).collect())
            .map_err(|error| error.0.iter().map(strip).collect())
    }

    #[test]
    fn a_file_is_a_command_line_that_the_real_one_wins_over() {
        let text = "# a server\nsecure-port: 7443\ndata-dir: /d\ndisable-agent: true\n\
                    service-cidr: [10.0.0.0/16, 'fd00::/112']\nkube-scheduler-arg:\n- v=4\n";
        assert_eq!(
            read(text, &["--data-dir=/other"]).unwrap(),
            [
                "--secure-port=7443",
                "--disable-agent=true",
                "--service-cidr=10.0.0.0/16",
                "--service-cidr=fd00::/112",
                "--kube-scheduler-arg=v=4"
            ]
        );
        assert_eq!(read("", &[]).unwrap(), [""; 0]);
        assert_eq!(read("# nothing\n", &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "secure-prt: 1\nsecure-port: [1, 2]\nbind-address: here\ndisable-agent: 'true'\ndisable: [dns, what]\n\
                    data-dir:\nconfig: x\nkubelet-port: 70000\n";
        assert_eq!(
            read(text, &[]).unwrap_err(),
            [
                "1: unknown key \"secure-prt\" (did you mean secure-port?)",
                "2: secure-port: one value is expected, not a list",
                "3: bind-address: invalid value \"here\": invalid IP address syntax",
                "4: disable-agent: expected true or false, not \"true\"",
                "5: disable: \"what\" is none of kube-scheduler, kube-controller-manager, kube-proxy, dns",
                "6: data-dir: a value is missing",
                "7: unknown key \"config\"",
                "8: kubelet-port: invalid value \"70000\": 70000 is not in 0..=65535",
            ]
        );
    }

    #[test]
    fn what_is_no_mapping_of_flags_is_refused() {
        let refused = |text: &str| read(text, &[]).unwrap_err().join("; ");
        let twice = read("data-dir: a\nsecure-prt: 2\ndata-dir: b\n", &[]).unwrap_err();
        let unknown = "2: unknown key \"secure-prt\" (did you mean secure-port?)";
        assert_eq!(twice, [unknown, "3: data-dir is said twice, first in line 1"], "in the order of the file");
        assert_eq!(refused("- a\n"), "1: expected keys, as `secure-port: 6443`");
        assert_eq!(refused("just text\n"), "1: expected keys, as `secure-port: 6443`");
        assert_eq!(refused("data-dir: {a: b}\n"), "1: data-dir: a flag has one value or a list of values");
        assert!(refused("data-dir: [a\n").contains("not YAML"));
    }
}
