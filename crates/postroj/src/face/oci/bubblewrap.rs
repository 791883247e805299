//! `run --dry-run`: the line for bubblewrap that comes nearest to a bundle, as bwrap-oci tells it. It is
//! told what of the bundle bubblewrap has no option for.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use spec::runtime::{Config, Linux, Mount, NamespaceKind, Process};

/// The line, ready for a shell, and what it lacks.
///
/// # Errors
/// Where the bundle cannot be read, or bubblewrap could only run something else.
pub(super) fn line(bundle: &Path) -> Result<(String, Vec<String>)> {
    let bundle = bundle
        .canonicalize()
        .with_context(|| format!("cannot find the bundle {}", bundle.display()))?;
    let file = bundle.join("config.json");
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let config =
        Config::parse(&text).with_context(|| format!("{} is not valid", file.display()))?;
    let words = Translation::of(&config, &bundle)?;
    Ok((words.line(), words.lacking))
}

#[derive(Default)]
struct Translation {
    /// Before `bwrap`.
    before: Vec<String>,
    words: Vec<String>,
    lacking: Vec<String>,
}

impl Translation {
    fn of(config: &Config, bundle: &Path) -> Result<Self> {
        let process = config.process.as_ref().context("config.json has no process")?;
        let root = config.root.as_ref().context("config.json has no root")?;
        let linux = config.linux.clone().unwrap_or_default();
        let mut this = Self::default();
        this.namespaces(config, &linux, process)?;
        let rootfs = bundle.join(&root.path);
        this.option(&["--bind", &path(&rootfs), "/"]);
        this.mounts(config, bundle)?;
        this.hide(&linux, &rootfs);
        if root.readonly {
            this.option(&["--remount-ro", "/"]);
        }
        this.process(process, &linux);
        this.lack(config, &linux, process);
        this.words.push("--".into());
        this.words.extend(process.args.iter().cloned());
        Ok(this)
    }

