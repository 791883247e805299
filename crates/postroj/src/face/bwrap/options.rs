//! bubblewrap's options, read as it reads them.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use spec::sandbox::{Access, Operation, Sandbox, Upper, Variable};

// Beside this file for fuzzing, too, which takes it by its path.
#[path = "values.rs"]
mod values;

use values::{Words, because, bytes, capability, filter, number, octal};

/// Why nothing is run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The help was asked for.
    Help,
    /// The version was asked for.
    Version,
    /// There is no command.
    Usage,
    /// This is wrong.
    Wrong(String),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, End> {
    Err(End::Wrong(text.into()))
}

/// More arguments than these are an attack (bubblewrap.c, `MAX_ARGS`).
const MAX_ARGS: usize = 9000;

/// Options as they are read.
#[derive(Debug)]
pub(crate) struct Reader {
    /// What they say.
    pub(crate) sandbox: Sandbox,
    /// Messages tell how grave they are.
    pub(crate) level_prefix: bool,
    /// To be said before anything else.
    pub(crate) warnings: Vec<String>,
    /// Gives all that a descriptor has.
    content: fn(i32) -> io::Result<Vec<u8>>,
    /// To begin with.
    capabilities: u64,
    user_try: bool,
    cgroup_try: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    hostname: bool,
    /// Of the next option.
    mode: Option<u32>,
    size: Option<u64>,
    lower: Vec<PathBuf>,
    total: usize,
}

impl Reader {
    /// Reads nothing yet. `content` gives all that a descriptor has; `capabilities` are those to add to.
    pub(crate) fn new(content: fn(i32) -> io::Result<Vec<u8>>, capabilities: u64) -> Self {
        Self {
            sandbox: Sandbox::default(),
            level_prefix: false,
            warnings: Vec::new(),
            content,
            capabilities,
            user_try: false,
            cgroup_try: false,
            uid: None,
            gid: None,
            hostname: false,
            mode: None,
            size: None,
            lower: Vec::new(),
            total: 0,
        }
    }

    fn warn_last(&mut self, option: &str, given: bool) {
        if given {
            let prefix = if self.level_prefix { "<4>" } else { "" };
            let text = format!("{prefix}bwrap: Only the last {option} option will take effect");
            self.warnings.push(text);
        }
    }

    /// The whole command line; the first word is the program's name.
    ///
    /// # Errors
    /// Says why nothing is to be run.
    pub(crate) fn read(&mut self, args: Vec<OsString>) -> Result<(), End> {
        if args.len() == 2 && args[1] == "--version" {
            return Err(End::Version);
        }
        if args.len() < 2 {
            return Err(End::Usage);
        }
        self.total = args.len() - 1;
        let mut words = args.into_iter();
        words.next();
        self.sandbox.command = self.options(words, false)?;
        self.overlay_is_complete(true)
    }

    /// Gives the words after the options.
    fn options(
        &mut self,
        mut words: std::vec::IntoIter<OsString>,
        in_file: bool,
    ) -> Result<Vec<OsString>, End> {
        if self.total > MAX_ARGS {
            return wrong(format!("Exceeded maximum number of arguments {MAX_ARGS}"));
        }
        while let Some(first) = words.as_slice().first() {
            if !first.as_bytes().starts_with(b"-") {
                break;
            }
            let first = words.next().unwrap_or_default();
            if first == "--" {
                break;
            }
            let Some(option) = first.to_str() else {
                return wrong(format!("Unknown option {}", first.display()));
            };
            self.option(&mut Words { option, left: &mut words }, in_file)?;
            self.modifiers_are_used(option)?;
        }
        Ok(words.collect())
    }

    fn modifiers_are_used(&self, option: &str) -> Result<(), End> {
        if !matches!(option, "--perms" | "--size") {
            if self.mode.is_some() {
                return wrong("--perms must be followed by an option that creates a file");
            }
            if self.size.is_some() {
                return wrong("--size must be followed by --tmpfs");
            }
        }
        self.overlay_is_complete(option != "--overlay-src")
    }

