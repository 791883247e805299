//! A further process in a machine that runs.

use spec::image::Facts;
use spec::plan::{Plan, Process};

use crate::{PlanError, user};

/// What a face was asked to run in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// Command and arguments.
    pub command: Vec<String>,
    /// `NAME=value`; later ones win.
    pub env: Vec<(String, String)>,
    /// `user[:group]`, by name or number; the machine's own where not given.
    pub user: Option<String>,
    /// Absolute path; the machine's own where not given.
    pub workdir: Option<String>,
    /// Standard input is passed on.
    pub interactive: bool,
    /// A terminal of its own.
    pub terminal: bool,
    /// `TERM` of the launcher.
    pub term: Option<String>,
}

/// Decides what exactly to run, with the rights of the machine's own process.
///
/// # Errors
/// Names what cannot be honoured. `facts` are those of the running root, for its users.
pub fn exec(plan: &Plan, facts: &Facts, request: &ExecRequest) -> Result<Process, PlanError> {
    let base = &plan.process;
    if request.command.is_empty() {
        return Err(PlanError::new("there is no command to run").hint("give one after the machine"));
    }
    if let Some(path) = request.workdir.as_ref().filter(|path| !path.starts_with('/')) {
        return Err(PlanError::new(format!("the working directory {path:?} is not absolute")));
    }
    let (uid, gid, groups, home) = match &request.user {
        Some(text) => {
            let identity = user::resolve(text, facts)?;
            (identity.uid, identity.gid, identity.groups, Some(identity.home))
        }
        None => (base.uid, base.gid, base.groups.clone(), None),
    };
    Ok(Process {
        args: request.command.clone(),
        env: environment(plan, request, home),
        cwd: request.workdir.clone().unwrap_or_else(|| base.cwd.clone()),
        uid,
        gid,
        groups,
        terminal: request.terminal,
        stdin: request.interactive,
        init: false,
        ..base.clone()
    })
}

fn environment(plan: &Plan, request: &ExecRequest, home: Option<String>) -> Vec<String> {
    let own = plan.boot.iter().flat_map(|boot| &boot.own_env);
    let hidden: Vec<&String> = own.collect();
    let named = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env = plan.process.env.clone();
    env.retain(|entry| !hidden.contains(&&named(entry)));
    let term = request.term.iter().filter(|_| request.terminal);
    let extra = home
        .map(|home| ("HOME".to_owned(), home))
        .into_iter()
        .chain(term.map(|term| ("TERM".to_owned(), term.clone())))
        .chain(request.env.iter().cloned());
    for (name, value) in extra {
        env.retain(|entry| named(entry) != name);
        env.push(format!("{name}={value}"));
    }
    env
}
