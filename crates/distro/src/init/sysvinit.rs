//! System V's init.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, Wish, plain, script};

/// init(8) of sysvinit: `/sbin/init` itself, beside an inittab(5). The last of the list,
/// because OpenRC and busybox keep an inittab too.
pub(super) struct Sysvinit;

impl Init for Sysvinit {
    fn name(&self) -> &'static str {
        "sysvinit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| root.exists("/etc/inittab").unwrap_or(false))
    }

    /// init(8): `telinit 0` and its like write to the fifo `/run/initctl`; SIGINT restarts
    /// (`ctrlaltdel` in inittab(5)). The last that a boot starts are the gettys.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                ready: Ready::Process(vec!["getty".into(), "agetty".into()]),
                power_off: SIGPWR,
                reboot: Some(SIGINT),
                power_off_command: Some(vec!["init".into(), "0".into()]),
                ..Boot::default()
            },
        )
    }

    /// The scripts themselves: service(8) is in a package of its own.
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }
}

const SIGINT: i32 = 2;
const SIGPWR: i32 = 30;

const SERVICE: &str = r#"
[ -x "/etc/init.d/$1" ] || exit "$3"
cd /
exec "/etc/init.d/$1" "$2"
"#;
