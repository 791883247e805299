//! An OCI runtime with the command line of runc and crun.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use engine::oci::{Containers, Creation};

use super::Face;

mod bubblewrap;
mod features;
mod output;
mod process;
mod specimen;
mod update;
mod vm;
mod words;

use words::{Known, Words};

/// The face.
pub(crate) struct Oci;

const HELP: &str = "\
postroj-oci: an OCI runtime

Usage: postroj oci [GLOBAL OPTION]... VERB [OPTION]... [ID]

Verbs:
  create [-b DIR] [--pid-file FILE] [--console-socket PATH] [--preserve-fds N] [--no-pivot] ID
  start ID                  let the process of a created container execute its command
  run [-d] [as create] ID   create, start, wait, delete
  run --dry-run [-b DIR]    the line for bubblewrap that does the same, as near as it can
  state ID                  its state, as JSON
  kill [-a] ID [SIGNAL]     signal its process, or all of them [default: TERM]
  delete [-f] ID            remove what is left of it
  exec [-t] [-d] [-p FILE] [-e NAME=VALUE] [-u UID[:GID]] [--cwd DIR] [-c CAP] ID [COMMAND]...
  list [-q] [-f json|table] all containers
  ps [-f json|table] ID     the processes of one
  pause ID, resume ID       freeze its processes, thaw them
  update [-r FILE] [--memory BYTES] [--cpu-quota USEC] [--pids-limit N]... ID
  events [--stats] [--interval 5s] ID
  spec [-b DIR] [--rootless]  a config.json to begin with
  features                  what this runtime can do, as JSON

Global options:
  --root DIR                where containers are known [default: /run/postroj-oci for root, else
                            $XDG_RUNTIME_DIR/postroj-oci]
  --log FILE                where errors and warnings are written, besides standard error
  --log-format text|json
  --isolation container|vm  what containers are: vm is a virtual machine for each, as for postroj-vm
  --debug, --rootless auto|true|false, --cgroup-manager cgroupfs|disabled
  --version, --help
";

const GLOBAL: [Known; 11] = [
    ("isolation", None, true),
    ("root", None, true),
    ("log", None, true),
    ("log-format", None, true),
    ("log-level", None, true),
    ("systemd-cgroup", None, false),
    ("cgroup-manager", None, true),
    ("debug", None, false),
    ("rootless", None, true),
    ("help", Some('h'), false),
    ("version", Some('v'), false),
];

const CREATE: [Known; 12] = [
    ("bundle", Some('b'), true),
    ("pid-file", None, true),
    ("console-socket", None, true),
    ("preserve-fds", None, true),
    ("no-pivot", None, false),
    ("no-new-keyring", None, false),
    ("no-subreaper", None, false),
    ("pidfd-socket", None, true),
    ("detach", Some('d'), false),
    ("keep", None, false),
    ("config", Some('f'), true),
    ("dry-run", None, false),
];

impl Face for Oci {
    fn names(&self) -> &'static [&'static str] {
        &["postroj-oci", "postroj-vm", "runc", "crun"]
    }

    fn verbs(&self) -> &'static [&'static str] {
        &["oci"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let mut log = Log::default();
        match run(args, &mut log) {
            Ok(code) => code,
            Err(error) => {
                let text = error.chain().map(|cause| super::reason_of(&cause.to_string()));
                let text: Vec<String> = text.collect();
                log.say("error", &text.join(": "));
                // runc's, of whose exec other codes are the command's. podman and containerd look for no other than 0.
                if log.execs { 255 } else { 1 }
            }
        }
    }
}

/// Where errors and warnings go.
#[derive(Debug, Default)]
struct Log {
    file: Option<PathBuf>,
    json: bool,
    /// What is done is `exec`.
    execs: bool,
}

