//! A kernel of an archive's, for machines that have one of their own: the one for clouds, which has
//! drivers for virtual hardware only. It is an image like others, of nothing but `/boot` and `/lib/modules`.

use anyhow::{Context as _, Result, bail, ensure};
use distro::catalog::{Catalog, Release};
use rustix::fs::Mode;
use spec::event::Event;
use spec::image::{Bootstrap, Config, Origin};
use spec::recipe::Recipe;
use sys::rooted::Root;

use super::relation;
use super::universe::Universe;
use super::{Way, architecture, unpacking};
use crate::kernel::uncompressed;
use crate::source::{Content, Context, Draft};

/// The family whose kernel it is.
const FAMILY: &str = "debian";

/// What the packages' names begin with; the second one is followed by the kernel's release.
const FLAVOUR: &str = "linux-image-cloud-";
const IMAGE: &str = "linux-image-";

/// Largest kernel: bytes.
const LARGEST: u64 = 256 << 20;

/// Fetches a kernel and unpacks it. With `label` it is that release's, else that of the newest release
/// that is supported.
///
/// `/boot/vmlinuz-RELEASE` is as it came; beside it is `/boot/vmlinux-RELEASE`, which a machine starts without
/// unpacking anything, where there is such a form.
///
/// # Errors
/// As a pull's; where the archive has no such kernel for the platform.
pub fn kernel(context: &Context<'_>, label: Option<&str>) -> Result<Draft> {
    let catalog = Catalog::load()?;
    let label = match label {
        Some(label) => label.to_owned(),
        None => newest(&catalog)?,
    };
    make(&catalog, &label, context).with_context(|| format!("fetching a kernel of {label}"))
}

/// Of the releases that end some day, the last: others change from day to day.
fn newest(catalog: &Catalog) -> Result<String> {
    let family = catalog.families().iter().find(|family| family.name == FAMILY);
    let ends = |release: &&Release| release.bootstrap.is_some() && release.end_of_life.is_some();
    let newest = family.and_then(|family| family.releases.iter().rev().find(ends));
    let newest =
        newest.context("the catalog knows no release of Debian that is made from an archive")?;
    Ok(newest.label.clone())
}

fn make(catalog: &Catalog, label: &str, context: &Context<'_>) -> Result<Draft> {
    let wanted = catalog.resolve(label).context("the catalog does not have it")?;
    let suite = wanted.release.bootstrap.as_ref().context("it is not made from an archive")?;
    let Way { archives, .. } = super::way(wanted, suite, context)?;
    let architecture = architecture(context.options.platform.as_deref())?;
    let fetcher = super::fetcher(context);
    context.tell.tell(Event::Phase { name: "reading package lists".into() });
    let suites = super::fetch_suites(&fetcher, &archives)?;
    let texts = super::fetch_indices(&fetcher, &suites, architecture)?;
    let indices = super::parse_indices(&texts, &suites)?;
    let entries = indices.iter().map(|(suite, entries)| (*suite, &entries[..]));
    let universe = Universe::new(architecture, entries);
    let chosen = choose(&universe, architecture)?;
    let plan = super::plan(&universe, &suites, std::slice::from_ref(&chosen))?;
    let packages = super::package_list(&universe, &[chosen]);
    context.tell.tell(Event::Phase { name: "downloading and unpacking a kernel".into() });
    let layer = context.store.new_layer()?;
    // Some releases' packages have their modules in /lib, others in /usr/lib.
    layer.root().create_dir_all("usr/lib", Mode::from_raw_mode(0o755))?;
    std::os::unix::fs::symlink("usr/lib", layer.path().join("lib"))?;
    unpacking::unpack_all(&fetcher, layer.root(), &plan, context.tell)?;
    unpack_image(layer.root(), &plan[0].name)?;
    let origin = Bootstrap {
        label: label.to_owned(),
        architecture: architecture.to_owned(),
        sources: suites.iter().map(|suite| suite.archive.line()).collect(),
        releases: suites.iter().map(|suite| format!("sha256:{}", suite.digest)).collect(),
        snapshot: suites.iter().map(|suite| suite.release.date).max().unwrap_or_default(),
        include: Vec::new(),
        packages,
    };
    Ok(Draft {
        content: Content::Root(layer, Recipe::default()),
        config: Config::default(),
        origin: Origin::Bootstrap(origin),
        names: Vec::new(),
    })
}

/// The package that the flavour's depends on at the moment.
fn choose(universe: &Universe<'_>, architecture: &str) -> Result<super::Chosen> {
    let flavour = format!("{FLAVOUR}{architecture}");
    let Some(index) = universe.find(&flavour) else {
        bail!("the archive has no {flavour}: give a kernel of your own with --kernel")
    };
    let depends = universe.candidate(index).entry.field("Depends").unwrap_or_default();
    let clauses =
        relation::parse(depends).with_context(|| format!("{flavour} depends on {depends:?}"))?;
    let image = clauses.iter().flatten().find(|relation| relation.name.starts_with(IMAGE));
    let index = image.and_then(|relation| universe.matching(relation).first().copied());
    let index = index.with_context(|| format!("{flavour} depends on no kernel that there is"))?;
    Ok(super::Chosen { index, automatic: false })
}

/// Puts the plain form of the kernel beside it.
fn unpack_image(root: &Root, package: &str) -> Result<()> {
    let release = package.strip_prefix(IMAGE).unwrap_or_default();
    // Kernels that are not signed are packages of their own, and of the same release.
    let release = release.strip_suffix("-unsigned").unwrap_or(release);
    let path = format!("boot/vmlinuz-{release}");
    let packed = root.read(&path, LARGEST).with_context(|| format!("{package} has no {path}"))?;
    ensure!(!packed.is_empty(), "{path} of {package} is empty");
    if let Some(plain) = uncompressed(&packed).with_context(|| format!("unpacking {path}"))? {
        let path = format!("boot/vmlinux-{release}");
        root.write(&path, &plain, Mode::from_raw_mode(0o644))
            .with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}
