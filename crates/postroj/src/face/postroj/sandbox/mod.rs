//! `sandbox`: a program of this system, with little of its rights and few of its files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use engine::{NotStarted, NotStartedKind};
use spec::sandbox::{Access, Namespaces, Operation, Sandbox, Variable};

mod profile;

use profile::Profile;

/// Run a program of this system with little of its rights, and few of its files
///
/// It sees what a profile shows, has no capabilities, and gets none; with it ends all that it started. Nothing is
/// written down, and it starts in a few milliseconds. Profiles of your own are tables in
/// /etc/postroj/sandbox.d/*.toml and $XDG_CONFIG_HOME/postroj/sandbox.d/*.toml.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What it sees: a name, or the path of a file with a profile
    #[arg(short, long, value_name = "NAME|PATH", default_value = "default")]
    profile: String,
    /// List the profiles
    #[arg(long)]
    profiles: bool,
    /// Show this path, too, to read only
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// Show this path, too, to be written to
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// Hide this path
    #[arg(long, value_name = "PATH")]
    hide: Vec<PathBuf>,
    /// none, with loopback only, or host
    #[arg(long, value_name = "MODE")]
    network: Option<Network>,
    /// Set a variable, or pass one on
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// The command
    #[arg(trailing_var_arg = true, value_name = "COMMAND", required_unless_present = "profiles")]
    command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Network {
    None,
    Host,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    if args.profiles {
        for (name, about) in profile::list()? {
            println!("{name:<12} {about}");
        }
        return Ok(0);
    }
    let profile = profile::find(&args.profile)?;
    let host = Host::look()?;
    let sandbox = sandbox(args, &profile, &host)?;
    engine::sandbox::run(&sandbox).map_err(|text| not_started(&args.command[0], &text))
}

/// What of the launcher's surroundings counts.
struct Host {
    here: PathBuf,
    home: Option<PathBuf>,
    ids: (u32, u32),
    /// Others could type into the launcher's terminal.
    terminal_takes_input: bool,
}

impl Host {
    fn look() -> Result<Self> {
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        // Linux 6.2 and newer can refuse TIOCSTI (sysctl dev.tty.legacy_tiocsti); older ones never do.
        let setting = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
        let terminal_takes_input = setting.map_or(true, |setting| setting.trim() != "0");
        Ok(Self { here: std::env::current_dir()?, home, ids, terminal_takes_input })
    }

    /// The home of who has one below a hidden directory is no place to be written to as a whole.
    fn is_everything(&self, path: &Path) -> bool {
        path == Path::new("/") || self.home.as_deref() == Some(path)
    }

    fn path(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            // `join` would leave a dot at the end.
            _ => self.here.join(path).components().filter(|c| c.as_os_str() != ".").collect(),
        }
    }
}

fn sandbox(args: &Args, profile: &Profile, host: &Host) -> Result<Sandbox> {
    let mut operations = Vec::new();
    shown(&mut operations, &profile.read, host, Access::ReadOnly);
    operations.push(Operation::Proc("/proc".into()));
    operations.push(Operation::Dev("/dev".into()));
    let is_there = |path: &Path| profile.read.iter().any(|read| path.starts_with(host.path(read)));
    let hide = profile.hide.iter().filter(|path| {
        // What is not shown needs not be hidden, but programs expect `/tmp` and the like.
        let path = host.path(path);
        is_there(&path) || path.components().count() == 2
    });
    hidden(&mut operations, hide.chain(&args.hide), host)?;
    if let Some(home) = &host.home {
        operations.push(Operation::Directory(home.clone(), 0o700));
    }
    let beside = |paths: &[PathBuf]| -> Vec<PathBuf> {
        paths.iter().filter(|path| !host.is_everything(&host.path(path))).cloned().collect()
    };
    shown(&mut operations, &beside(&profile.show), host, Access::ReadOnly);
    shown(&mut operations, &beside(&profile.write), host, Access::Plain);
    // What was said on the command line has to be there.
    wanted(&mut operations, &args.read, host, Access::ReadOnly)?;
    wanted(&mut operations, &args.write, host, Access::Plain)?;
    let network = match args.network {
        Some(Network::Host) => true,
        Some(Network::None) => false,
        None => profile.network,
    };
    if network {
        resolver(&mut operations);
    }
    Ok(Sandbox {
        namespaces: Namespaces {
            user: true,
            pid: true,
            net: !network,
            ipc: true,
            uts: true,
            cgroup: Path::new("/proc/self/ns/cgroup").exists(),
        },
        uid: host.ids.0,
        gid: host.ids.1,
        operations,
        environment: environment(args, profile),
        directory: args.workdir.as_ref().map(|path| host.path(path)),
        command: args.command.clone(),
        new_session: host.terminal_takes_input,
        die_with_parent: true,
        capabilities: Some(0),
        seccomp: Some(spec::seccomp::default(&[], false)),
        ..Sandbox::default()
    })
}

