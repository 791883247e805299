//! Processes that this program stays the parent of, or not: `run` and `exec`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use engine::oci::{Containers, Execution, Running};
use spec::runtime::{Capabilities, Process, User};

use super::words::{Known, Words};
use super::{CREATE, bubblewrap, creation, preserved, protect};

pub(super) const EXEC: [Known; 19] = [
    ("console-socket", None, true),
    ("pidfd-socket", None, true),
    ("cwd", None, true),
    ("env", Some('e'), true),
    ("tty", Some('t'), false),
    ("user", Some('u'), true),
    ("additional-gids", Some('g'), true),
    ("process", Some('p'), true),
    ("detach", Some('d'), false),
    ("pid-file", None, true),
    ("process-label", None, true),
    ("apparmor", None, true),
    ("no-new-privs", None, false),
    ("cap", Some('c'), true),
    ("preserve-fds", None, true),
    ("cgroup", None, true),
    ("ignore-paused", None, false),
    ("no-subreaper", None, false),
    ("umask", None, true),
];

pub(super) fn run(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &CREATE, usize::MAX)?;
    if words.is_set("dry-run") {
        let (line, lacking) = bubblewrap::line(&creation(&words)?.bundle)?;
        for what in lacking {
            (containers.warn)(&format!("bubblewrap has no option for this: {what}"));
        }
        println!("{line}");
        return Ok(0);
    }
    let (id, creation) = (words.id()?, creation(&words)?);
    protect()?;
    let mut running = containers.create(id, &creation)?;
    let detach = words.is_set("detach");
    if detach && running.terminal.is_some() {
        let _ = containers.delete(id, true);
        bail!("process.terminal is set, but there is no --console-socket to send it to");
    }
    if let Err(error) = containers.start(id) {
        let _ = containers.delete(id, true);
        return Err(error);
    }
    if detach {
        running.let_go();
        return Ok(0);
    }
    let code = engine::oci::attend(&mut running);
    if !words.is_set("keep") {
        containers.delete(id, true)?;
    }
    code
}

pub(super) fn exec(containers: &Containers<'_>, args: &mut VecDeque<String>) -> Result<u8> {
    let words = Words::read(args, &EXEC, 1)?;
    let id = words.id()?;
    if args.front().is_some_and(|word| word == "--") {
        args.pop_front();
    }
    // This may start the program once more, and what is read below may be a pipe.
    protect()?;
    let path = |name| words.value(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let process = match path("process") {
        Some(file) => read(&file)?,
        None => changed(containers.config(id)?.process.unwrap_or_default(), &words, args)?,
    };
    let execution = Execution {
        pid_file: path("pid-file"),
        console_socket: path("console-socket"),
        preserved: preserved(&words)?,
        cgroups: words.values("cgroup").map(str::to_owned).collect(),
        ignore_paused: words.is_set("ignore-paused"),
    };
    let mut running: Running = containers.exec(id, &process, &execution)?;
    if words.is_set("detach") {
        running.let_go();
        return Ok(0);
    }
    engine::oci::attend(&mut running)
}

/// A process that a file describes.
pub(super) fn read(file: &Path) -> Result<Process> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    spec::runtime::parse(&text).with_context(|| format!("{} is not valid", file.display()))
}

/// The container's own process, with what the options change.
pub(super) fn changed(
    mut process: Process,
    words: &Words,
    args: &mut VecDeque<String>,
) -> Result<Process> {
    process.args = args.drain(..).collect();
    process.terminal = words.is_set("tty");
    process.env.extend(words.values("env").map(str::to_owned));
    if let Some(cwd) = words.value("cwd").filter(|cwd| !cwd.is_empty()) {
        cwd.clone_into(&mut process.cwd);
    }
    if let Some(user) = words.value("user").filter(|user| !user.is_empty()) {
        process.user = self::user(user)?;
    }
    for gid in words.values("additional-gids") {
        process
            .user
            .additional_gids
            .push(gid.parse().with_context(|| format!("no group id: {gid:?}"))?);
    }
    if let Some(umask) = words.number("umask")? {
        process.user.umask = Some(umask);
    }
    process.no_new_privileges |= words.is_set("no-new-privs");
    for (name, field) in
        [("apparmor", &mut process.apparmor_profile), ("process-label", &mut process.selinux_label)]
    {
        if let Some(value) = words.value(name) {
            *field = Some(value.to_owned());
        }
    }
    let mut capabilities = process.capabilities.take().unwrap_or_default();
    for name in words.values("cap") {
        add(&mut capabilities, name);
    }
    process.capabilities = Some(capabilities);
    Ok(process)
}

fn add(capabilities: &mut Capabilities, name: &str) {
    let name = name.to_ascii_uppercase();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    for set in
        [&mut capabilities.bounding, &mut capabilities.effective, &mut capabilities.permitted]
    {
        set.push(name.clone());
    }
}

/// Numbers only: names are the image's.
fn user(text: &str) -> Result<User> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok(User { uid, gid, ..User::default() }),
        _ => bail!("--user {text:?} is not UID or UID:GID"),
    }
}
