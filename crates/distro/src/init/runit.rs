//! runit.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, Wish, plain, script};

/// runit(8). It supervises under other inits too, so that its being there tells nothing:
/// `/sbin/init` must be it.
pub(super) struct Runit;

/// Upstream's and Void's place, Debian's, Artix's.
const PROGRAMS: [&str; 3] = ["/sbin/runit-init", "/lib/runit/runit-init", "/usr/bin/runit-init"];

impl Init for Runit {
    fn name(&self) -> &'static str {
        "runit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        entry.path().filter(|_| entry.is_any_of(root, &PROGRAMS))
    }

    /// runit-init(8): `init 0` enters stage 3; runsvdir(8) is stage 2.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                ready: Ready::Process(vec!["runsvdir".into()]),
                power_off: SIGCONT,
                power_off_command: Some(vec!["init".into(), "0".into()]),
                ..Boot::default()
            },
        )
    }

    /// sv(8), whose directories are at different places in different distributions.
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }

    /// runsv writes `supervise/status` anew by renaming (runsv(8)).
    fn signs(&self, name: &str) -> Vec<String> {
        let directories = ["/etc/service", "/var/service", "/service", "/run/runit/service"];
        let of = |d: &str| [d.to_owned(), format!("{d}/{name}"), format!("{d}/{name}/supervise")];
        directories
            .into_iter()
            .flat_map(of)
            .chain([format!("/run/runit/supervise.{name}")])
            .collect()
    }
}

/// runit(8): stage 3 where `/etc/runit/stopit` can be executed, which `init 0` sees to.
const SIGCONT: i32 = 18;

const SERVICE: &str = r#"
for d in /etc/service /var/service /service /run/runit/service; do
    [ -e "$d/$1/run" ] || continue
    # sv takes one that has been up since this second for restarted already.
    if [ "$2" = restart ]; then
        sv stop "$d/$1" >/dev/null || exit
        exec sv start "$d/$1"
    fi
    [ "$2" = status ] || exec sv "$2" "$d/$1"
    case $(sv status "$d/$1" 2>/dev/null) in
        run:*) exit 0 ;;
    esac
    exit 3
done
# It is there, but not chosen.
[ -e "/etc/sv/$1/run" ] || exit "$3"
[ "$2" = status ] && exit 3
echo "$1 is in /etc/sv, but no link to it is in /etc/service" >&2
exit 6
"#;
