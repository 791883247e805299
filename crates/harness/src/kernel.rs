//! Which kernel a virtual machine has, and its first root: one that was given, the image's own, or one of
//! Debian's, which is fetched when it is first needed and kept in the store like an image.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bakery::source::{self, Content, Draft, Options, bootstrap};
use engine::vm::initramfs;
use rustix::fs::{Dir, Mode, OFlags};
use sha2::{Digest, Sha256};
use spec::event::{Event, Tell};
use spec::image::{Facts, Image};
use spec::platform::Platform;
use store::{Lease, Store};
use sys::rooted::Root;

use crate::pull::{name_for, size_of};

/// A kernel that QEMU can start.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel itself.
    pub file: PathBuf,
    /// What `uname -r` will show; empty where that is not known, and then there are no modules.
    pub release: String,
    /// The directories that it may have its modules in, below `lib/modules/RELEASE`, the best first.
    roots: Vec<PathBuf>,
    /// The image that it is, or is in.
    pub image: Option<Image>,
    _lease: Option<Lease>,
}

/// Which kernel is wanted.
pub struct Wish<'a> {
    /// This one.
    pub file: Option<&'a Path>,
    /// The image that is to run, which may bring one.
    pub image: Option<&'a Image>,
    /// Where images are.
    pub store: &'a Store,
    /// The archive, and the platform.
    pub options: &'a Options,
    /// Who hears of progress.
    pub tell: &'a dyn Tell,
}

/// Finds a kernel, and fetches one where there is none.
///
/// # Errors
/// Names what cannot be read or fetched.
pub fn find(wish: &Wish<'_>) -> Result<Kernel> {
    if let Some(file) = wish.file {
        return given(file, wish)
            .with_context(|| format!("cannot use the kernel {}", file.display()));
    }
    if let Some(image) = wish.image
        && let Some(own) = own(image, wish.store)?
    {
        return Ok(own);
    }
    fetched(wish)
}

/// The kernel at a path: its modules are beside it (`lib/modules`), beside its directory, as those of
/// `/boot` are, or in the image.
fn given(file: &Path, wish: &Wish<'_>) -> Result<Kernel> {
    let file = std::fs::canonicalize(file)?;
    let release = release_of(&file)?;
    let parent = file.parent().context("it is no file")?;
    let mut roots = vec![parent.to_owned()];
    roots.extend(parent.parent().map(Path::to_owned));
    let mut lease = None;
    if let Some(image) = wish.image {
        lease = Some(wish.store.lease(image)?);
        roots.extend(image.layers.iter().rev().map(|id| wish.store.layer_path(id)));
    }
    Ok(Kernel { file, release, roots, image: None, _lease: lease })
}

fn release_of(file: &Path) -> Result<String> {
    use std::io::Read as _;
    let mut start = Vec::new();
    File::open(file)?.take(128 << 10).read_to_end(&mut start)?;
    ensure!(!start.is_empty(), "it is empty");
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = || name.split_once('-').map(|(_, release)| release.to_owned());
    Ok(bakery::kernel::release(&start).or_else(named).unwrap_or_default())
}

/// The image's own: the newest of `/boot/vmlinuz-RELEASE` that has modules in the same layer.
fn own(image: &Image, store: &Store) -> Result<Option<Kernel>> {
    for id in image.layers.iter().rev() {
        let path = store.layer_path(id);
        let Ok(root) = Root::open(&path) else { continue };
        let mut releases = kernels(&root, "vmlinuz-");
        releases.retain(|release| root.open_dir(format!("/lib/modules/{release}")).is_ok());
        if let Some(release) = releases.pop() {
            return of_image(image, store, &path, release).map(Some);
        }
    }
    Ok(None)
}

/// What follows `prefix` in the names of `/boot`, sorted.
fn kernels(root: &Root, prefix: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(boot) = root.open_in("/boot", flags, Mode::empty()) else { return Vec::new() };
    let entries = Dir::read_from(&boot).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str().ok()?.strip_prefix(prefix)?.to_owned()))
        .collect();
    found.sort();
    found
}

fn of_image(image: &Image, store: &Store, path: &Path, release: String) -> Result<Kernel> {
    let lease = store.lease(image)?;
    let root = Root::open(path).with_context(|| format!("opening {}", path.display()))?;
    let plain = format!("boot/vmlinux-{release}");
    let packed = format!("boot/vmlinuz-{release}");
    // QEMU opens it by its path: it must be a file of the layer's own.
    let is_file = |name: &str| {
        root.symlink_metadata(name).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
        }) && root.symlink_metadata("boot").is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
        })
    };
    let name = [plain, packed].into_iter().find(|name| is_file(name));
    let name = name.with_context(|| format!("the kernel {release} of the image is no file"))?;
    let (file, roots) = (path.join(name), vec![path.to_owned()]);
    Ok(Kernel { file, release, roots, image: Some(image.clone()), _lease: Some(lease) })
}

