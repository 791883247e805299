//! What a process may, and how it is scheduled.

use anyhow::{Result, bail};
use spec::runtime::{self, Process};
use sys::caps::{Set, Sets};
use sys::sched::Scheduler;

use super::super::step::Step;
use super::piece::Piece;

/// User and capabilities, in the order in which they are given up.
pub(super) fn of(process: &Process, warn: &mut dyn FnMut(String)) -> Result<Vec<Step>> {
    let given = process.capabilities.clone().unwrap_or_default();
    let mut set = |names: &[String]| -> Set {
        let mut bits = 0;
        for name in names {
            match name.strip_prefix("CAP_").map(|name| Set::of([name])) {
                Some(Ok(set)) => bits |= set.bits(),
                // A warning, as the specification says: no kernel interface is mapped to it.
                _ => warn(format!("the capability {name:?} is unknown, and not given")),
            }
        }
        Set::from_bits(bits)
    };
    let sets = Sets {
        effective: set(&given.effective),
        permitted: set(&given.permitted),
        inheritable: set(&given.inheritable),
        ambient: set(&given.ambient),
    };
    let bounding = set(&given.bounding);
    let user = &process.user;
    let mut pieces = vec![
        Piece::Bound(bounding),
        Piece::User { uid: user.uid, gid: user.gid, groups: user.additional_gids.clone() },
        Piece::Capabilities(sets),
    ];
    let mut steps: Vec<Step> = pieces.drain(..).map(Step::Bundle).collect();
    if process.no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    Ok(steps)
}

/// Where the host has them; `check` has seen to that.
pub(super) fn labels(process: &Process) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let profile = process.apparmor_profile.as_deref().unwrap_or_default();
    if !profile.is_empty() && profile != "unconfined" {
        let value = format!("exec {profile}");
        pieces.push(Piece::Attribute { file: "attr/apparmor/exec", value });
    }
    let label = process.selinux_label.as_deref().unwrap_or_default();
    if !label.is_empty() {
        pieces.push(Piece::Attribute { file: "attr/exec", value: label.to_owned() });
    }
    pieces
}

/// personality(2).
pub(super) fn personality(personality: &runtime::Personality) -> Result<u32> {
    if let Some(flag) = personality.flags.first() {
        bail!("the personality's flag {flag:?} is unknown");
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => bail!("the personality {other:?} is neither LINUX nor LINUX32"),
    }
}

/// sched(7), linux/sched.h.
pub(super) fn scheduler(scheduler: &runtime::Scheduler) -> Result<Scheduler> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => bail!("the scheduling policy {other:?} is unknown"),
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => bail!("the scheduler's flag {other:?} is unknown"),
        };
    }
    let Ok(priority) = u32::try_from(scheduler.priority) else {
        bail!("the scheduler's priority {} is negative", scheduler.priority);
    };
    let mut made = Scheduler::default();
    (made.policy, made.flags, made.nice, made.priority) = (policy, flags, scheduler.nice, priority);
    (made.runtime, made.deadline, made.period) =
        (scheduler.runtime, scheduler.deadline, scheduler.period);
    Ok(made)
}

/// ioprio_set(2).
pub(super) fn io_priority(priority: &runtime::IoPriority) -> Result<u16> {
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => bail!("the I/O priority class {other:?} is unknown"),
    };
    match priority.priority {
        level @ 0..=7 => Ok(class << 13 | level as u16),
        other => bail!("the I/O priority {other} is not between 0 and 7"),
    }
}
