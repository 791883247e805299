//! What is added to an image by its own package manager, or by that of another image where it has none: a layer
//! more, made once for each image and list of packages, whoever asks for it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use distro::catalog::{Catalog, DEFAULT_INIT, NONE};
use distro::package::{self, Operation, PackageManager};
use engine::record::Record;
use engine::state::RunDirectory;
use sha2::{Digest, Sha256};
use spec::event::{Event, Tell};
use spec::image::{Facts, Image, Origin};
use store::Store;

use crate::probe::cell::Program;
use crate::written::{self, Part, Written};

/// An image and what is to be added to it.
pub struct Provision {
    base: Image,
    /// Whose package manager does it.
    helper: Option<Image>,
    manager: &'static dyn PackageManager,
    packages: Vec<String>,
    origin: Origin,
}

/// Names of packages that give a system the init that its distribution has; `None` where the image has an
/// init, or nothing is known of its distribution, or of who could install packages in it.
///
/// # Errors
/// Where the catalog cannot be read.
pub fn bootable(facts: &Facts) -> Result<Option<Vec<String>>> {
    if facts.init.is_some() {
        return Ok(None);
    }
    let catalog = Catalog::load()?;
    if facts.package_manager.is_none() && helper_in(&catalog, facts).is_none() {
        return Ok(None);
    }
    let family = catalog.family_of(&facts.os_release);
    Ok(family.and_then(|family| {
        let bootable = &family.bootable;
        let own = bootable.get(&family.init).or_else(|| bootable.get(DEFAULT_INIT));
        own.or_else(|| bootable.values().next()).filter(|packages| !packages.is_empty()).cloned()
    }))
}

/// The label of the system whose package manager installs packages in an image that has none, as UBI micro and
/// distroless images: the catalog's release that the image is made of.
///
/// # Errors
/// Where the catalog cannot be read.
pub fn helper(facts: &Facts) -> Result<Option<String>> {
    Ok(helper_in(&Catalog::load()?, facts))
}

fn helper_in(catalog: &Catalog, facts: &Facts) -> Option<String> {
    let release = catalog.release_of(&facts.os_release)?;
    let (family, _) = catalog.find_with_family(&release.label)?;
    (release.package_manager(family) != NONE).then(|| release.label.clone())
}

impl Provision {
    /// Packages for an image, by their names: its own package manager installs them, or that of `helper`.
    ///
    /// # Errors
    /// Where that image has no package manager, or a name is none.
    pub fn new(base: Image, helper: Option<Image>, packages: &[String]) -> Result<Self> {
        let mut packages = packages.to_vec();
        packages.sort();
        packages.dedup();
        let facts = helper.as_ref().map_or(&base.facts, |helper| &helper.facts);
        let known = facts.package_manager.as_deref().and_then(package::by_name);
        let manager = known.context("it has no package manager that could install anything")?;
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        let commands = match &helper {
            Some(_) => package::work_outside(manager, SYSTEM, &names).map(|work| work.commands),
            None => inside(manager, &names),
        };
        let commands =
            commands.map_err(|why| anyhow!("cannot install {}: {why}", packages.join(", ")))?;
        let (parent, id) = (base.id.clone(), helper.as_ref().map(|helper| helper.id.clone()));
        let packages_too = packages.clone();
        let origin = Origin::Provisioned { parent, packages: packages_too, commands, helper: id };
        Ok(Self { base, helper, manager, packages, origin })
    }

    /// What has to be there already so that nothing has to be done.
    ///
    /// # Errors
    /// Where it cannot be written down.
    pub fn id(&self) -> Result<String> {
        let digest = Sha256::digest(serde_json::to_vec(&self.origin)?);
        Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// What is installed.
    #[must_use]
    pub fn packages(&self) -> &[String] {
        &self.packages
    }

    /// A name of the result, by that of the image: nothing else is called so, for it is no reference.
    #[must_use]
    pub fn name(&self, of: &str) -> String {
        format!("{of}@with={}", self.packages.join(","))
    }

    /// Installs them in a machine of the image, and takes what was written there out of it.
    ///
    /// # Errors
    /// What the package manager failed at, in its words.
    pub fn install(
        &self,
        program: &Program,
        options: &[String],
        store: &Store,
        run: &RunDirectory,
        tell: &dyn Tell,
    ) -> Result<Written> {
        let mount = format!("type=image,source={},target={SYSTEM},rw", self.base.id);
        let (image, options, part) = match &self.helper {
            Some(helper) => {
                let more = ["--mount".to_owned(), mount];
                (helper, [options, &more].concat(), Part::Mounted(SYSTEM))
            }
            None => (&self.base, options.to_vec(), Part::Root),
        };
        let machine = Machine::start(program, run, &image.id, &options)?;
        let Origin::Provisioned { commands, .. } = &self.origin else { bail!("it is another's") };
        for command in commands {
            tell.tell(Event::Phase { name: format!("installing {}", self.packages.join(", ")) });
            self.run(&machine, command, tell)?;
        }
        tell.tell(Event::Phase { name: "making a layer of it".into() });
        written::take(run, &machine.record, part, &store.path().join("tmp"))
    }

    fn run(&self, machine: &Machine<'_>, command: &[String], tell: &dyn Tell) -> Result<()> {
        let (code, output) = machine.exec(self.manager.environment(), command, tell)?;
        if code == Some(0) {
            return Ok(());
        }
        let text = Vec::from(output).join("\n");
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let why = self.manager.explain(&text).map_or(last.to_owned(), |explained| {
            // The rest is what a script printed.
            explained.text.lines().next().unwrap_or_default().to_owned()
        });
        bail!(
            "cannot install {}: {}: {}",
            self.packages.join(", "),
            self.manager.name(),
            why.trim()
        )
    }

    /// Makes it an image.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn commit(self, written: Written, store: &Store, name: &str) -> Result<Image> {
        let (id, name) = (self.id()?, self.name(name));
        let Self { base, origin, .. } = self;
        let config = base.config.clone();
        written.record(store, &base, origin, config, id, &[name])
    }
}