fn fetched(wish: &Wish<'_>) -> Result<Kernel> {
    let platform = match wish.options.platform.as_deref() {
        Some(text) => Platform::parse(text).map_err(anyhow::Error::msg)?,
        None => Platform::host(),
    };
    let store = wish.store;
    // No reference is called so.
    let name = name_for("kernel", &platform);
    let image = match store.find(&name)? {
        Some(image) => image,
        None => {
            let tell = wish.tell;
            let mut waiting =
                || tell.tell(Event::Phase { name: "waiting for another pull".into() });
            let _lock = store.lock(&name, &mut waiting)?;
            match store.find(&name)? {
                Some(image) => image,
                None => fetch(wish, &name)?,
            }
        }
    };
    let path = image.layers.first().map(|id| store.layer_path(id));
    let path = path.context("the kernel in the store is empty: remove it, and try again")?;
    let root = Root::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let release = kernels(&root, "vmlinuz-").pop();
    let release =
        release.context("the kernel in the store has no /boot: remove it, and try again")?;
    of_image(&image, store, &path, release)
}

fn fetch(wish: &Wish<'_>, name: &str) -> Result<Image> {
    let (store, tell, options) = (wish.store, wish.tell, wish.options);
    let context = source::Context { store, tell, options, previous: None };
    let draft = bootstrap::kernel::kernel(&context, None)?;
    let Draft { content: Content::Root(layer, _), config, origin, .. } = draft else {
        bail!("a kernel comes as a tree")
    };
    tell.tell(Event::Phase { name: "writing to disk".into() });
    let size = size_of(layer.root())?;
    let id = hex(&serde_json::to_vec(&origin)?);
    layer.commit(&id)?;
    let created = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (layers, facts) = (vec![id.clone()], Facts::default());
    let image = Image { id, layers, config, facts, origin, created, size };
    store.record(&image, &[name.to_owned()])?;
    Ok(image)
}

impl Kernel {
    /// The first root with these modules and all that they need, in a file in `directory` that is kept
    /// for the next time. It comes opened: by its name it may be replaced at any moment.
    ///
    /// # Errors
    /// Where a module is missing or the file cannot be written.
    pub fn initramfs(&self, directory: &Path, wanted: &[&str]) -> Result<File> {
        let own = File::open("/proc/self/exe").context("cannot open this program's own file")?;
        let stat = own.metadata()?;
        let root = self.roots.iter().find(|root| self.has_modules(root));
        let modified = stat.modified().context("when this program was made")?;
        let program = format!("{} {} {modified:?}", stat.dev(), stat.ino());
        let content = format!("{} {root:?} {wanted:?}", self.release);
        let short = |text: String| hex(text.as_bytes())[..16].to_owned();
        let program = format!("initramfs-{}", short(program));
        let file = directory.join(format!("{program}-{}", short(content)));
        if let Ok(there) = File::open(&file) {
            return Ok(there);
        }
        let modules = match root {
            Some(root) => {
                let opened =
                    Root::open(root).with_context(|| format!("opening {}", root.display()))?;
                initramfs::modules(&opened, &self.release, wanted, &bakery::kernel::module)?
            }
            // All that it needs may be in the kernel itself.
            None => Vec::new(),
        };
        let init = initramfs::program(&own).context("reading this program's own file")?;
        let written = write(directory, &file, &init, &modules)
            .with_context(|| format!("cannot write {}", file.display()))?;
        remove_others(directory, &program);
        Ok(written)
    }

    fn has_modules(&self, root: &Path) -> bool {
        !self.release.is_empty() && root.join("lib/modules").join(&self.release).is_dir()
    }
}

/// Those of other programs, which were replaced by this one. Whoever uses one has it open.
fn remove_others(directory: &Path, program: &str) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("initramfs-") && !name.starts_with(program) {
            // Another process was faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// By a rename, so that a reader finds the whole or nothing.
fn write(
    directory: &Path,
    file: &Path,
    init: &[u8],
    modules: &[initramfs::Module],
) -> Result<File> {
    let new = directory.join(format!(".initramfs-{}", std::process::id()));
    let written = (|| {
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let mut out = BufWriter::with_capacity(1 << 20, &opened);
        initramfs::write(&mut out, init, modules)?;
        out.flush()?;
        drop(out);
        std::fs::rename(&new, file)?;
        Ok(opened)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
