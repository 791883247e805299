//! s6.

use spec::boot::{Boot, Ready, RuntimeFile, Startup};
use sys::rooted::Root;

use super::{Action, Entry, Init, SIGHUP, SIGTERM, Wish, plain, script};

/// s6-linux-init, or a bare s6-svscan, as process 1. It supervises under other inits too,
/// so that its being there tells nothing: `/sbin/init` must be it.
pub(super) struct S6;

const PROGRAMS: [&str; 4] =
    ["/sbin/s6-linux-init", "/usr/bin/s6-linux-init", "/bin/s6-svscan", "/usr/bin/s6-svscan"];

/// What s6-linux-init-maker(8) writes; the administrator copies it to `/sbin/init`.
const MADE: &str = "/etc/s6-linux-init/current/bin/init";

impl Init for S6 {
    fn name(&self) -> &'static str {
        "s6"
    }

    fn recognise(&self, root: &Root, entry: &Entry) -> Option<&'static str> {
        let made = || Entry::first_of(root, &[MADE]).is_some();
        entry.path().filter(|_| entry.is_any_of(root, &PROGRAMS) || made())
    }

    fn path(&self) -> &'static str {
        "/usr/bin/s6-svscan"
    }

    /// s6-svscan(8) takes its services down on SIGTERM and then runs `.s6-svscan/finish`. A bare
    /// one scans where it is told to, and makes its control directory there once it runs.
    fn startup(&self, path: &str, _: &Wish) -> Startup {
        let bare = path.ends_with("s6-svscan");
        let mut startup = plain(
            path,
            Boot {
                init: self.name().into(),
                ready: Ready::Process(vec!["s6-supervise".into()]),
                power_off: SIGTERM,
                reboot: Some(SIGHUP),
                ..Boot::default()
            },
        );
        if bare {
            startup.args.push(SCANNED.into());
            startup.files.push(RuntimeFile::directory(SCANNED, 0o755));
            startup.boot.ready = Ready::Path(vec![format!("{SCANNED}/.s6-svscan/control")]);
        }
        startup
    }

    /// s6-svc(8), s6-svstat(8). What s6-rc calls services beside those that are supervised, it does
    /// not see.
    fn service(&self, name: &str, action: Action) -> Vec<String> {
        script(SERVICE, name, action)
    }

    /// s6-supervise writes `supervise/status` anew by renaming.
    fn signs(&self, name: &str) -> Vec<String> {
        let of = |d: &str| [d.to_owned(), format!("{d}/{name}"), format!("{d}/{name}/supervise")];
        ["/run/service", "/service", "/run/s6/services"].into_iter().flat_map(of).collect()
    }
}

/// Where s6's documentation has it ("How to run s6-svscan as process 1").
const SCANNED: &str = "/run/service";

const SERVICE: &str = r#"
for d in /run/service /service /run/s6/services; do
    s=$d/$1
    [ -e "$s/run" ] || continue
    case $2 in
        status)
            [ "$(s6-svstat -o up "$s" 2>/dev/null)" = true ] && exit 0
            exit 3
            ;;
        start) exec s6-svc -T 20000 -wu -u "$s" ;;
        stop) exec s6-svc -T 20000 -wd -d "$s" ;;
    esac
    s6-svc -T 20000 -wd -d "$s" && exec s6-svc -T 20000 -wu -u "$s"
    exit 1
done
exit "$3"
"#;