impl Log {
    fn say(&self, level: &str, text: &str) {
        eprintln!("postroj-oci: {text}");
        let Some(path) = &self.file else { return };
        let line = match self.json {
            true => serde_json::json!({ "level": level, "msg": text, "time": output::now() })
                .to_string(),
            false => format!("time=\"{}\" level={level} msg={text:?}", output::now()),
        };
        let file = std::fs::File::options().create(true).append(true).open(path);
        // It was said already; a log that cannot be written changes nothing about it.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

fn run(args: Vec<OsString>, log: &mut Log) -> Result<u8> {
    let is_vm = args.first().is_some_and(|name| Path::new(name).ends_with("postroj-vm"));
    let args = args.into_iter().skip(1).map(OsString::into_string);
    let args = args.collect::<Result<VecDeque<String>, _>>();
    let mut args = args.map_err(|arg| anyhow::anyhow!("the argument {arg:?} is not UTF-8"))?;
    let global = Words::read(&mut args, &GLOBAL, 1)?;
    log.file = global.value("log").filter(|path| !path.is_empty()).map(PathBuf::from);
    log.json = match global.value("log-format") {
        None | Some("text" | "") => false,
        Some("json") => true,
        Some(other) => bail!("unknown log format {other:?}"),
    };
    if global.is_set("help") {
        print!("{HELP}");
        return Ok(0);
    }
    if global.is_set("version") {
        println!(
            "postroj-oci version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            spec::runtime::VERSION
        );
        return Ok(0);
    }
    let verb = global.operands.first().context("there is no verb; see --help")?.clone();
    log.execs = verb == "exec";
    let log = &*log;
    let warn = |text: &str| log.say("warning", text);
    let isolation = global.value("isolation").unwrap_or(if is_vm { "vm" } else { "container" });
    let root = match global.value("root") {
        Some(root) => std::path::absolute(root)?,
        None => default_root(isolation == "vm")?,
    };
    let is_vm = match isolation {
        "container" => false,
        "vm" => true,
        other => bail!("unknown isolation {other:?}: container and vm are known"),
    };
    // A virtual machine has no control groups that somebody could manage.
    let makes = !is_vm && matches!(verb.as_str(), "create" | "run" | "update");
    let cgroups = if makes { manager(&global)? } else { !is_vm };
    let containers = Containers { root, cgroups, warn: &warn };
    if is_vm && let Some(code) = vm::Machines(&containers).run(&verb, &mut args)? {
        return Ok(code);
    }
    match verb.as_str() {
        "create" => create(&containers, &mut args),
        "run" => process::run(&containers, &mut args),
        "start" => one(&mut args, |id| containers.start(id)),
        "state" => output::state(&containers, &mut args),
        "kill" => kill(&containers, &mut args),
        "delete" => delete(&containers, &mut args),
        "exec" => process::exec(&containers, &mut args),
        "list" => output::list(&containers, &mut args),
        "ps" => output::ps(&containers, &mut args),
        "pause" => one(&mut args, |id| containers.pause(id)),
        "resume" => one(&mut args, |id| containers.resume(id)),
        "update" => update::run(&containers, &mut args),
        "events" => output::events(&containers, &mut args),
        "spec" => specimen::run(&mut args),
        "features" => features::run(),
        "checkpoint" | "restore" => bail!("{verb} is not supported: postroj works without CRIU"),
        "help" => {
            print!("{HELP}");
            Ok(0)
        }
        other => bail!("unknown verb {other:?}; see --help"),
    }
}

/// Control groups are made by ourselves, or not at all.
fn manager(global: &Words) -> Result<bool> {
    let manager = global.value("cgroup-manager");
    if global.is_set("systemd-cgroup") || manager == Some("systemd") {
        bail!(
            "control groups by systemd are not supported: use the manager cgroupfs \
             (podman: --cgroup-manager=cgroupfs)"
        );
    }
    match manager {
        None | Some("cgroupfs") => Ok(true),
        Some("disabled") => Ok(false),
        Some(other) => bail!("unknown cgroup manager {other:?}: cgroupfs and disabled are known"),
    }
}

fn default_root(is_vm: bool) -> Result<PathBuf> {
    let name = if is_vm { "postroj-vm" } else { "postroj-oci" };
    if !engine::oci::is_rootless() {
        return Ok(Path::new("/run").join(name));
    }
    let directory = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let directory =
        directory.context("XDG_RUNTIME_DIR is not set; --root says another directory")?;
    Ok(PathBuf::from(directory).join(name))
}

/// A verb about one container that has no options.
fn one(args: &mut VecDeque<String>, act: impl FnOnce(&str) -> Result<()>) -> Result<u8> {
    act(Words::read(args, &[], usize::MAX)?.id()?)?;
    Ok(0)
}

/// Programs of the image could reach this one's file by `/proc/PID/exe`.
fn protect() -> Result<()> {
    // Whoever is root of a namespace that is not the initial one may own it, by his other ids.
    sys::exe::protect(|owner| owner == rustix::process::geteuid().as_raw() || owner == 0)
        .context("cannot keep this program's own file out of reach")
}

fn creation(words: &Words) -> Result<Creation> {
    let path = |name| words.value(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    if words.value("pidfd-socket").is_some_and(|path| !path.is_empty()) {
        bail!("--pidfd-socket is not supported");
    }
    if words.value("config").is_some_and(|path| path != "config.json") {
        bail!("--config is not supported: the bundle's config.json is read");
    }
    Ok(Creation {
        bundle: path("bundle").unwrap_or_else(|| ".".into()),
        pid_file: path("pid-file"),
        console_socket: path("console-socket"),
        preserved: preserved(words)?,
        no_pivot: words.is_set("no-pivot"),
        keyring: !words.is_set("no-new-keyring"),
    })
}

/// Those of socket activation, too (sd_listen_fds(3)).
fn preserved(words: &Words) -> Result<u32> {
    let asked = words.number("preserve-fds")?.unwrap_or(0);
    let listens = std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse().ok());
    Ok(asked + listens.unwrap_or(0))
}

fn create(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &CREATE, usize::MAX)?;
    if words.is_set("dry-run") {
        bail!("--dry-run is an option of run");
    }
    let (id, creation) = (words.id()?, creation(&words)?);
    protect()?;
    let mut running = containers.create(id, &creation)?;
    if running.terminal.is_some() {
        let _ = containers.delete(id, true);
        bail!("process.terminal is set, but there is no --console-socket to send it to");
    }
    running.let_go();
    Ok(0)
}

fn kill(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &[("all", Some('a'), false)], 2)?;
    let name = words.operands.get(1).map_or("TERM", String::as_str);
    containers.kill(words.id()?, signal(name)?, words.is_set("all"))?;
    Ok(0)
}

/// `TERM`, `SIGTERM` or `15` (signal(7)).
fn signal(name: &str) -> Result<i32> {
    let upper = name.to_ascii_uppercase();
    let signal = match upper.parse::<i32>() {
        // 0 asks whether it is there (kill(2)).
        Ok(number) if (0..=64).contains(&number) => Some(number),
        Ok(_) => None,
        Err(_) => sys::signals::by_name(upper.strip_prefix("SIG").unwrap_or(&upper)),
    };
    signal.with_context(|| format!("unknown signal {name:?}"))
}

fn delete(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &[("force", Some('f'), false)], usize::MAX)?;
    containers.delete(words.id()?, words.is_set("force"))?;
    Ok(0)
}