/// Those that there are.
fn shown(operations: &mut Vec<Operation>, paths: &[PathBuf], host: &Host, access: Access) {
    for path in paths {
        let source = host.path(path);
        // A link leads to where it does on the host: `/lib` to `/usr/lib`.
        operations.push(match source.read_link() {
            Ok(text) => Operation::Symlink(text.into(), source),
            Err(_) => Operation::Bind {
                target: source.clone(),
                source,
                access,
                optional: true,
                descriptor: None,
            },
        });
    }
}

fn wanted(
    operations: &mut Vec<Operation>,
    paths: &[PathBuf],
    host: &Host,
    access: Access,
) -> Result<()> {
    for path in paths {
        let source = host.path(path);
        if !source.exists() {
            bail!("cannot show {}: there is no such path", source.display());
        }
        let target = source.clone();
        let descriptor = None;
        operations.push(Operation::Bind { source, target, access, optional: false, descriptor });
    }
    Ok(())
}

/// A directory is empty then, and so is a file.
fn hidden<'a>(
    operations: &mut Vec<Operation>,
    paths: impl Iterator<Item = &'a PathBuf>,
    host: &Host,
) -> Result<()> {
    for path in paths {
        let target = host.path(path);
        if target == Path::new("/") {
            bail!("cannot hide /: `read` says what is shown of it");
        }
        // What is a link leads to something that is hidden itself, or is to be seen.
        match target.symlink_metadata() {
            // What is closed to the user is hidden already.
            Ok(found) if found.is_dir() && opens(&target) => {
                operations.push(Operation::Tmpfs { target, mode: 0o755, size: None });
            }
            Ok(found) if found.is_file() => operations.push(Operation::Bind {
                source: "/dev/null".into(),
                target,
                access: Access::Devices,
                optional: false,
                descriptor: None,
            }),
            _ => {}
        }
    }
    Ok(())
}

fn opens(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::EXEC_OK).is_ok()
}

/// `/etc/resolv.conf` is often a link to where systemd-resolved or NetworkManager write it.
fn resolver(operations: &mut Vec<Operation>) {
    if let Ok(file) = Path::new("/etc/resolv.conf").canonicalize() {
        operations.push(Operation::Bind {
            source: file.clone(),
            target: file,
            access: Access::ReadOnly,
            optional: true,
            descriptor: None,
        });
    }
}

fn environment(args: &Args, profile: &Profile) -> Vec<Variable> {
    let own =
        |name: &OsString| std::env::var_os(name).map(|value| Variable::Set(name.clone(), value));
    let mut list = vec![Variable::Clear];
    list.extend(profile.environment.iter().filter_map(|name| own(&name.into())));
    list.extend(args.env.iter().filter_map(|text| {
        let bytes = text.as_encoded_bytes();
        match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => {
                use std::os::unix::ffi::OsStrExt;
                let part = |bytes| std::ffi::OsStr::from_bytes(bytes).to_owned();
                Some(Variable::Set(part(&bytes[..at]), part(&bytes[at + 1..])))
            }
            None => own(text),
        }
    }));
    list
}

/// The engine says in words what bubblewrap says.
fn not_started(command: &OsString, text: &str) -> anyhow::Error {
    let Some(reason) = text.strip_prefix("execvp ") else {
        return anyhow!("cannot make the sandbox: {text}");
    };
    let kind = match reason.contains("No such file or directory") {
        true => NotStartedKind::NotFound,
        false => NotStartedKind::NotExecutable,
    };
    let reason = reason.rsplit_once(": ").map_or(reason, |(_, reason)| reason);
    let text = format!("cannot execute {} in the sandbox: {reason}", command.display());
    NotStarted { kind, text, hint: None }.into()
}
