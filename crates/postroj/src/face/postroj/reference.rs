//! Image references of the command line.

use anyhow::{Context, Result};
use bakery::source;
use bakery::source::registry::settings::Settings;
use spec::reference::{DiskReference, LayoutKind, LayoutReference, Reference};

/// Reads a reference; paths in it become absolute, so that they name the same image from everywhere.
pub(super) fn parse(text: &str) -> Result<Reference> {
    let absolute = |path| std::path::absolute(path).context("no path");
    let is_label = distro::catalog::is_label;
    let parsed = match Reference::parse(text, is_label)? {
        // It is not known yet what a short name stands for here.
        Reference::Registry(_) if !text.contains("://") => {
            Reference::parse(&Settings::read()?.expand(text), is_label)?
        }
        other => other,
    };
    Ok(match parsed {
        Reference::Path(path) => {
            let path = absolute(path)?;
            source::layout::sniff(&path)
                .with_context(|| format!("cannot open the image {}", path.display()))?
        }
        Reference::Tar(path) => Reference::Tar(absolute(path)?),
        Reference::Disk(disk) => {
            let path = absolute(disk.path)?;
            Reference::Disk(DiskReference { path, ..disk })
        }
        Reference::Directory(path) => source::layout::sniff_directory(&absolute(path)?),
        Reference::Layout(layout) if layout.kind == LayoutKind::ContainersStorage => {
            Reference::Layout(layout)
        }
        Reference::Layout(layout) => {
            let path = absolute(layout.path)?;
            Reference::Layout(LayoutReference { path, ..layout })
        }
        other => other,
    })
}
