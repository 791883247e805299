//! Finit.

use spec::boot::{Boot, Ready, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, SIGTERM, Wish, plain, script};

/// finit(8).
pub(super) struct Finit;

const PROGRAMS: [&str; 2] = ["/sbin/finit", "/usr/sbin/finit"];

impl Init for Finit {
    fn name(&self) -> &'static str {
        "finit"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let chosen = entry.path().is_none() || entry.is_any_of(root, &PROGRAMS);
        if chosen { Entry::first_of(root, &PROGRAMS) } else { None }
    }

    /// finit(8), "SIGNALS".
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        plain(
            path,
            Boot {
                init: self.name().into(),
                // Its signals are handled from about when it listens there (finit, src/api.c).
                ready: Ready::Path(vec!["/run/finit/socket".into()]),
                power_off: SIGUSR2,
                reboot: Some(SIGTERM),
                ..Boot::default()
            },
        )
    }

    /// initctl(8), which Debian has out of the way. It does not wait for what it asks for.
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }
}

const SIGUSR2: i32 = 12;

const SERVICE: &str = r#"
PATH=$PATH:/lib/finit:/usr/lib/finit:/usr/libexec/finit
state() { initctl -b -p status "$1" 2>/dev/null | sed -n 's/^ *Status : *//p' | tr -dc 'a-z \n'; }
runs() { case $(state "$1") in *running*) return 0 ;; esac; return 1; }
until_it() {
    n=0
    while [ $n -lt 200 ]; do
        case $1 in start) runs "$2" && return 0 ;; *) runs "$2" || return 0 ;; esac
        n=$((n + 1)); sleep 0.05
    done
    return 1
}
[ -n "$(state "$1")" ] || exit "$3"
case $2 in
    status) runs "$1" && exit 0; exit 3 ;;
    restart) set -- "$1" start; initctl -b stop "$1" && until_it stop "$1" || exit 1 ;;
esac
initctl -b "$2" "$1" && until_it "$2" "$1"
"#;
