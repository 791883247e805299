//! Image references of the command line.

use anyhow::{Context, Result};
use spec::reference::Reference;

/// Reads a reference; paths in it become absolute, so that they name the same image from everywhere.
pub(super) fn parse(text: &str) -> Result<Reference> {
    let absolute = |path| std::path::absolute(path).context("no path");
    Ok(match Reference::parse(text, distro::catalog::is_label)? {
        Reference::Path(path) => {
            let path = absolute(path)?;
            let kind = std::fs::metadata(&path)
                .with_context(|| format!("cannot open the image {}", path.display()))?;
            if kind.is_dir() { Reference::Directory(path) } else { Reference::Tar(path) }
        }
        Reference::Tar(path) => Reference::Tar(absolute(path)?),
        Reference::Directory(path) => Reference::Directory(absolute(path)?),
        other => other,
    })
}
