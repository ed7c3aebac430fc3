//! `skiff image`: the node's images, for people. Works beside a running server, on the same store.

use crate::node_images::OWN_IMAGE;
use crate::node_runtime;
use anyhow::Context;
use clap::{Args, Subcommand};
use skiff_base::task::Supervisor;
use skiff_image::registry::Puller;
use skiff_image::{Images, Limits, Reference, archive};
use std::path::PathBuf;

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
            for image in archive::import(&images, &archive, name.as_deref())? {
                println!("{} {}", image.id, image.tags.iter().cloned().collect::<Vec<_>>().join(" "));
            }
        }
        Command::Pull { name } => {
            let reference = Reference::parse(&name)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let image = runtime.block_on(async {
                let puller = Puller::new(&[], Vec::new(), Supervisor::new("image"))?;
                puller.pull(&images, &reference, None).await.map_err(anyhow::Error::from)
            })?;
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
