//! What runs: command, environment, user and rights.

use std::borrow::Cow;

use spec::image::{Config, Facts};
use spec::plan::{Process, Rlimit};
use spec::request::{Request, SeccompRequest, UsernsRequest};
use spec::seccomp;

use crate::{Launcher, PlanError, capabilities, user};

/// Docker's, for an image that has none (moby, `oci/defaults.go`).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn process(
    request: &Request,
    config: &Config,
    facts: &Facts,
    launcher: &Launcher,
    hostname: &str,
) -> Result<Process, PlanError> {
    let user = match (&request.user, request.userns) {
        _ if request.boot.is_some() => Cow::Borrowed("0:0"),
        (Some(text), _) => Cow::Borrowed(text.as_str()),
        (None, UsernsRequest::KeepId) => format!("{}:{}", launcher.uid, launcher.gid).into(),
        (None, _) => Cow::Borrowed(config.user.as_str()),
    };
    let identity = user::resolve(&user, facts)?;
    let capabilities = capabilities::capabilities(request, launcher)?;
    let seccomp = match request.seccomp {
        SeccompRequest::Default if !request.privileged => {
            let mut filter = seccomp::default(&capabilities, request.suppress_sync);
            if request.nested.is_some() {
                seccomp::allow_keyrings(&mut filter);
            }
            Some(filter)
        }
        _ => None,
    };
    let boots = request.boot.is_some();
    Ok(Process {
        args: args(request, config)?,
        env: environment(request, config, launcher, &identity, hostname),
        cwd: working_directory(request, config)?,
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
        terminal: request.terminal || boots,
        stdin: request.interactive,
        capabilities,
        rlimits: rlimits(request)?,
        no_new_privileges: request.no_new_privileges,
        seccomp,
        init: !request.as_pid_1 && !boots,
    })
}

/// Docker's rules: `--entrypoint` replaces the image's and drops its command.
fn args(request: &Request, config: &Config) -> Result<Vec<String>, PlanError> {
    if let Some(startup) = &request.boot {
        return Ok(startup.args.iter().chain(&request.command).cloned().collect());
    }
    let entrypoint: Vec<String> = match &request.entrypoint {
        Some(text) if text.is_empty() => Vec::new(),
        Some(text) => vec![text.clone()],
        None => config.entrypoint.clone(),
    };
    let command = match (&request.entrypoint, request.command.is_empty()) {
        (None, true) => config.cmd.clone(),
        _ => request.command.clone(),
    };
    let args: Vec<String> = entrypoint.into_iter().chain(command).collect();
    match args.first() {
        None => Err(PlanError::new("there is no command to run")
            .hint("the image names none; give one after the image")),
        Some(first) if first.is_empty() => Err(PlanError::new("the command is an empty string")),
        Some(_) => match args.iter().find(|a| a.contains('\0')) {
            Some(bad) => Err(PlanError::new(format!("the argument {bad:?} contains a NUL byte"))),
            None => Ok(args),
        },
    }
}

fn environment(
    request: &Request,
    config: &Config,
    launcher: &Launcher,
    identity: &user::Identity,
    hostname: &str,
) -> Vec<String> {
    let mut env: Vec<(&str, &str)> = vec![("PATH", DEFAULT_PATH), ("HOSTNAME", hostname)];
    if request.terminal || request.boot.is_some() {
        env.push(("TERM", launcher.term.as_deref().unwrap_or("xterm")));
    }
    env.push(("container", "postroj"));
    let mut set = |name, value| match env.iter_mut().find(|(n, _)| *n == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    };
    for entry in &config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    let startup = request.boot.iter().flat_map(|startup| &startup.env);
    for (name, value) in startup.chain(&request.env) {
        set(name, value);
    }
    if !env.iter().any(|(name, _)| *name == "HOME") {
        env.push(("HOME", &identity.home));
    }
    env.into_iter()
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn working_directory(request: &Request, config: &Config) -> Result<String, PlanError> {
    match &request.workdir {
        Some(path) if path.starts_with('/') => Ok(path.clone()),
        Some(path) => {
            Err(PlanError::new(format!("the working directory {path:?} is not absolute"))
                .hint("--workdir takes a path inside of the image"))
        }
        None if config.working_dir.is_empty() => Ok("/".into()),
        // An image may say it relative to its root.
        None => Ok(format!("/{}", config.working_dir.trim_start_matches('/'))),
    }
}

fn rlimits(request: &Request) -> Result<Vec<Rlimit>, PlanError> {
    request
        .ulimits
        .iter()
        .map(|limit| {
            if limit.soft > limit.hard {
                return Err(PlanError::new(format!(
                    "--ulimit {}: the soft limit is above the hard one",
                    limit.name
                )));
            }
            Ok(Rlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
        })
        .collect()
}
