//! Which network a request means on this host, by what can be had here.

use anyhow::{Context, Result, bail};
use engine::state::RunDirectory;
use net::survey::{self, Survey};
use spec::network::{Accel, DEFAULT, Mode, User, Wishes};
use spec::request::NetworkRequest;

/// What a machine has where no network is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Of a command: the best there is, at worst the host's.
    Command,
    /// Of a system, which sets its network up itself: at worst none.
    System,
    /// Of what has a kernel of its own: that of its user, at worst none.
    OwnKernel,
}

/// A network that can be had, and what the user should know of it, on one line.
pub type Settled = (NetworkRequest, Option<String>);

/// Decides what `asked` means here, or what takes its place where nothing is asked for.
///
/// # Errors
/// Where what is asked for cannot be had: says what is missing, and the remedy.
pub fn settle(
    asked: Option<&Mode>,
    default: Default,
    wishes: Wishes,
    run: &RunDirectory,
) -> Result<Settled> {
    let own_kernel = default == Default::OwnKernel;
    let Some(mode) = asked else { return Ok(by_default(default, wishes)) };
    let mut network = NetworkRequest { mode: mode.clone(), wishes, ..NetworkRequest::default() };
    match mode {
        Mode::Host | Mode::None => {}
        Mode::Bridge(name) => {
            let (user, remark) = way_out(name, own_kernel, run);
            network.user = user;
            return Ok((network, remark));
        }
        Mode::User(accel, _) => {
            let survey = Survey::new();
            let user = if own_kernel { survey.user_of_card(*accel) } else { survey.user(*accel) };
            let user = user.map_err(anyhow::Error::msg);
            network.user = Some(user.context("there is no user-mode network here")?);
        }
        // The engine says what it can have.
        _ if own_kernel => {}
        Mode::Namespace(path) => network.path = Some(path.clone()),
        Mode::Container(name) => {
            let record = run.find(name)?;
            let (pid, _) = record
                .pid
                .filter(|_| record.monitored)
                .with_context(|| format!("the machine {} does not run", record.name))?;
            if record.plan.as_ref().is_some_and(|plan| !plan.network.is_own()) {
                bail!("the machine {} has no network of its own: share that one's", record.name);
            }
            network.path = Some(format!("/proc/{pid}/ns/net"));
        }
    }
    Ok((network, None))
}

/// How machines on an ordinary user's network reach what is not their peers.
fn way_out(name: &str, own_kernel: bool, run: &RunDirectory) -> (Option<User>, Option<String>) {
    let internal = || net::networks::inspect(run.path(), name).is_ok_and(|shown| shown.internal);
    if survey::bridge().is_ok() || internal() {
        return (None, None);
    }
    let user = match own_kernel {
        // No socket of the host's can be put in the place of one under another kernel.
        true => {
            Err("a virtual machine has no way out of a network of yours (--network user has one)"
                .to_owned())
        }
        false => Survey::new().user(Accel::On),
    };
    match user {
        Ok(user) => (Some(user), None),
        Err(missing) => {
            (None, Some(format!("machines of {name} reach each other only here: {missing}")))
        }
    }
}

fn by_default(default: Default, wishes: Wishes) -> Settled {
    let of = |mode, user| NetworkRequest { mode, user, wishes: wishes.clone(), path: None };
    let own_kernel = default == Default::OwnKernel;
    if !own_kernel && rustix::process::geteuid().is_root() && survey::bridge().is_ok() {
        return (of(Mode::Bridge(DEFAULT.into()), None), None);
    }
    // Root of a namespace, too, can have what any user can.
    let survey = Survey::new();
    let user = if own_kernel { survey.user_of_card(Accel::Auto) } else { survey.user(Accel::Auto) };
    let missing = match user {
        Ok(user) => return (of(Mode::User(Accel::Auto, Vec::new()), Some(user)), None),
        Err(missing) => missing,
    };
    let (mode, instead) = match default {
        Default::Command => (Mode::Host, "sharing the host's"),
        Default::System | Default::OwnKernel => (Mode::None, "the machine has none"),
    };
    let remark =
        format!("no user-mode network here ({missing}): {instead} (--network says otherwise)");
    (of(mode, None), Some(remark))
}
