//! Debian-like systems made from their archive, by nothing but this program: what apt,
//! debootstrap and dpkg of the host would do is done here, and the image's own dpkg
//! configures it in the end.
//!
//! The way of a pull: [`archive`] decides where from, [`suite`] fetches and verifies
//! Release files and indices, [`resolver`] chooses packages of the [`universe`] that
//! they make up, [`unpacking`] downloads and unpacks them, [`overlap`] settles whose a file is that
//! several hold, [`database`] writes down for dpkg what is there, [`furniture`] adds
//! apt's sources and the like, and [`recipe`] is what is left to be run.

pub mod addition;
pub mod apt_conf;
pub mod ar;
mod archive;
mod configuration;
mod database;
pub mod date;
pub mod deb;
pub mod deb822;
pub(crate) mod fetch;
mod furniture;
pub mod kernel;
pub mod keyring;
mod overlap;
pub mod packages;
mod recipe;
pub mod relation;
pub mod release;
mod resolver;
pub mod sources_list;
mod suite;
mod universe;
mod unpacking;
pub mod version;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use distro::catalog::Resolved;
use spec::event::Event;
use spec::image::{Bootstrap, Config, Origin};

use self::archive::{Archive, Host, public};
use self::configuration::Configuration;
use self::fetch::{Fetcher, Wanted};
use self::packages::Entry;
use self::resolver::Chosen;
use self::suite::Suite;
use self::universe::Universe;
use self::unpacking::Planned;
use super::{Content, Context, Draft, Pulled};

/// Brings the directories that all other packages add to, so it is unpacked first.
const SKELETON: &str = "base-files";

/// Where a release would be made from.
pub(crate) struct Way<'a> {
    wanted: Resolved<'a>,
    suite: &'a distro::catalog::Bootstrap,
    archives: Vec<Archive>,
}

/// Finds the archives of a release that can be bootstrapped.
///
/// # Errors
/// There is no archive, or no keyring; says how to give one.
pub(crate) fn way<'a>(
    wanted: Resolved<'a>,
    suite: &'a distro::catalog::Bootstrap,
    context: &Context<'_>,
) -> Result<Way<'a>> {
    let configured = Configuration::read(&wanted.family.name)?;
    let host = Host::read(Path::new("/"), wanted.family);
    let archives = archive::choose(wanted.family, suite, context.options, &configured, &host)
        .with_context(|| bootstrapping(&wanted))?;
    Ok(Way { wanted, suite, archives })
}

fn bootstrapping(wanted: &Resolved<'_>) -> String {
    format!("bootstrapping {}", wanted.label())
}

/// What fetches an archive's files can fetch others too.
pub(crate) fn fetcher<'a>(context: &Context<'a>) -> Fetcher<'a> {
    Fetcher::new(context.store, context.tell)
}

/// Makes a release, where that is not up to date.
///
/// # Errors
/// Names what was fetched or read, why it failed and what to do about it.
pub(crate) fn pull(way: &Way<'_>, context: &Context<'_>) -> Result<Pulled> {
    make(way, context).with_context(|| bootstrapping(&way.wanted))
}

fn make(way: &Way<'_>, context: &Context<'_>) -> Result<Pulled> {
    let Way { wanted, suite, archives } = way;
    let architecture = architecture(context.options.platform.as_deref())?;
    let fetcher = fetcher(context);
    context.tell.tell(Event::Phase { name: "reading package lists".into() });
    let mut suites = fetch_suites(&fetcher, archives)?;
    // Long-term support leaves architectures out: bookworm-security has none for s390x any more.
    suites.retain(|found| {
        let keeps = found.archive.suite == suite.suite || found.has(architecture);
        if !keeps {
            let text = format!("{} has nothing for {architecture}: left out", found.archive.suite);
            context.tell.tell(Event::Warning { text });
        }
        keeps
    });
    let mut origin = Bootstrap {
        label: wanted.label(),
        architecture: architecture.to_owned(),
        sources: suites.iter().map(|suite| suite.archive.line()).collect(),
        releases: suites.iter().map(|suite| format!("sha256:{}", suite.digest)).collect(),
        snapshot: suites.iter().map(|suite| suite.release.date).max().unwrap_or_default(),
        include: include(&context.options.include),
        packages: Vec::new(),
    };
    let previous = context.previous.and_then(|image| match &image.origin {
        Origin::Bootstrap(previous) if is_same_wish(previous, &origin) => Some(previous),
        _ => None,
    });
    let previous = previous.filter(|_| !context.options.force);
    if previous.is_some_and(|previous| previous.releases == origin.releases) {
        return Ok(Pulled::UpToDate);
    }
    let selection = select(wanted, &fetcher, &suites, &origin, context)?;
    origin.packages = selection.packages;
    if previous.is_some_and(|previous| previous.packages == origin.packages) {
        return Ok(Pulled::UpToDate);
    }
    let making = Making { wanted, suite, architecture, suites: &suites, fetcher: &fetcher };
    making.draft(context, &selection.plan, &selection.automatic, origin)
}