    fn option(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|&word| word.to_owned()));
    }

    fn lacks(&mut self, what: impl Into<String>) {
        self.lacking.push(what.into());
    }

    fn namespaces(&mut self, config: &Config, linux: &Linux, process: &Process) -> Result<()> {
        let joined =
            linux.namespaces.iter().find(|n| n.path.as_ref().is_some_and(|p| !p.is_empty()));
        if let Some(joined) = joined {
            bail!("bubblewrap cannot join the namespace {:?} by its path", joined.kind);
        }
        let has = |kind| linux.namespaces.iter().any(|n| n.kind == kind);
        for (kind, option) in [
            (NamespaceKind::User, "--unshare-user"),
            (NamespaceKind::Pid, "--unshare-pid"),
            (NamespaceKind::Network, "--unshare-net"),
            (NamespaceKind::Ipc, "--unshare-ipc"),
            (NamespaceKind::Uts, "--unshare-uts"),
            (NamespaceKind::Cgroup, "--unshare-cgroup"),
        ] {
            if has(kind) {
                self.option(&[option]);
            }
        }
        if has(NamespaceKind::Pid) {
            self.option(&["--as-pid-1"]);
        }
        if !has(NamespaceKind::Mount) {
            bail!("bubblewrap cannot do without a mount namespace");
        }
        if has(NamespaceKind::Time) {
            self.lacks("the time namespace");
        }
        let user = &process.user;
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        if has(NamespaceKind::User) || own.0 != 0 {
            self.option(&["--uid", &user.uid.to_string(), "--gid", &user.gid.to_string()]);
            let one =
                |maps: &[spec::runtime::IdMapping]| maps.iter().map(|m| m.size).sum::<u32>() <= 1;
            if !(one(&linux.uid_mappings) && one(&linux.gid_mappings)) {
                self.lacks("all ids of the user namespace but one");
            }
        } else if (user.uid, user.gid) != own {
            bail!("bubblewrap becomes another user only in a user namespace");
        }
        if !user.additional_gids.is_empty() {
            self.lacks("process.user.additionalGids");
        }
        if let Some(name) = config.hostname.as_ref().filter(|name| !name.is_empty()) {
            self.option(&["--hostname", name]);
        }
        Ok(())
    }

    fn mounts(&mut self, config: &Config, bundle: &Path) -> Result<()> {
        let mut small_dev = false;
        let linux = config.linux.iter();
        let new_network =
            linux.flat_map(|l| &l.namespaces).any(|n| n.kind == NamespaceKind::Network);
        for mount in &config.mounts {
            let target = mount.destination.as_str();
            match mount.kind.as_deref().unwrap_or_default() {
                _ if mount.options.iter().any(|o| o == "bind" || o == "rbind") => {
                    self.bind(mount, bundle);
                }
                "proc" => self.option(&["--proc", target]),
                "tmpfs" if target == "/dev" => {
                    small_dev = true;
                    self.option(&["--dev", target]);
                }
                // `--dev` has it.
                "devpts" if small_dev && target == "/dev/pts" => {}
                "tmpfs" => self.memory(mount),
                "mqueue" => self.option(&["--mqueue", target]),
                "sysfs" => {
                    self.option(&["--ro-bind", "/sys", target]);
                    if new_network {
                        self.lacks(format!("a {target} that shows the new network's devices"));
                    }
                }
                // It is there, where /sys is.
                "cgroup" | "cgroup2" => {
                    let shown = config
                        .mounts
                        .iter()
                        .any(|m| m.destination == "/sys" && target.starts_with("/sys/"));
                    if !shown {
                        self.option(&["--ro-bind", "/sys/fs/cgroup", target]);
                    }
                }
                "overlay" => self.overlay(mount, bundle)?,
                other => bail!("bubblewrap cannot mount the type {other:?}, wanted on {target}"),
            }
        }
        Ok(())
    }

    fn bind(&mut self, mount: &Mount, bundle: &Path) {
        let has = |name: &str| mount.options.iter().any(|option| option == name);
        let option = match (has("ro"), has("dev")) {
            (true, _) => "--ro-bind",
            (false, true) => "--dev-bind",
            (false, false) => "--bind",
        };
        let source = path(&bundle.join(mount.source.as_deref().unwrap_or_default()));
        self.option(&[option, &source, &mount.destination]);
        if has("noexec") {
            self.lacks(format!("noexec of {}", mount.destination));
        }
    }

    fn memory(&mut self, mount: &Mount) {
        let value = |name: &str| {
            mount.options.iter().rev().find_map(|o| o.strip_prefix(name)?.strip_prefix('='))
        };
        let read_only = mount.options.iter().any(|option| option == "ro");
        if let Some(mode) = value("mode") {
            self.option(&["--perms", &format!("{:0>4}", mode)]);
        }
        match value("size").map(bytes) {
            Some(Some(size)) => self.option(&["--size", &size.to_string()]),
            Some(None) => self.lacks(format!("the size of {}", mount.destination)),
            None => {}
        }
        self.option(&["--tmpfs", &mount.destination]);
        if read_only {
            self.option(&["--remount-ro", &mount.destination]);
        }
    }

    /// Of bubblewrap 0.11.
    fn overlay(&mut self, mount: &Mount, bundle: &Path) -> Result<()> {
        let value =
            |name: &str| mount.options.iter().find_map(|o| o.strip_prefix(name)?.strip_prefix('='));
        let lower = value("lowerdir").context("an overlay has no lowerdir")?;
        for directory in lower.split(':').rev() {
            self.option(&["--overlay-src", &path(&bundle.join(directory))]);
        }
        match (value("upperdir"), value("workdir")) {
            (Some(upper), Some(work)) => {
                let (upper, work) = (path(&bundle.join(upper)), path(&bundle.join(work)));
                self.option(&["--overlay", &upper, &work, &mount.destination]);
            }
            _ => self.option(&["--ro-overlay", &mount.destination]),
        }
        Ok(())
    }

    /// Masked and read-only paths: those that there are.
    fn hide(&mut self, linux: &Linux, rootfs: &Path) {
        let place = |inside: &str| match inside.starts_with("/proc/") || inside.starts_with("/sys/")
        {
            true => PathBuf::from(inside),
            false => rootfs.join(inside.trim_start_matches('/')),
        };
        for inside in &linux.readonly_paths {
            let source = place(inside);
            if source.exists() && !inside.starts_with("/sys/") {
                self.option(&["--ro-bind", &path(&source), inside]);
            }
        }
        for inside in &linux.masked_paths {
            match std::fs::metadata(place(inside)) {
                Ok(found) if found.is_dir() => {
                    self.option(&["--tmpfs", inside, "--remount-ro", inside]);
                }
                Ok(_) => self.option(&["--dev-bind", "/dev/null", inside]),
                Err(_) => {}
            }
        }
    }

    fn process(&mut self, process: &Process, linux: &Linux) {
        self.option(&["--chdir", &process.cwd, "--clearenv"]);
        for variable in &process.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            self.option(&["--setenv", name, value]);
        }
        let given = process.capabilities.clone().unwrap_or_default();
        // An ordinary user keeps none by execve(2) but those of the ambient set.
        let kept = if process.user.uid == 0 { given.permitted } else { given.ambient };
        let rootless = !rustix::process::getuid().is_root();
        let in_userns = linux.namespaces.iter().any(|n| n.kind == NamespaceKind::User);
        if !(rootless || in_userns) || kept.is_empty() {
            self.option(&["--cap-drop", "ALL"]);
        }
        for name in &kept {
            self.option(&["--cap-add", name]);
        }
        if !process.terminal {
            self.option(&["--new-session"]);
        }
        if !process.rlimits.is_empty() {
            self.before.push("prlimit".into());
        }
        for limit in &process.rlimits {
            let name = limit.kind.trim_start_matches("RLIMIT_").to_lowercase();
            let number = |n: u64| if n == u64::MAX { "unlimited".into() } else { n.to_string() };
            self.before.push(format!("--{name}={}:{}", number(limit.soft), number(limit.hard)));
        }
    }

    /// What it has no option for.
    fn lack(&mut self, config: &Config, linux: &Linux, process: &Process) {
        let resources = linux.resources.as_ref().and_then(|r| serde_json::to_value(r).ok());
        let limits = resources.is_some_and(|resources| {
            let mut found = resources.as_object().cloned().unwrap_or_default();
            // Which devices may be used says nothing where none but the usual ones are.
            found.remove("devices");
            found.values().any(|value| !is_empty(value))
        });
        for (is, what) in [
            (config.hooks.is_some(), "hooks"),
            (config.domainname.is_some(), "domainname"),
            (limits, "linux.resources"),
            (!linux.devices.is_empty(), "linux.devices"),
            (!linux.sysctl.is_empty(), "linux.sysctl"),
            (linux.seccomp.is_some(), "linux.seccomp"),
            (linux.personality.is_some(), "linux.personality"),
            (linux.rootfs_propagation.is_some(), "linux.rootfsPropagation"),
            (process.user.umask.is_some(), "process.user.umask"),
            (process.oom_score_adj.is_some(), "process.oomScoreAdj"),
            (process.scheduler.is_some(), "process.scheduler"),
            (process.io_priority.is_some(), "process.ioPriority"),
            (process.apparmor_profile.is_some(), "process.apparmorProfile"),
            (process.selinux_label.is_some(), "process.selinuxLabel"),
            (!process.no_new_privileges, "privileges by set-user-ID programs: it never has them"),
        ] {
            if is {
                self.lacks(what);
            }
        }
    }

    fn line(&self) -> String {
        let words = self.before.iter().map(String::as_str).chain(["bwrap"]);
        let words = words.chain(self.words.iter().map(String::as_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }
}

fn is_empty(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Array(list) => list.is_empty(),
        serde_json::Value::Object(members) => members.values().all(is_empty),
        _ => false,
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// As tmpfs(5) reads its `size`; a part of the memory is no number of bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit)
}

/// As one word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_sizes_read() {
        for (word, shown) in [("a-b", "a-b"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(word), shown);
        }
        for (text, size) in
            [("65536k", Some(65536 << 10)), ("1G", Some(1 << 30)), ("50%", None), ("k", None)]
        {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