/// Where a helper finds the system that has no package manager.
const SYSTEM: &str = "/mnt";

fn inside(manager: &dyn PackageManager, names: &[&str]) -> Result<Vec<Vec<String>>, String> {
    let mut commands = Vec::new();
    for operation in [Operation::Refresh, Operation::Install(names), Operation::Clean] {
        match package::work(manager, &operation) {
            Ok(work) => commands.extend(work.commands),
            Err(_) if operation == Operation::Clean => {}
            Err(why) => return Err(why),
        }
    }
    Ok(commands)
}

/// The most of a command's last output that is looked at when it failed: lines.
const QUOTED: usize = 400;

/// How long a monitor may take after its machine's end.
const CLEANUP: Duration = Duration::from_secs(20);

/// A machine that waits for commands, and is gone with this process.
struct Machine<'a> {
    program: &'a Program,
    run: &'a RunDirectory,
    record: Record,
    monitor: Child,
}

impl<'a> Machine<'a> {
    fn start(
        program: &'a Program,
        run: &'a RunDirectory,
        image: &str,
        options: &[String],
    ) -> Result<Self> {
        let name = format!("provision-{}", std::process::id());
        let mut command = program.verb(&["run", "--detach", "--rm", "--name", &name]);
        command.args(["--pull", "never", "--user", "0", "--workdir", "/", "--entrypoint", "sleep"]);
        command.args(options).args([image, FOREVER]);
        // As the one that starts a monitor in the background does: see the face's `start`.
        command.env("POSTROJ_MONITOR", std::process::id().to_string()).env("POSTROJ_TETHER", "1");
        // What the user's machines have none of for want of a wish, package managers cannot do without.
        if std::env::var_os(NETWORK).is_some_and(|mode| mode == "none") {
            command.env_remove(NETWORK);
        }
        let mut monitor = command
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a machine to install packages in")?;
        let report = monitor.stdout.take().context("the monitor has no output")?;
        let mut line = String::new();
        BufReader::new(report).read_line(&mut line).context("cannot hear from the monitor")?;
        match run.find(&name) {
            Ok(record) if line.ends_with('\n') => Ok(Self { program, run, record, monitor }),
            _ => {
                let _ = (monitor.kill(), monitor.wait());
                bail!("the machine to install packages in did not start")
            }
        }
    }

    /// Runs a command as root; its exit code and its last lines.
    fn exec(
        &self,
        environment: &[(&str, &str)],
        words: &[String],
        tell: &dyn Tell,
    ) -> Result<(Option<i32>, VecDeque<String>)> {
        let mut exec: Command = self.program.verb(&["exec", "--user", "0", "--workdir", "/"]);
        for (name, value) in environment.iter().chain(&[("LC_ALL", "C.UTF-8")]) {
            exec.args(["--env", &format!("{name}={value}")]);
        }
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        exec.arg(&self.record.name).args(words).stdout(writer.try_clone()?).stderr(writer);
        let mut child = exec.spawn().context("cannot run a command in the machine")?;
        // Its copies of the pipe's end.
        drop(exec);
        let mut last = VecDeque::new();
        for line in BufReader::new(std::fs::File::from(reader)).split(b'\n') {
            let line = line.context("cannot read what the package manager says")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            if last.len() == QUOTED {
                last.pop_front();
            }
            last.push_back(line.clone());
            tell.tell(Event::Output { line });
        }
        Ok((child.wait()?.code(), last))
    }
}

/// The variable of the option `--network`.
const NETWORK: &str = "POSTROJ_NETWORK";

/// What sleep(1) of any system takes: seconds.
const FOREVER: &str = "2147483647";

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.run.signal(&self.record, sys::signals::SIGKILL);
        let ended =
            self.run.wait(self.record.id(), Some(CLEANUP), |record| record.exited.is_some());
        if let Ok(engine::Waited::Late) = ended {
            let _ = self.monitor.kill();
        }
        let _ = self.monitor.wait();
        self.run.reap();
        if let Ok(record) = self.run.find(self.record.id()) {
            let _ = self.run.remove(&record);
        }
    }
}