/// The packages that a system will consist of.
struct Selection {
    /// `name=version:architecture`, sorted.
    packages: Vec<String>,
    /// In the order of their installation.
    plan: Vec<Planned>,
    /// Names of those that nobody asked for.
    automatic: Vec<String>,
}

fn select(
    wanted: &Resolved<'_>,
    fetcher: &Fetcher<'_>,
    suites: &[Suite],
    origin: &Bootstrap,
    context: &Context<'_>,
) -> Result<Selection> {
    let texts = fetch_indices(fetcher, suites, &origin.architecture)?;
    context.tell.tell(Event::Phase { name: "resolving".into() });
    let indices = parse_indices(&texts, suites)?;
    let entries = indices.iter().map(|(suite, entries)| (*suite, &entries[..]));
    let universe = Universe::new(&origin.architecture, entries);
    let chosen = choose_packages(&universe, wanted.bootable, &origin.include)?;
    let name = |chosen: &Chosen| universe.candidate(chosen.index).entry.name.to_owned();
    Ok(Selection {
        packages: package_list(&universe, &chosen),
        plan: plan(&universe, suites, &chosen)?,
        automatic: chosen.iter().filter(|chosen| chosen.automatic).map(name).collect(),
    })
}

/// What stays the same while an image is made.
struct Making<'a> {
    wanted: &'a Resolved<'a>,
    suite: &'a distro::catalog::Bootstrap,
    architecture: &'a str,
    suites: &'a [Suite],
    fetcher: &'a Fetcher<'a>,
}

impl Making<'_> {
    fn draft(
        &self,
        context: &Context<'_>,
        plan: &[Planned],
        automatic: &[String],
        origin: Bootstrap,
    ) -> Result<Pulled> {
        let (family, suite) = (self.wanted.family, self.suite);
        context.tell.tell(Event::Phase { name: "downloading and unpacking packages".into() });
        let layer = context.store.new_layer()?;
        let root = layer.root();
        let links = furniture::usr_links(suite, self.architecture);
        furniture::make_usr_links(root, suite, &links)?;
        let mut packages = unpacking::unpack_all(self.fetcher, root, plan, context.tell)?;
        let overlaps = overlap::find(&packages, &links)?;
        for &index in &overlaps.again {
            packages[index] = unpacking::unpack_again(self.fetcher, root, &plan[index])?;
        }
        database::write(root, self.architecture, &packages, &overlaps.lost)?;
        let archives: Vec<&Archive> = self.suites.iter().map(|suite| &suite.archive).collect();
        furniture::furnish(root, family, suite, &archives)?;
        furniture::mark_automatic(root, automatic, self.architecture)?;
        Ok(Pulled::Draft(Box::new(Draft {
            content: Content::Root(layer, recipe::recipe(&packages)),
            config: Config {
                env: vec![
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                ],
                cmd: vec!["/bin/bash".into()],
                ..Config::default()
            },
            origin: Origin::Bootstrap(origin),
            names: self.wanted.names(),
        })))
    }
}

/// All suites at once; those that are optional and missing are left out.
fn fetch_suites(fetcher: &Fetcher<'_>, archives: &[Archive]) -> Result<Vec<Suite>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let fetched: Vec<Result<Option<Suite>>> =
        in_parallel(archives, |archive| Suite::fetch(fetcher, archive, now));
    fetched.into_iter().filter_map(Result::transpose).collect()
}

/// The texts of all indices, with the number of the suite.
fn fetch_indices(
    fetcher: &Fetcher<'_>,
    suites: &[Suite],
    architecture: &str,
) -> Result<Vec<(usize, Vec<u8>)>> {
    let wanted: Vec<(usize, &String)> = suites
        .iter()
        .enumerate()
        .flat_map(|(number, suite)| suite.archive.components.iter().map(move |c| (number, c)))
        .collect();
    let texts = in_parallel(&wanted, |(number, component)| {
        Ok((*number, suites[*number].index(fetcher, component, architecture)?))
    });
    texts.into_iter().collect()
}

fn parse_indices<'a>(
    texts: &'a [(usize, Vec<u8>)],
    suites: &[Suite],
) -> Result<Vec<(usize, Vec<Entry<'a>>)>> {
    let parsed = in_parallel(texts, |(number, text)| {
        let suite = &suites[*number].archive.suite;
        let entries =
            packages::parse(text).with_context(|| format!("reading an index of {suite}"))?;
        Ok((*number, entries))
    });
    parsed.into_iter().collect()
}

