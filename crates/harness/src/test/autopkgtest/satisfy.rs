//! A package that holds nothing and needs what a test needs, so that whoever installs it has that too: as
//! autopkgtest does it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Of that package; nothing else is called so.
pub(super) const NAME: &str = "postroj-test-depends";

/// Writes it (deb(5)).
///
/// # Errors
/// Where it cannot be written.
pub(super) fn write(path: &Path, depends: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let control = format!(
        "Package: {NAME}\nVersion: 1\nArchitecture: all\nMaintainer: postroj <postroj@localhost>\n\
         Depends: {depends}\nDescription: what a test needs\n"
    );
    let mut file = File::create(path).with_context(what)?;
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", archive(Some(&control))?),
        ("data.tar", archive(None)?),
    ];
    file.write_all(b"!<arch>\n").with_context(what)?;
    for (name, content) in members {
        let header =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, content.len());
        file.write_all(header.as_bytes()).with_context(what)?;
        file.write_all(&content).with_context(what)?;
        if content.len() % 2 == 1 {
            file.write_all(b"\n").with_context(what)?;
        }
    }
    Ok(())
}

fn archive(control: Option<&str>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    builder.append_data(&mut header, "./", std::io::empty())?;
    if let Some(text) = control {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, "./control", text.as_bytes())?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use bakery::source::bootstrap::deb::Deb;

    #[test]
    fn it_is_a_package() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.deb");
        super::write(&path, "aa (>= 1), bb | cc").unwrap();
        let deb = Deb::open(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(deb.control.field("Depends"), Some("aa (>= 1), bb | cc"));
    }
}
