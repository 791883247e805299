//! To files: an OCI layout, such a layout in an archive, docker's archive, or the root alone.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use spec::event::{Event, Tell};
use spec::image::Image;
use spec::oci::media;
use store::Store;
use store::pack::{self, pack};

use super::layer::Compress;
use super::{Parcel, describe};
use crate::digest;

/// How an image is kept in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory (image-spec 1.1, image-layout.md).
    Oci,
    /// A tar archive of such a directory.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

/// Writes an image with these names to a new file, or for [`Format::Oci`] a new directory.
///
/// # Errors
/// Something is there already, cannot be written, or the layers cannot be packed.
pub fn save(
    store: &Store,
    image: &Image,
    names: &[String],
    format: Format,
    to: Option<&Path>,
    tell: &dyn Tell,
) -> Result<()> {
    let compress = if format == Format::DockerArchive { Compress::No } else { Compress::Gzip };
    let parcel = Parcel::pack(store, image, compress, tell)?;
    tell.tell(Event::Phase { name: "writing".into() });
    match format {
        Format::Oci => {
            let to = to.context("a layout is a directory: say where with -o")?;
            let writing = || format!("writing {}", to.display());
            fs::create_dir_all(to).with_context(writing)?;
            ensure!(
                fs::read_dir(to).with_context(writing)?.next().is_none(),
                "{} is not empty",
                to.display()
            );
            oci(&parcel, names, &mut Directory(to.to_owned())).with_context(writing)
        }
        _ => file(to, |writer| {
            let mut archive = Archive(tar::Builder::new(writer));
            match format {
                Format::DockerArchive => docker(&parcel, names, &mut archive)?,
                _ => oci(&parcel, names, &mut archive)?,
            }
            archive.0.into_inner()?;
            Ok(())
        }),
    }
}

/// Writes the root file system of an image as a tar archive.
///
/// # Errors
/// As [`save`].
pub fn save_root(store: &Store, image: &Image, to: Option<&Path>) -> Result<()> {
    let layers: Vec<PathBuf> = image.layers.iter().map(|id| store.layer_path(id)).collect();
    let newest = i64::try_from(image.created).ok();
    file(to, |writer| {
        let options = pack::Options { newest, ..Default::default() };
        let mut writer = writer;
        store.with_merged(&layers, |root| pack(root, &mut writer, &options))
    })
}

/// Lets `write` fill a new file, which gets its name when it is whole; or standard output.
fn file(
    to: Option<&Path>,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>,
) -> Result<()> {
    let Some(to) = to else {
        let mut out = BufWriter::with_capacity(256 << 10, io::stdout());
        write(&mut out)?;
        return out.flush().context("writing to standard output");
    };
    let writing = || format!("writing {}", to.display());
    let name = to.file_name().with_context(|| format!("{} is no file", to.display()))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = to.with_file_name(temporary);
    let file = File::create_new(&temporary).with_context(writing)?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    let done = write(&mut out)
        .and_then(|()| Ok(out.flush()?))
        .and_then(|()| Ok(fs::rename(&temporary, to)?));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done.with_context(writing)
}

/// Something that files are put into.
trait Place {
    fn put(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()>;
}

struct Directory(PathBuf);

impl Place for Directory {
    fn put(&mut self, name: &str, _: u64, content: &mut dyn Read) -> Result<()> {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        io::copy(content, &mut File::create(path)?)?;
        Ok(())
    }
}

struct Archive<W: Write>(tar::Builder<W>);

impl<W: Write> Place for Archive<W> {
    fn put(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        Ok(self.0.append_data(&mut header, name, content)?)
    }
}

fn put_bytes(place: &mut dyn Place, name: &str, bytes: &[u8]) -> Result<()> {
    place.put(name, bytes.len() as u64, &mut &bytes[..])
}

fn oci(parcel: &Parcel, names: &[String], place: &mut dyn Place) -> Result<()> {
    let mut done = std::collections::HashSet::new();
    for layer in &parcel.layers {
        let hex = layer.descriptor.sha256().map_err(anyhow::Error::msg)?;
        if done.insert(hex) {
            place.put(
                &format!("blobs/sha256/{hex}"),
                layer.descriptor.size,
                &mut layer.reader(),
            )?;
        }
    }
    for bytes in [&parcel.config, &parcel.manifest] {
        put_bytes(place, &format!("blobs/sha256/{}", digest::of(bytes)), bytes)?;
    }
    let mut manifest = describe(media::MANIFEST, &parcel.manifest);
    let mut manifests = Vec::new();
    for name in names {
        // Of a name, the layout knows the tag; containerd's annotation has all of it.
        let tag = name.rsplit('/').next().unwrap_or(name);
        let tag = tag.split('@').next().unwrap_or(tag).rsplit(':').next().unwrap_or(tag);
        manifest.annotations.insert("org.opencontainers.image.ref.name".into(), tag.to_owned());
        manifest.annotations.insert("io.containerd.image.name".into(), name.clone());
        manifests.push(manifest.clone());
    }
    if manifests.is_empty() {
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests });
    put_bytes(place, "index.json", index.to_string().as_bytes())?;
    put_bytes(place, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn docker(parcel: &Parcel, names: &[String], place: &mut dyn Place) -> Result<()> {
    let mut files = Vec::new();
    let mut done = std::collections::HashSet::new();
    for layer in &parcel.layers {
        let hex = layer.descriptor.sha256().map_err(anyhow::Error::msg)?;
        let name = format!("{hex}.tar");
        if done.insert(hex) {
            place.put(&name, layer.descriptor.size, &mut layer.reader())?;
        }
        files.push(name);
    }
    let config = format!("{}.json", digest::of(&parcel.config));
    put_bytes(place, &config, &parcel.config)?;
    let manifest = json!([{ "Config": config, "RepoTags": names, "Layers": files }]);
    put_bytes(place, "manifest.json", manifest.to_string().as_bytes())
}
