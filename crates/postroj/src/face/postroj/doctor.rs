//! `doctor`: what works on this host, and how to get the rest.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::Here;

/// Tell what works on this host, and how to get the rest
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Something optional is missing.
    Limited,
    /// Nothing can be run without it.
    Bad,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let mut findings = vec![kernel(), user_namespaces()];
    if !rustix::process::geteuid().is_root() {
        findings.extend([subordinate_ids(), id_map_helpers()]);
    }
    findings.extend([overlay(), cgroups(), network(), store(here), apt_sources()]);
    if args.json {
        let list: Vec<_> = findings.iter().map(json_of).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        for finding in &findings {
            println!("{:<9} {}: {}", word(finding.verdict), finding.what, finding.text);
        }
    }
    Ok(u8::from(findings.iter().any(|f| f.verdict == Verdict::Bad)))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Limited => "limited",
        Verdict::Bad => "missing",
    }
}

fn json_of(finding: &Finding) -> serde_json::Value {
    json!({ "Check": finding.what, "Verdict": word(finding.verdict), "Text": finding.text })
}

fn good(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Good, text: text.into() }
}

fn limited(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Limited, text: text.into() }
}

fn bad(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Bad, text: text.into() }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// What the engine needs at least: mount_setattr(2) came with Linux 5.12.
fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 12) => {
            good("kernel", format!("Linux {release}"))
        }
        _ => bad("kernel", format!("Linux {release} is too old: 5.12 or newer is needed")),
    }
}

fn user_namespaces() -> Finding {
    let what = "user namespaces";
    let root = rustix::process::geteuid().is_root();
    if read("/proc/sys/user/max_user_namespaces") == "0" {
        return bad(what, "there may be none: `sysctl user.max_user_namespaces=10000` allows them");
    }
    if !root && read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        return bad(
            what,
            "only root may make them: `sysctl kernel.unprivileged_userns_clone=1` allows them",
        );
    }
    if !root && read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return bad(
            what,
            "AppArmor takes their rights away: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, \
             or a profile for postroj that has `userns,`",
        );
    }
    good(what, "allowed")
}

fn subordinate_ids() -> Finding {
    let what = "subordinate ids";
    let count = harness::host::subordinate_ids();
    match (count.0.min(count.1), count) {
        (0, _) => limited(
            what,
            "none in /etc/subuid or /etc/subgid: only --userns=single works, and nothing can be pulled; \
             `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` (as root) adds some",
        ),
        (few @ 1..65_536, _) => {
            limited(what, format!("only {few}: images use up to 65536, such as nobody's 65534"))
        }
        (_, (uids, gids)) => good(what, format!("{uids} user ids, {gids} group ids")),
    }
}

fn id_map_helpers() -> Finding {
    let what = "newuidmap and newgidmap";
    let path = std::env::var("PATH").unwrap_or_default();
    let missing: Vec<&str> = ["newuidmap", "newgidmap"]
        .into_iter()
        .filter(|name| !path.split(':').any(|d| Path::new(d).join(name).exists()))
        .collect();
    if missing.is_empty() {
        return good(what, "installed");
    }
    let missing = missing.join(" and ");
    limited(
        what,
        format!(
            "{missing} not found: `apt install uidmap` or `dnf install shadow-utils` (as root)"
        ),
    )
}

fn overlay() -> Finding {
    let what = "overlay file system";
    if read("/proc/filesystems").lines().any(|l| l.ends_with("\toverlay")) {
        return good(what, "there");
    }
    limited(what, "not loaded: the kernel loads it at the first use as root (`modprobe overlay`)")
}

fn cgroups() -> Finding {
    let what = "limits of memory, processors and processes";
    let Ok(layout) = sys::cgroups::Layout::read() else {
        return limited(what, "this process's control groups cannot be read");
    };
    if rustix::process::geteuid().is_root() {
        return match layout.unified.is_some() || !layout.legacy.is_empty() {
            true => good(what, "by control groups"),
            false => limited(what, "no control group hierarchy is mounted"),
        };
    }
    let delegated = layout.unified.as_ref().is_some_and(|h| {
        let own = h.mount.join(h.own.trim_start_matches('/'));
        rustix::fs::access(own, rustix::fs::Access::WRITE_OK).is_ok()
    });
    match delegated {
        true => good(what, "by a delegated control group"),
        false => limited(
            what,
            "no control group is delegated to you: run under `systemd-run --user --scope -p Delegate=yes`",
        ),
    }
}

/// What a machine has where no network is asked for.
fn network() -> Finding {
    let what = "network";
    if rustix::process::geteuid().is_root() {
        return match net::survey::bridge() {
            Ok(()) => good(what, "bridges"),
            Err(missing) => limited(what, missing),
        };
    }
    let survey = net::survey::Survey::new();
    match survey.user(spec::network::Accel::Auto) {
        Ok(user) => {
            let tap = user.tap.map(|tap| match tap {
                spec::network::Tap::Pasta => "pasta",
                spec::network::Tap::Slirp4netns => "slirp4netns",
                spec::network::Tap::Passt => "passt",
            });
            let bypass = user.bypass.then_some("acceleration");
            let means: Vec<&str> = [bypass, tap].into_iter().flatten().collect();
            good(what, format!("--network user by {}", means.join(" and ")))
        }
        Err(missing) => limited(what, format!("none of a machine's own: {missing}")),
    }
}

fn store(here: &Here) -> Finding {
    let what = "store";
    match here.places() {
        Err(error) => bad(what, format!("{error:#}")),
        Ok(places) => match here.store() {
            Ok(_) => good(what, places.store.display().to_string()),
            Err(error) => bad(what, format!("{error:#}")),
        },
    }
}

fn apt_sources() -> Finding {
    let what = "archive to make Debian and Ubuntu from";
    let any = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"].iter().any(|p| {
        let path = Path::new(p);
        path.is_file() || path.read_dir().is_ok_and(|mut entries| entries.next().is_some())
    });
    match any {
        true => good(what, "the host's apt sources"),
        false => limited(
            what,
            "this host has no apt sources: give --mirror and --keyring, or configure them",
        ),
    }
}
