//! bubblewrap 0.11: a command in a root that is put together from one's own files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use engine::sandbox;
use spec::sandbox::{Access, Operation, Sandbox, Upper, Variable};

use super::{Face, reason};

/// The face.
pub(crate) struct Bwrap;

impl Face for Bwrap {
    fn names(&self) -> &'static [&'static str] {
        &["bwrap"]
    }

    fn verbs(&self) -> &'static [&'static str] {
        &["bwrap"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let name = args.first().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut reader = Reader::default();
        match reader.read(args).and_then(|()| reader.finish()) {
            Ok(()) => sandbox::run(&reader.sandbox).unwrap_or_else(|text| reader.fail(&text)),
            Err(End::Help) => {
                print!("{}", usage(&name));
                0
            }
            Err(End::Version) => {
                println!("bubblewrap 0.11.0 (postroj {})", env!("CARGO_PKG_VERSION"));
                0
            }
            Err(End::Usage) => {
                eprint!("{}", usage(&name));
                1
            }
            Err(End::Wrong(text)) => reader.fail(&text),
        }
    }
}

/// Why nothing is run.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Help,
    Version,
    Usage,
    Wrong(String),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, End> {
    Err(End::Wrong(text.into()))
}

/// More arguments than these are an attack (bubblewrap.c, `MAX_ARGS`).
const MAX_ARGS: usize = 9000;

/// Half of the address space.
const MAX_SIZE: u64 = u64::MAX >> 1;

/// Options as they are read.
#[derive(Debug, Default)]
struct Reader {
    sandbox: Sandbox,
    level_prefix: bool,
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

/// What is left of a list of arguments.
struct Words<'a> {
    option: &'a str,
    left: &'a mut std::vec::IntoIter<OsString>,
}

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> Result<[OsString; N], End> {
        if self.left.len() < N {
            let takes = match (N, self.option) {
                (1, "--argv0" | "--chdir" | "--remount-ro") => "one argument",
                (1, _) => "an argument",
                (2, _) => "two arguments",
                _ => "three arguments",
            };
            let option = if self.option == "--ro-bind-fd" { "--bind-fd" } else { self.option };
            return wrong(format!("{option} takes {takes}"));
        }
        Ok(std::array::from_fn(|_| self.left.next().unwrap_or_default()))
    }

    fn one(&mut self) -> Result<OsString, End> {
        self.take().map(|[word]| word)
    }

    fn path(&mut self) -> Result<PathBuf, End> {
        self.one().map(PathBuf::from)
    }

    fn fd(&mut self) -> Result<i32, End> {
        let word = self.one()?;
        number(&word, "fd")
    }
}

/// As strtol(3) reads it, which takes leading blanks and a sign.
fn number(word: &OsStr, what: &str) -> Result<i32, End> {
    let text = word.to_string_lossy();
    let trimmed = text.trim_start();
    match trimmed.strip_prefix('+').unwrap_or(trimmed).parse::<i32>() {
        Ok(number) if number >= 0 => Ok(number),
        _ => wrong(format!("Invalid {what}: {text}")),
    }
}

fn octal(word: &OsStr, option: &str) -> Result<u32, End> {
    let mode = word.to_str().and_then(|text| u32::from_str_radix(text.trim_start(), 8).ok());
    match mode.filter(|mode| *mode <= 0o7777) {
        Some(mode) => Ok(mode),
        None => wrong(format!("{option} takes an octal argument <= 07777")),
    }
}

/// As strtoull(3) reads it with base 0, but nothing before the first digit.
fn bytes(word: &OsStr) -> Result<u64, End> {
    let text = word.to_string_lossy();
    let read = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+')),
        None if text.starts_with('0') => u64::from_str_radix(&text, 8).ok(),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        None => None,
    };
    match read {
        None | Some(0) => wrong("--size takes a non-zero number of bytes"),
        Some(size) if size > MAX_SIZE => {
            wrong(format!("--size (for tmpfs) is limited to {MAX_SIZE}"))
        }
        Some(size) => Ok(size),
    }
}

impl Reader {
    fn fail(&self, text: &str) -> u8 {
        eprintln!("{}bwrap: {text}", if self.level_prefix { "<3>" } else { "" });
        1
    }

    fn warn_last(&self, option: &str, given: bool) {
        if given {
            let prefix = if self.level_prefix { "<4>" } else { "" };
            eprintln!("{prefix}bwrap: Only the last {option} option will take effect");
        }
    }

