//! The seam behind which every kind of image source stands.

use std::path::PathBuf;

use anyhow::Result;
use spec::event::Tell;
use spec::image::{Config, Image, Origin};
use spec::recipe::Recipe;
use spec::reference::Reference;
use store::{NewLayer, Store};

mod assembly;
pub mod bootstrap;
mod catalog;
mod directory;
mod disk;
pub mod layout;
mod lxd;
pub mod registry;
mod tar;
mod web;

/// What a pull may use.
pub struct Context<'a> {
    /// Where the result goes, and where downloads are kept.
    pub store: &'a Store,
    /// Who hears of progress.
    pub tell: &'a dyn Tell,
    /// What the user asked for.
    pub options: &'a Options,
    /// The image that the reference named before, if any.
    pub previous: Option<&'a Image>,
}

/// The user's wishes for a pull.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Archive to bootstrap from, instead of configuration and the host's apt sources.
    pub mirror: Option<String>,
    /// OpenPGP keyring for it.
    pub keyring: Option<PathBuf>,
    /// Packages to add to a bootstrapped system.
    pub include: Vec<String>,
    /// OCI platform, such as `linux/arm64`; the host's where not given.
    pub platform: Option<String>,
    /// Of a disk: the partition that is the root.
    pub partition: Option<String>,
    /// Make anew even where nothing changed.
    pub force: bool,
    /// When to give a download up, however far it is; else as long as something comes.
    pub deadline: Option<std::time::Instant>,
}

/// What a pull found.
pub enum Pulled {
    /// `Context::previous` is what the reference still means.
    UpToDate,
    /// An unpacked root, to be baked and recorded.
    Draft(Box<Draft>),
}

/// An image that only lacks its recipe's effect, its facts and its record.
pub struct Draft {
    /// What it consists of.
    pub content: Content,
    /// The image's configuration.
    pub config: Config,
    /// Where it came from.
    pub origin: Origin,
    /// Names it gets besides the reference's own, such as a label's canonical spelling.
    pub names: Vec<String>,
}

/// What a draft consists of.
pub enum Content {
    /// One unpacked layer, and what finishes it; empty for what is finished already.
    /// The digest of the origin's JSON names the image and the layer.
    Root(NewLayer, Recipe),
    /// Finished layers.
    Layers(Layers),
}

/// The finished layers of an image that has an OCI configuration.
pub struct Layers {
    /// Ids of layers that the store has and holds for us, lowest first.
    pub ids: Vec<String>,
    /// The SHA-256 of the configuration in lower-case hex, which names the image.
    pub image: String,
    /// The architecture that the configuration states, in Go's words.
    pub architecture: String,
    /// Seconds since the epoch, where the configuration states it.
    pub created: Option<u64>,
}

/// A kind of place that images come from.
pub trait ImageSource: Sync {
    /// Whether this source serves the reference.
    fn accepts(&self, reference: &Reference) -> bool;

    /// Finds out what the reference means now and unpacks it if that is new.
    ///
    /// # Errors
    /// Names what was fetched or read, why it failed and what to do about it.
    /// Nothing that was unpacked remains.
    fn pull(&self, reference: &Reference, context: &Context<'_>) -> Result<Pulled>;
}

/// Every source there is.
pub const SOURCES: &[&dyn ImageSource] = &[
    &catalog::Source,
    &tar::Source,
    &web::Source,
    &directory::Source,
    &disk::Source,
    &disk::vagrant::Source,
    &layout::Source,
    &registry::Source,
];

/// The source that serves a reference.
pub fn find(reference: &Reference) -> Option<&'static dyn ImageSource> {
    SOURCES.iter().copied().find(|source| source.accepts(reference))
}
