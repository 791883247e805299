//! OpenRC.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, Wish, plain, script};

/// OpenRC, on its own openrc-init(8) or as the service manager of busybox's or System V's
/// init: Alpine, Gentoo and Debian do the latter.
pub(super) struct Openrc;

const PROGRAMS: [&str; 3] = ["/sbin/openrc-init", "/usr/sbin/openrc-init", "/usr/bin/openrc-init"];

/// What the inittab of the other inits runs.
const MANAGERS: [&str; 3] = ["/sbin/openrc", "/usr/sbin/openrc", "/usr/bin/openrc"];

impl Init for Openrc {
    fn name(&self) -> &'static str {
        "openrc"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let Some(path) = entry.path() else { return Entry::first_of(root, &PROGRAMS) };
        let below = Entry::first_of(root, &MANAGERS).is_some();
        (below || entry.is_any_of(root, &PROGRAMS)).then_some(path)
    }

    /// The inittab's last are the gettys, once the default runlevel is reached; the init below
    /// powers off.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                ready: Ready::Process(vec!["getty".into(), "agetty".into()]),
                power_off: SIGPWR,
                power_off_command: Some(vec![
                    "sh".into(),
                    "-c".into(),
                    "command -v openrc-shutdown >/dev/null && [ -e /run/openrc/init.ctl ] \
                     && exec openrc-shutdown -p now; exec init 0"
                        .into(),
                ]),
                ..Boot::default()
            },
        )
    }

    /// rc-service(8); its states in between and its crashed one have codes of their own (openrc,
    /// sh/openrc-run.sh.in, `_status`).
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }

    /// Its states are directories of links (openrc-run(8); librc's `rc_service_mark`).
    fn signs(&self, _name: &str) -> Vec<String> {
        ["/run", "/run/openrc/started", "/run/openrc/starting"].map(str::to_owned).to_vec()
    }
}

const SIGPWR: i32 = 30;

const SERVICE: &str = r#"
rc-service --exists "$1" 2>/dev/null || exit "$3"
rc-service "$1" "$2"
code=$?
[ "$2" = status ] || exit $code
case $code in
    32) exit 1 ;;
    4 | 8 | 16) exit 3 ;;
    *) exit $code ;;
esac
"#;
