//! busybox's init.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, SIGTERM, Wish, plain, script};

/// The applet `init` of busybox(1). It goes by the name it is started under, so that
/// `/bin/busybox` alone, a common rescue tool, is no init.
pub(super) struct Busybox;

const PROGRAMS: [&str; 4] =
    ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox", "/bin/busybox.static"];

impl Init for Busybox {
    fn name(&self) -> &'static str {
        "busybox"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| entry.is_any_of(root, &PROGRAMS))
    }

    /// busybox, init/init.c: SIGUSR2 powers off and SIGTERM restarts, each after the
    /// `shutdown` lines of the inittab.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                // It tells nothing, and what it starts is the inittab's business.
                ready: Ready::Started,
                power_off: SIGUSR2,
                reboot: Some(SIGTERM),
                ..Boot::default()
            },
        )
    }

    /// It knows no services; those that its inittab's scripts start are scripts themselves, which
    /// buildroot numbers.
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }
}

const SIGUSR2: i32 = 12;

const SERVICE: &str = r#"
for s in "/etc/init.d/$1" /etc/init.d/S[0-9][0-9]"$1"; do
    [ -x "$s" ] || continue
    [ "$2" = status ] || exec "$s" "$2"
    if grep -q 'status' "$s"; then exec "$s" status; fi
    pidof "$1" >/dev/null && exit 0
    exit 3
done
exit "$3"
"#;
