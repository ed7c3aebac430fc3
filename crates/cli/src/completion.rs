//! `skiff completion SHELL`: the script that makes a shell complete this executable's words.

use clap::{Args, Command, ValueEnum};
use std::io::{self, Write};

/// Flags of `skiff completion`.
#[derive(Args, Debug)]
pub struct Flags {
    /// The shell; load with `source <(skiff completion bash)`.
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that get a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

/// Writes the script for `command`, the whole command line of the executable. The only failures are those of `out`.
pub fn run(flags: &Flags, command: &mut Command, out: &mut dyn Write) -> io::Result<()> {
    let shell = match flags.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics when a write fails, and a closed pipe is nothing to panic about.
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    out.write_all(&script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;
    use std::process::Stdio;

    fn script(shell: Shell) -> String {
        let mut command = Command::new("skiff")
            .subcommand(Command::new("server").arg(Arg::new("data-dir").long("data-dir")))
            .subcommand(Command::new("version"));
        let mut out = Vec::new();
        run(&Flags { shell }, &mut command, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Asks a real bash what it would offer.
    #[test]
    fn bash_offers_subcommands_and_flags() {
        for (words, count, wanted) in [("skiff ser", 1, "server"), ("skiff server --da", 2, "--data-dir")] {
            let ask = format!(
                "COMP_WORDS=({words}); COMP_CWORD={count}; _skiff skiff \"${{COMP_WORDS[{count}]}}\" \"\"; \
                 echo \"${{COMPREPLY[*]}}\""
            );
            let bash = std::process::Command::new("bash")
                .args(["--noprofile", "--norc", "-c", &format!("{}\n{ask}", script(Shell::Bash))])
                .stderr(Stdio::inherit())
                .output();
            let Ok(bash) = bash else {
                println!("skipped: no bash on this machine");
                return;
            };
            assert_eq!(String::from_utf8(bash.stdout).unwrap().trim(), wanted);
        }
    }

    #[test]
    fn every_shell_has_a_script_of_its_own() {
        assert!(script(Shell::Zsh).starts_with("#compdef skiff"));
        assert!(script(Shell::Fish).contains("complete -c skiff"));
    }

    #[test]
    fn a_closed_pipe_is_an_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut command = Command::new("skiff");
        let refused = run(&Flags { shell: Shell::Bash }, &mut command, &mut Closed);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