    /// The whole command line; the first word is the program's name.
    fn read(&mut self, args: Vec<OsString>) -> Result<(), End> {
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
                let now = sandbox.capabilities.unwrap_or_else(own_capabilities);
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
                sandbox.filters.push(sandbox::read_filter(fd).map_err(End::Wrong)?);
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
        let mut data = Vec::new();
        let read =
            sys::process::take_inherited(fd).and_then(|fd| File::from(fd).read_to_end(&mut data));
        if let Err(error) = read {
            return wrong(format!("Can't read --args data: {}", reason(&error)));
        }
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
    fn finish(&mut self) -> Result<(), End> {
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

/// What root has; an ordinary user starts from none.
fn own_capabilities() -> u64 {
    if !rustix::process::getuid().is_root() {
        return 0;
    }
    rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits())
}

fn capability(name: &OsStr) -> Result<u64, End> {
    let upper = name.to_string_lossy().to_uppercase();
    if upper == "ALL" {
        return Ok(u64::MAX);
    }
    let set = upper.strip_prefix("CAP_").and_then(|name| sys::caps::Set::of([name]).ok());
    set.map(sys::caps::Set::bits)
        .ok_or_else(|| End::Wrong(format!("unknown cap: {}", name.display())))
}

fn usage(name: &str) -> String {
    format!("usage: {name} [OPTIONS...] [--] COMMAND [ARGS...]\n\n{OPTIONS}")
}

const OPTIONS: &str = "    --help                       Print this help
    --version                    Print version
    --args FD                    Read NUL-separated options from FD
    --argv0 VALUE                What the command is told as its name
    --level-prefix               Prepend e.g. <3> to messages
    --unshare-all                New namespaces of every kind, where there are any
    --share-net                  Keep the network after --unshare-all
    --unshare-user               New user namespace (implied unless you are root)
    --unshare-user-try           New user namespace if there can be one
    --unshare-ipc                New IPC namespace
    --unshare-pid                New PID namespace
    --unshare-net                New network namespace
    --unshare-uts                New UTS namespace
    --unshare-cgroup             New cgroup namespace
    --unshare-cgroup-try         New cgroup namespace if there can be one
    --userns FD                  Use this user namespace
    --userns2 FD                 Enter this user namespace once all is set up
    --disable-userns             No more user namespaces inside
    --assert-userns-disabled     Fail where there can be user namespaces inside
    --pidns FD                   Use this PID namespace (the parent of that of --unshare-pid)
    --uid UID, --gid GID         Ids inside (need --unshare-user or --userns)
    --hostname NAME              Host name inside (needs --unshare-uts)
    --chdir DIR                  Start in DIR
    --clearenv                   Unset all environment variables
    --setenv VAR VALUE           Set an environment variable
    --unsetenv VAR               Unset an environment variable
    --lock-file DEST             Hold a lock on DEST while anything runs
    --sync-fd FD                 Keep FD open while anything runs
    --bind SRC DEST              Show the path SRC at DEST
    --dev-bind SRC DEST          The same, with devices
    --ro-bind SRC DEST           The same, read-only
    --bind-try, --dev-bind-try, --ro-bind-try SRC DEST
                                 The same, unless there is no SRC
    --bind-fd, --ro-bind-fd FD DEST
                                 Show the directory or path that FD is open on
    --remount-ro DEST            Make the mount at DEST read-only, not those below
    --overlay-src SRC            A lower directory of the overlay that follows
    --overlay RWSRC WORKDIR DEST An overlay with writes to RWSRC
    --tmp-overlay DEST           An overlay with writes to memory
    --ro-overlay DEST            An overlay that is read-only
    --exec-label, --file-label LABEL
                                 SELinux labels: refused, for there is no SELinux
    --proc DEST                  Mount a new procfs
    --dev DEST                   Mount a small /dev
    --tmpfs DEST                 Mount a new tmpfs
    --mqueue DEST                Mount a new mqueue
    --dir DEST                   Make a directory
    --file FD DEST               Make a file of what FD gives
    --bind-data, --ro-bind-data FD DEST
                                 Mount a file of what FD gives
    --symlink SRC DEST           Make a symbolic link at DEST to SRC
    --seccomp FD                 Install the filter that FD gives
    --add-seccomp-fd FD          The same, repeatable
    --block-fd FD                Wait for FD before the command is run
    --userns-block-fd FD         Wait for FD until the id maps are written
    --info-fd FD                 Write facts to FD
    --json-status-fd FD          Write facts and the exit code to FD
    --new-session                A terminal session of its own
    --die-with-parent            Be killed when the parent dies
    --as-pid-1                   No small init as process 1
    --cap-add, --cap-drop CAP    Add or drop a capability, or ALL
    --perms OCTAL                Permissions of what the next option makes
    --size BYTES                 Size of the next --tmpfs
    --chmod OCTAL PATH           Change permissions of PATH
";
