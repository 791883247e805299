//! `linux.seccomp` compiled: by the same compiler as every machine's filter.

use anyhow::{Context, Result, bail};
use spec::runtime::{Argument, Seccomp, Syscall};
use sys::seccomp::{Action, Condition, Flags, Relation, Rule};

use super::super::step::Step;
use super::piece::Piece;

pub(super) fn step(profile: &Seccomp) -> Result<Step> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut flags = Flags::NONE;
    for flag in &profile.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => Flags::ALL_THREADS,
            "SECCOMP_FILTER_FLAG_LOG" => Flags::LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Flags::SPECULATION,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Flags::WAIT_KILLABLE,
            other => bail!("the flag {other} of linux.seccomp is unknown"),
        };
    }
    let mut rules = Vec::new();
    for syscall in &profile.syscalls {
        let action = action(&syscall.action, syscall.errno_ret)?;
        if action == Action::Notify && syscall.names.iter().any(|name| name == "write") {
            bail!(
                "SCMP_ACT_NOTIFY cannot be used for the write syscall: the container would wait for itself"
            );
        }
        // As libseccomp has it, such a rule says nothing.
        if action == default {
            continue;
        }
        for conditions in alternatives(syscall)? {
            rules.push((&syscall.names, action, conditions));
        }
    }
    let listens = rules.iter().any(|(_, action, _)| *action == Action::Notify);
    if listens && profile.listener_path.as_deref().unwrap_or_default().is_empty() {
        bail!("linux.seccomp has SCMP_ACT_NOTIFY, but no listenerPath");
    }
    if listens {
        // This is the only thread, and the two exclude each other (seccomp(2)).
        flags = Flags::LISTENER
            | if flags.contains(Flags::LOG) { Flags::LOG } else { Flags::NONE }
            | if flags.contains(Flags::SPECULATION) { Flags::SPECULATION } else { Flags::NONE }
            | if flags.contains(Flags::WAIT_KILLABLE) { Flags::WAIT_KILLABLE } else { Flags::NONE };
    }
    let rules: Vec<Rule<'_, String>> = rules
        .iter()
        .map(|(names, action, conditions)| Rule { names, action: *action, conditions })
        .collect();
    // Programs fall back from calls that are newer than the profile only where those do not exist.
    let unknown = match default {
        Action::Errno(_) => Action::Errno(38),
        other => other,
    };
    let wanted = |name: &str| {
        let known = |a: &String| a.strip_prefix("SCMP_ARCH_").is_some_and(|a| a == name);
        profile.architectures.iter().any(known)
    };
    let filter = sys::seccomp::compile_for(wanted, default, unknown, &rules);
    if filter.instructions().len() > 4096 {
        bail!("linux.seccomp is too long for the kernel, which takes 4096 instructions");
    }
    Ok(Step::Bundle(Piece::Seccomp { filter, flags }))
}

/// libseccomp's names.
fn action(name: &str, errno: Option<u32>) -> Result<Action> {
    let number = |default| {
        u16::try_from(errno.unwrap_or(default)).context("an errnoRet of linux.seccomp is too large")
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number(1)?),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::Kill,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(number(1)?),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => Action::Notify,
        other => bail!("the action {other:?} of linux.seccomp is unknown"),
    })
}

/// All conditions hold together, but where two are about one argument, each is a rule (runc,
/// libcontainer/seccomp, `matchCall`).
fn alternatives(syscall: &Syscall) -> Result<Vec<Vec<Condition>>> {
    let conditions = syscall.args.iter().map(condition).collect::<Result<Vec<_>>>()?;
    let count = |index: u8| conditions.iter().filter(|c| c.argument == index).count();
    if conditions.iter().any(|c| count(c.argument) > 1) {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn condition(argument: &Argument) -> Result<Condition> {
    if argument.index > 5 {
        bail!("a call has no argument {}", argument.index);
    }
    let (relation, mask, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (Relation::NotEqual, u64::MAX, argument.value),
        "SCMP_CMP_LT" => (Relation::Less, u64::MAX, argument.value),
        "SCMP_CMP_LE" => (Relation::LessOrEqual, u64::MAX, argument.value),
        "SCMP_CMP_EQ" => (Relation::Equal, u64::MAX, argument.value),
        "SCMP_CMP_GE" => (Relation::GreaterOrEqual, u64::MAX, argument.value),
        "SCMP_CMP_GT" => (Relation::Greater, u64::MAX, argument.value),
        "SCMP_CMP_MASKED_EQ" => {
            (Relation::Equal, argument.value, argument.value_two & argument.value)
        }
        other => bail!("the comparison {other:?} of linux.seccomp is unknown"),
    };
    Ok(Condition { argument: argument.index as u8, mask, value, relation })
}
