//! `skiff image`: the node's images, for people. Works beside a running server, on the same store.

use crate::node_images::OWN_IMAGE;
use crate::node_runtime;
use anyhow::Context;
use clap::{Args, Subcommand};
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_image::registry::Puller;
use skiff_image::{Images, Limits, Reference, archive};
use std::future::Future;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags of `skiff image`.
#[derive(Args)]
pub(crate) struct Flags {
    /// The server's data directory.
    #[arg(long, default_value = "/var/lib/skiff", global = true)]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes in the images of an OCI or Docker archive (plain, gzip or zstd).
    Import {
        /// The archive.
        archive: PathBuf,
        /// Name of an image that the archive does not name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Fetches an image from its registry.
    Pull {
        /// Its name.
        name: String,
    },
    /// Lists images.
    Ls,
    /// Removes a name, or an image by its id.
    Rm {
        /// Name or id.
        name: String,
    },
}

fn block_on<T>(step: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(step))
}

/// Bytes that this process has put where images are made.
fn made(root: &Path) -> u64 {
    fn size(entry: &std::fs::DirEntry) -> u64 {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => entries(&entry.path()).map(|entry| size(&entry)).sum(),
            Ok(metadata) => metadata.len(),
            // What has just moved away is counted no more.
            Err(_) => 0,
        }
    }
    fn entries(directory: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
        std::fs::read_dir(directory).into_iter().flatten().flatten()
    }
    let own = format!("{}-", std::process::id());
    let making = root.join("tmp");
    let ours = entries(&making).filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
    ours.map(|entry| size(&entry)).sum()
}

/// A step that takes long says how far it is: every second on a terminal, in one line, else every ten.
#[expect(clippy::print_stderr, reason = "for who waits")]
async fn counted<T>(root: &Path, what: &str, step: impl Future<Output = T>) -> T {
    let clock = SystemClock::shared();
    let (is_terminal, begun) = (std::io::stderr().is_terminal(), clock.now());
    let pause = Duration::from_secs(if is_terminal { 1 } else { 10 });
    let mut told = false;
    tokio::pin!(step);
    loop {
        tokio::select! {
            outcome = &mut step => {
                if told && is_terminal {
                    eprintln!();
                }
                return outcome;
            }
            () = clock.sleep(pause) => {
                let seconds = clock.now().duration_since(begun).as_secs();
                let (start, end) = if is_terminal { ("\r", "\u{1b}[K") } else { ("", "\n") };
                eprint!("{start}{what}: {:.1} MB in {seconds} s{end}", made(root) as f64 / 1e6);
                told = true;
            }
        }
    }
}

/// Runs one command.
#[expect(clippy::print_stdout, reason = "what the user asked for")]
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let root = flags.data_dir.join("images");
    let images =
        Images::open(&root, Limits::default()).with_context(|| match rustix::process::geteuid().is_root() {
            true => format!("opening {}", root.display()),
            false => format!("opening {}: a node's images are root's, try sudo skiff image", root.display()),
        })?;
    match flags.command {
        Command::Import { archive, name } => {
            let what = format!("importing {}", archive.display());
            let imported = block_on(async {
                let step = tokio::task::spawn_blocking(move || archive::import(&images, &archive, name.as_deref()));
                counted(&root, &what, step).await
            })?;
            for image in imported?? {
                println!("{} {}", image.id, image.tags.iter().cloned().collect::<Vec<_>>().join(" "));
            }
        }
        Command::Pull { name } => {
            let reference = Reference::parse(&name)?;
            let what = format!("pulling {name}");
            let image = block_on(async {
                let puller = Puller::new(&[], Vec::new(), Supervisor::new("image"))?;
                counted(&root, &what, puller.pull(&images, &reference, None)).await.map_err(anyhow::Error::from)
            })??;
            println!("{} {name}", image.id);
        }
        Command::Ls => {
            let row = |name: &str, id: &str, size: u64| {
                let id: String = id.trim_start_matches("sha256:").chars().take(12).collect();
                println!("{name:<60} {id:<16} {:.1} MB", size as f64 / 1e6);
            };
            println!("{:<60} {:<16} SIZE", "NAME", "ID");
            for image in images.list() {
                let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
                names.iter().for_each(|name| row(name, &image.id, image.size));
            }
            // There once a node has run on the data directory.
            if let Some(own) = node_runtime::known_own_image(&flags.data_dir)? {
                row(OWN_IMAGE, &own.documents()?.id, own.size());
            }
        }
        Command::Rm { name } => {
            anyhow::ensure!(images.find(&name).is_some(), "there is no image {name}");
            let used = skiff_runtime::leftovers::layers_in_use(&flags.data_dir.join("runtime"));
            images.remove(&name, |layer| used.contains(layer))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_makes_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(made(dir.path()), 0);
        let own = dir.path().join(format!("tmp/{}-1", std::process::id()));
        std::fs::create_dir_all(own.join("below")).unwrap();
        for (path, size) in [(own.join("below/a"), 5), (own.with_extension("b"), 7), (dir.path().join("tmp/1-0"), 100)]
        {
            std::fs::write(path, vec![0; size]).unwrap();
        }
        assert_eq!(made(dir.path()), 12, "and not another's");
    }
}
