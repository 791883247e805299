//! systemd.

use std::collections::BTreeSet;

use spec::boot::{Boot, Ready, RuntimeFile, RuntimeKind, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, Wish};

/// systemd(1).
pub(super) struct Systemd;

/// The second is for roots whose `/lib` is no link into `/usr`, as Debian's were until 11.
const PROGRAMS: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

impl Init for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    /// Also without an `/sbin/init`, which Debian has in a package of its own (systemd-sysv):
    /// systemd-nspawn(1) boots such a root too.
    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let chosen = entry.path().is_none() || entry.is_any_of(root, &PROGRAMS);
        if chosen { Entry::first_of(root, &PROGRAMS) } else { None }
    }

    /// systemd.io, "The Container Interface"; systemd(1), "SIGNALS".
    fn startup(&self, path: &str, wish: &Wish) -> Startup {
        let mut args = vec![path.to_owned()];
        if wish.fast {
            args.push("systemd.show_status=0".into());
        }
        Startup {
            args,
            env: vec![
                ("NOTIFY_SOCKET".into(), NOTIFY.into()),
                ("CREDENTIALS_DIRECTORY".into(), CREDENTIALS.into()),
            ],
            files: files(wish),
            boot: Boot {
                init: self.name().into(),
                own_env: vec!["NOTIFY_SOCKET".into(), "CREDENTIALS_DIRECTORY".into()],
                control_groups: true,
                ready: Ready::Notify { socket: NOTIFY.into(), bus: BUS.into() },
                power_off: SIGRTMIN + 3,
                reboot: Some(SIGRTMIN + 5),
                power_off_command: None,
            },
        }
    }

    /// systemctl(1), whose exit statuses are LSB's ("EXIT STATUS").
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        let mut command = vec!["systemctl", action.word(), "--no-pager"];
        if action == Action::Status {
            command.extend(["--lines", "0"]);
        }
        command.into_iter().chain(["--", name]).map(str::to_owned).collect()
    }
}

const NOTIFY: &str = "/run/host/notify";
const CREDENTIALS: &str = "/run/host/credentials";
const BUS: &str = "/run/systemd/private";

/// glibc's: the C library keeps the first two for itself (nptl(7)).
const SIGRTMIN: i32 = 34;

/// Units for hardware, disks, passwords at a console, the kernel or a host's own upkeep, and
/// for a journal on disk, which a machine has not.
/// Those that fail in a user namespace would leave the system degraded.
const MEANINGLESS: [&str; 31] = [
    "dev-hugepages.mount",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-initctl.socket",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-repart.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udevd.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// Generators for disks, hibernation, offline updates, and of what a kernel's command line may
/// ask for (systemd.generator(7)).
const GENERATORS: [&str; 8] = [
    "systemd-cryptsetup-generator",
    "systemd-debug-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-integritysetup-generator",
    "systemd-run-generator",
    "systemd-system-update-generator",
    "systemd-veritysetup-generator",
];

/// What a person at a console or a machine that lives for days needs, and a test does not: seats,
/// too, and users that are declared (sysusers.d(5)), whom the packages of an image made already.
const UNHURRIED: [&str; 10] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "getty.target",
    "logrotate.timer",
    "man-db.timer",
    "systemd-logind.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
];

const UNHURRIED_GENERATORS: [&str; 3] =
    ["systemd-fstab-generator", "systemd-getty-generator", "systemd-rc-local-generator"];

fn files(wish: &Wish) -> Vec<RuntimeFile> {
    let mut files = vec![
        RuntimeFile::directory("/run/host", 0o755),
        RuntimeFile::text("/run/host/container-manager", "postroj\n"),
        RuntimeFile::directory(CREDENTIALS, 0o700),
        RuntimeFile::directory("/run/lock", 0o1777),
        RuntimeFile::directory("/run/systemd", 0o755),
        RuntimeFile::directory("/run/systemd/system", 0o755),
        RuntimeFile::directory("/run/systemd/system-generators", 0o755),
        RuntimeFile::directory("/run/systemd/journald.conf.d", 0o755),
        // A disk that is thrown away needs no journal, and a machine has no kernel log.
        RuntimeFile::text(
            "/run/systemd/journald.conf.d/10-postroj.conf",
            "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n",
        ),
    ];
    for (name, value) in &wish.credentials {
        let kind = RuntimeKind::Text { content: value.clone(), mode: 0o400 };
        files.push(RuntimeFile { path: format!("{CREDENTIALS}/{name}"), kind });
    }
    let (slow_units, slow_generators): (&[&str], &[&str]) =
        if wish.fast { (&UNHURRIED, &UNHURRIED_GENERATORS) } else { (&[], &[]) };
    let asked = wish.mask.iter().map(String::as_str);
    let masked: BTreeSet<&str> =
        MEANINGLESS.iter().chain(slow_units).copied().chain(asked).collect();
    for unit in masked {
        files.push(RuntimeFile::link(format!("/run/systemd/system/{unit}"), "/dev/null"));
    }
    for generator in GENERATORS.iter().chain(slow_generators) {
        let path = format!("/run/systemd/system-generators/{generator}");
        files.push(RuntimeFile::link(path, "/dev/null"));
    }
    files
}