    fn overlay_is_complete(&self, must: bool) -> Result<(), End> {
        match must && !self.lower.is_empty() {
            true => wrong(
                "--overlay-src must be followed by another --overlay-src or one of --overlay, \
                 --tmp-overlay, or --ro-overlay",
            ),
            false => Ok(()),
        }
    }

    fn option(&mut self, words: &mut Words<'_>, in_file: bool) -> Result<(), End> {
        let option = words.option;
        if self.piece(words)? || self.namespace(words)? || self.descriptor(words)? {
            return Ok(());
        }
        let sandbox = &mut self.sandbox;
        match option {
            "--help" => return Err(End::Help),
            "--version" => return Err(End::Version),
            "--args" if in_file => return wrong("--args not supported in arguments file"),
            "--args" => return self.arguments(words.fd()?),
            "--argv0" => {
                let name = words.one()?;
                if sandbox.name.is_some() {
                    return wrong("--argv0 used multiple times");
                }
                sandbox.name = Some(name);
            }
            "--level-prefix" => self.level_prefix = true,
            "--chdir" => {
                let path = words.path()?;
                let before = sandbox.directory.replace(path).is_some();
                self.warn_last(option, before);
            }
            "--clearenv" => sandbox.environment.push(Variable::Clear),
            "--setenv" => {
                let [name, value] = words.take()?;
                if name.is_empty() || name.as_bytes().contains(&b'=') {
                    return wrong("setenv failed: Invalid argument");
                }
                sandbox.environment.push(Variable::Set(name, value));
            }
            "--unsetenv" => {
                let name = words.one()?;
                if name.is_empty() || name.as_bytes().contains(&b'=') {
                    return wrong("unsetenv failed: Invalid argument");
                }
                sandbox.environment.push(Variable::Unset(name));
            }
            "--lock-file" => sandbox.locks.push(words.path()?),
            "--new-session" => sandbox.new_session = true,
            "--die-with-parent" => sandbox.die_with_parent = true,
            "--as-pid-1" => sandbox.as_pid_1 = true,
            "--cap-add" | "--cap-drop" => {
                let name = words.one()?;
                let named = capability(&name)?;
                let now = sandbox.capabilities.unwrap_or(self.capabilities);
                let adds = option == "--cap-add";
                sandbox.capabilities = Some(if adds { now | named } else { now & !named });
            }
            "--perms" => {
                let word = words.one()?;
                if self.mode.is_some() {
                    return wrong("--perms given twice for the same action");
                }
                self.mode = Some(octal(&word, option)?);
            }
            "--size" => {
                let word = words.one()?;
                if self.size.is_some() {
                    return wrong("--size given twice for the same action");
                }
                self.size = Some(bytes(&word)?);
            }
            // They need SELinux, which no host of ours has yet; so says the original there.
            "--exec-label" | "--file-label" => {
                words.one()?;
                return wrong("labeling not supported on this system");
            }
            _ => return wrong(format!("Unknown option {option}")),
        }
        Ok(())
    }