/// One thread for each; there are few.
fn in_parallel<'i, I: Sync, O: Send>(inputs: &'i [I], work: impl Fn(&'i I) -> O + Sync) -> Vec<O> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = inputs.iter().map(|input| scope.spawn(move || work(input))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn choose_packages(
    universe: &Universe<'_>,
    bootable: &[String],
    include: &[String],
) -> Result<Vec<Chosen>> {
    let mut base: Vec<&str> =
        universe.essential().map(|index| universe.candidate(index).entry.name).collect();
    ensure!(!base.is_empty(), "no suite that is used has packages that are essential");
    base.sort_unstable();
    base.push("apt");
    let wanted: Vec<&str> = bootable.iter().chain(include).map(String::as_str).collect();
    let mut chosen = resolver::resolve(universe, &base, &wanted)?;
    if let Some(at) = chosen.iter().position(|c| universe.candidate(c.index).entry.name == SKELETON)
    {
        chosen[..=at].rotate_right(1);
    }
    Ok(chosen)
}

fn package_list(universe: &Universe<'_>, chosen: &[Chosen]) -> Vec<String> {
    let shown = |chosen: &Chosen| {
        let entry = &universe.candidate(chosen.index).entry;
        format!("{}={}:{}", entry.name, entry.version, entry.architecture)
    };
    let mut list: Vec<String> = chosen.iter().map(shown).collect();
    list.sort_unstable();
    list
}

fn plan(universe: &Universe<'_>, suites: &[Suite], chosen: &[Chosen]) -> Result<Vec<Planned>> {
    let planned = |chosen: &Chosen| -> Result<Planned> {
        let candidate = universe.candidate(chosen.index);
        let entry = &candidate.entry;
        let archive = &suites[candidate.suite].archive;
        let download =
            entry.download().map_err(|why| anyhow!("{why} in {}", public(&archive.uri)))?;
        let wanted = Wanted {
            urls: vec![format!("{}/{}", archive.uri, download.filename)],
            sha256: download.sha256.to_owned(),
            size: download.size,
            what: format!("{} {}", entry.name, entry.version),
        };
        Ok(Planned { wanted, name: entry.name.to_owned(), version: entry.version.to_owned() })
    };
    chosen.iter().map(planned).collect()
}

/// Sorted and without doubles, so that equal wishes are recorded equally.
fn include(wished: &[String]) -> Vec<String> {
    let mut include = wished.to_vec();
    include.sort_unstable();
    include.dedup();
    include
}

fn is_same_wish(previous: &Bootstrap, now: &Bootstrap) -> bool {
    previous.label == now.label
        && previous.architecture == now.architecture
        && previous.include == now.include
        && previous.sources == now.sources
}

/// Debian's name of an OCI platform's architecture (Go's words), or of the host's.
fn architecture(platform: Option<&str>) -> Result<&'static str> {
    let Some(platform) = platform else { return native() };
    let mut parts = platform.split('/');
    let parts = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some("linux"), Some(architecture), variant, None) = parts else {
        bail!("{platform:?} is no platform such as linux/arm64");
    };
    Ok(match (architecture, variant) {
        ("amd64", None | Some("v1")) => "amd64",
        ("386", None) => "i386",
        ("arm64", None | Some("v8")) => "arm64",
        ("arm", None | Some("v7")) => "armhf",
        ("arm", Some("v5")) => "armel",
        ("loong64", None) => "loong64",
        ("mips64le", None) => "mips64el",
        ("mipsle", None) => "mipsel",
        ("ppc64le", None) => "ppc64el",
        ("riscv64", None) => "riscv64",
        ("s390x", None) => "s390x",
        _ => bail!("Debian has no architecture for the platform {platform:?}"),
    })
}

fn native() -> Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "loongarch64" => "loong64",
        "mips64" => "mips64el",
        "powerpc64" => "ppc64el",
        "riscv64" => "riscv64",
        "s390x" => "s390x",
        other => bail!("this host's architecture {other} has no name in Debian"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_names_in_debian() {
        for (platform, name) in [
            ("linux/amd64", "amd64"),
            ("linux/arm64/v8", "arm64"),
            ("linux/arm/v7", "armhf"),
            ("linux/386", "i386"),
            ("linux/ppc64le", "ppc64el"),
        ] {
            assert_eq!(architecture(Some(platform)).unwrap(), name);
        }
        for bad in ["", "linux", "windows/amd64", "linux/amd64/v1/x", "linux/wasm", "amd64"] {
            assert!(architecture(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(architecture(None).unwrap(), native().unwrap());
    }
}
