//! Images: pulled from registries, imported from archives, unpacked into layers, removed when unused.
//!
//! | step | module |
//! |---|---|
//! | what a name means | [`mod@reference`] |
//! | from a registry | [`registry`] |
//! | from an OCI or Docker archive | [`archive`] |
//! | layers to directories | [`unpack`] |
//! | what is there | [`store`] |
//! | the executable itself as an image | [`own`] |
//!
//! **Owns** everything below its root directory. **Must never know** containers or CRI: it gives layer directories in
//! overlay order and the image's own configuration.
//!
//! Nothing becomes visible before it is whole: a blob gets its name only once its digest matches, a layer only once it
//! is unpacked, an image only once all of its layers are there. A crash leaves temporary names, which the next start
//! removes. Sizes, counts and depths are bounded ([`Limits`]), because archives come from strangers.
//!
//! Not here yet: going on with the download of an earlier start, lazy pulling, signature checks, encrypted layers, `hosts.toml` files.

pub mod archive;
pub mod config;
pub mod own;
pub mod reference;
pub mod registry;
pub mod store;
pub mod unpack;

pub use config::ImageConfig;
pub use reference::Reference;
pub use registry::Credentials;
pub use store::{Image, ImageError, Images};

/// What an image may cost at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a manifest or configuration.
    pub document: u64,
    /// Bytes of one layer as sent.
    pub layer: u64,
    /// Bytes of all layers as unpacked.
    pub unpacked: u64,
    /// Files of all layers.
    pub files: u64,
    /// Layers.
    pub layers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { document: 4 << 20, layer: 16 << 30, unpacked: 64 << 30, files: 4_000_000, layers: 256 }
    }
}