    /// Options that put something into the root; whether this is one.
    fn piece(&mut self, words: &mut Words<'_>) -> Result<bool, End> {
        let option = words.option;
        let access = match option {
            "--bind" | "--bind-try" | "--bind-fd" | "--bind-data" => Access::Plain,
            "--dev-bind" | "--dev-bind-try" => Access::Devices,
            _ => Access::ReadOnly,
        };
        let operation = match option {
            "--bind" | "--bind-try" | "--ro-bind" | "--ro-bind-try" | "--dev-bind"
            | "--dev-bind-try" => {
                let [source, target] = words.take()?.map(PathBuf::from);
                let optional = option.ends_with("-try");
                Operation::Bind { source, target, access, optional, descriptor: None }
            }
            "--bind-fd" | "--ro-bind-fd" => {
                let [fd, target] = words.take()?;
                let fd = number(&fd, "fd")?;
                let (source, target) = (format!("/proc/self/fd/{fd}").into(), target.into());
                Operation::Bind { source, target, access, optional: false, descriptor: Some(fd) }
            }
            "--overlay-src" => {
                let path = words.path()?;
                self.lower.insert(0, path);
                return Ok(true);
            }
            "--overlay" | "--tmp-overlay" | "--ro-overlay" => self.overlay(words)?,
            "--proc" => Operation::Proc(words.path()?),
            "--dev" => Operation::Dev(words.path()?),
            "--mqueue" => Operation::Mqueue(words.path()?),
            "--remount-ro" => Operation::RemountReadOnly(words.path()?),
            "--tmpfs" => Operation::Tmpfs {
                target: words.path()?,
                mode: self.mode.take().unwrap_or(0o755),
                size: self.size.take(),
            },
            "--dir" => Operation::Directory(words.path()?, self.mode.take().unwrap_or(0o755)),
            "--file" | "--bind-data" | "--ro-bind-data" => {
                let [fd, target] = words.take()?;
                let written = option == "--file";
                Operation::File {
                    descriptor: number(&fd, "fd")?,
                    target: target.into(),
                    mode: self.mode.take().unwrap_or(if written { 0o666 } else { 0o600 }),
                    mounted: (!written).then_some(access),
                }
            }
            "--symlink" => {
                let [text, at] = words.take()?;
                Operation::Symlink(text, at.into())
            }
            "--chmod" => {
                let [mode, path] = words.take()?;
                Operation::Chmod(path.into(), octal(&mode, option)?)
            }
            "--hostname" => {
                let name = words.one()?;
                self.warn_last(option, self.hostname);
                self.hostname = true;
                Operation::Hostname(name)
            }
            _ => return Ok(false),
        };
        self.sandbox.operations.push(operation);
        Ok(true)
    }

    fn overlay(&mut self, words: &mut Words<'_>) -> Result<Operation, End> {
        let option = words.option;
        let (upper, target) = match option {
            "--overlay" => {
                let [upper, work, target] = words.take()?.map(PathBuf::from);
                (Upper::Directories(upper, work), target)
            }
            "--tmp-overlay" => (Upper::Memory, words.path()?),
            _ => (Upper::None, words.path()?),
        };
        let (least, count) = if option == "--ro-overlay" { (2, "two") } else { (1, "one") };
        if self.lower.len() < least {
            return wrong(format!("{option} requires at least {count} --overlay-src"));
        }
        Ok(Operation::Overlay { lower: std::mem::take(&mut self.lower), upper, target })
    }

