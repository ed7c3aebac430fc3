//! `skiff version`.

use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, Write};

/// Flags of `skiff version`.
#[derive(Args, Debug, Default)]
pub struct Flags {
    /// For programs; lines for people when absent.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Forms of the answer beside lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One JSON object.
    Json,
}

/// What the executable is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build<'a> {
    /// Our version: `0.1.0`.
    pub skiff: &'a str,
    /// The release of Kubernetes that it behaves as: `v1.36.2`.
    pub kubernetes: &'a str,
}

/// Go's words for platforms, which kubectl and node objects use too.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

/// Writes which version this is. The only failures are those of `out`.
pub fn run(flags: &Flags, build: Build<'_>, out: &mut dyn Write) -> io::Result<()> {
    match flags.output {
        None => {
            writeln!(out, "skiff {}", build.skiff)?;
            writeln!(out, "Kubernetes {}", build.kubernetes)?;
            writeln!(out, "Platform {}", platform())
        }
        Some(Output::Json) => {
            #[derive(Serialize)]
            struct Answer<'a> {
                #[serde(flatten)]
                build: Build<'a>,
                platform: String,
            }
            serde_json::to_writer(&mut *out, &Answer { build, platform: platform() })?;
            writeln!(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(output: Option<Output>) -> String {
        let mut out = Vec::new();
        run(&Flags { output }, Build { skiff: "0.1.0", kubernetes: "v1.36.2" }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_for_people() {
        let text = answer(None);
        assert!(text.starts_with("skiff 0.1.0\nKubernetes v1.36.2\nPlatform linux/"), "{text}");
    }

    #[test]
    fn json_for_programs() {
        let value: serde_json::Value = serde_json::from_str(&answer(Some(Output::Json))).unwrap();
        assert_eq!((&value["skiff"], &value["kubernetes"]), (&"0.1.0".into(), &"v1.36.2".into()));
        assert_eq!(value["platform"], platform());
    }
}