    /// Options about namespaces and ids; whether this is one.
    fn namespace(&mut self, words: &mut Words<'_>) -> Result<bool, End> {
        let option = words.option;
        let new = &mut self.sandbox.namespaces;
        match option {
            "--unshare-all" => {
                (self.user_try, self.cgroup_try) = (true, true);
                (new.ipc, new.pid, new.net, new.uts) = (true, true, true, true);
            }
            "--share-net" => new.net = false,
            "--unshare-user" => new.user = true,
            "--unshare-user-try" => self.user_try = true,
            "--unshare-ipc" => new.ipc = true,
            "--unshare-pid" => new.pid = true,
            "--unshare-net" => new.net = true,
            "--unshare-uts" => new.uts = true,
            "--unshare-cgroup" => new.cgroup = true,
            "--unshare-cgroup-try" => self.cgroup_try = true,
            "--disable-userns" => self.sandbox.disable_userns = true,
            "--assert-userns-disabled" => self.sandbox.assert_userns_disabled = true,
            "--uid" | "--gid" => {
                let word = words.one()?;
                let id = Some(number(&word, option.trim_start_matches('-'))? as u32);
                let given = if option == "--uid" { &mut self.uid } else { &mut self.gid };
                let before = std::mem::replace(given, id).is_some();
                self.warn_last(option, before);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options with a descriptor; whether this is one.
    fn descriptor(&mut self, words: &mut Words<'_>) -> Result<bool, End> {
        let option = words.option;
        let sandbox = &mut self.sandbox;
        let place = match option {
            "--sync-fd" => &mut sandbox.sync,
            "--block-fd" => &mut sandbox.block,
            "--userns-block-fd" => &mut sandbox.userns_block,
            "--info-fd" => &mut sandbox.info,
            "--json-status-fd" => &mut sandbox.status,
            "--userns" => &mut sandbox.userns,
            "--userns2" => &mut sandbox.second_userns,
            "--pidns" => &mut sandbox.pidns,
            "--seccomp" => {
                if !sandbox.filters.is_empty() {
                    return wrong("--seccomp cannot be combined with --add-seccomp-fd");
                }
                &mut sandbox.late_filter
            }
            "--add-seccomp-fd" => {
                let fd = words.fd()?;
                if sandbox.late_filter.is_some() {
                    return wrong("--add-seccomp-fd cannot be combined with --seccomp");
                }
                sandbox.filters.push(filter(self.content, fd)?);
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let before = place.replace(words.fd()?).is_some();
        self.warn_last(option, before);
        Ok(true)
    }

    /// Arguments from a descriptor, each ended by a NUL byte.
    fn arguments(&mut self, fd: i32) -> Result<(), End> {
        let mut data = match (self.content)(fd) {
            Ok(data) => data,
            Err(error) => return wrong(because("Can't read --args data", &error)),
        };
        if data.last() == Some(&0) {
            data.pop();
        } else if data.is_empty() {
            return Ok(());
        }
        let words: Vec<OsString> =
            data.split(|&b| b == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
        self.total += words.len();
        // What is no option there is passed over, as the original does.
        self.options(words.into_iter(), true).map(drop)
    }

    /// What follows from all options together.
    ///
    /// # Errors
    /// Says which do not go together.
    pub(crate) fn finish(&mut self) -> Result<(), End> {
        let sandbox = &mut self.sandbox;
        let new = &mut sandbox.namespaces;
        let refusals = [
            (
                sandbox.userns_block.is_some() && !new.user,
                "--userns-block-fd requires --unshare-user",
            ),
            (
                sandbox.userns_block.is_some() && sandbox.info.is_none(),
                "--userns-block-fd requires --info-fd",
            ),
            (sandbox.userns.is_some() && new.user, "--userns not compatible --unshare-user"),
            (
                sandbox.userns.is_some() && self.user_try,
                "--userns not compatible --unshare-user-try",
            ),
            (sandbox.disable_userns && !new.user, "--disable-userns requires --unshare-user"),
            (
                sandbox.disable_userns && sandbox.userns_block.is_some(),
                "--disable-userns is not compatible with  --userns-block-fd",
            ),
        ];
        if let Some((_, text)) = refusals.iter().find(|(refused, _)| *refused) {
            return wrong(*text);
        }
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        new.user |= uid != 0 && sandbox.userns.is_none();
        new.user |= self.user_try && user_namespaces();
        new.cgroup |= self.cgroup_try && std::fs::exists("/proc/self/ns/cgroup").unwrap_or(false);
        if sandbox.command.is_empty() {
            return Err(End::Usage);
        }
        (sandbox.uid, sandbox.gid) = (self.uid.unwrap_or(uid), self.gid.unwrap_or(gid));
        let one_userns = new.user || sandbox.userns.is_some();
        let refusals = [
            (
                !one_userns && sandbox.uid != uid,
                "Specifying --uid requires --unshare-user or --userns",
            ),
            (
                !one_userns && sandbox.gid != gid,
                "Specifying --gid requires --unshare-user or --userns",
            ),
            (!new.uts && self.hostname, "Specifying --hostname requires --unshare-uts"),
            (sandbox.as_pid_1 && !new.pid, "Specifying --as-pid-1 requires --unshare-pid"),
            (
                sandbox.as_pid_1 && !sandbox.locks.is_empty(),
                "Specifying --as-pid-1 and --lock-file is not permitted",
            ),
        ];
        if let Some((_, text)) = refusals.iter().find(|(refused, _)| *refused) {
            return wrong(*text);
        }
        sandbox.console = rustix::termios::isatty(rustix::stdio::stdout())
            .then(|| std::fs::read_link("/proc/self/fd/1").ok())
            .flatten();
        Ok(())
    }
}

/// Whether this host has user namespaces, and allows any.
fn user_namespaces() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    std::fs::exists("/proc/self/ns/user").unwrap_or(false)
        && !read("/sys/module/user_namespace/parameters/enable").starts_with('N')
        && read("/proc/sys/user/max_user_namespaces").trim() != "0"
}
