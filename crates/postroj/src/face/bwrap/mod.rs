//! bubblewrap 0.11: a command in a root that is put together from one's own files.

use std::ffi::OsString;
use std::io::Read;

use engine::sandbox;

use super::Face;

mod options;

use options::{End, Reader};

/// The face.
pub(crate) struct Bwrap;

impl Face for Bwrap {
    fn names(&self) -> &'static [&'static str] {
        &["bwrap"]
    }

    fn verbs(&self) -> &'static [&'static str] {
        &["bwrap"]
    }

    fn run(&self, args: Vec<OsString>) -> u8 {
        let name = args.first().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut reader = Reader::new(content, own_capabilities());
        let read = reader.read(args).and_then(|()| reader.finish());
        for warning in &reader.warnings {
            eprintln!("{warning}");
        }
        match read {
            Ok(()) => sandbox::run(&reader.sandbox).unwrap_or_else(|text| fail(&reader, &text)),
            Err(End::Help) => {
                print!("{}", usage(&name));
                0
            }
            Err(End::Version) => {
                println!("bubblewrap 0.11.0 (postroj {})", env!("CARGO_PKG_VERSION"));
                0
            }
            Err(End::Usage) => {
                eprint!("{}", usage(&name));
                1
            }
            Err(End::Wrong(text)) => fail(&reader, &text),
        }
    }
}

fn fail(reader: &Reader, text: &str) -> u8 {
    eprintln!("{}bwrap: {text}", if reader.level_prefix { "<3>" } else { "" });
    1
}

/// All that an inherited descriptor gives. It is closed then.
fn content(fd: i32) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    std::fs::File::from(sys::process::take_inherited(fd)?).read_to_end(&mut data)?;
    Ok(data)
}

/// What root has; an ordinary user starts from none.
fn own_capabilities() -> u64 {
    if !rustix::process::getuid().is_root() {
        return 0;
    }
    rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits())
}

fn usage(name: &str) -> String {
    format!("usage: {name} [OPTIONS...] [--] COMMAND [ARGS...]\n\n{OPTIONS}")
}

const OPTIONS: &str = "    --help                       Print this help
    --version                    Print version
    --args FD                    Read NUL-separated options from FD
    --argv0 VALUE                What the command is told as its name
    --level-prefix               Prepend e.g. <3> to messages
    --unshare-all                New namespaces of every kind, where there are any
    --share-net                  Keep the network after --unshare-all
    --unshare-user               New user namespace (implied unless you are root)
    --unshare-user-try           New user namespace if there can be one
    --unshare-ipc                New IPC namespace
    --unshare-pid                New PID namespace
    --unshare-net                New network namespace
    --unshare-uts                New UTS namespace
    --unshare-cgroup             New cgroup namespace
    --unshare-cgroup-try         New cgroup namespace if there can be one
    --userns FD                  Use this user namespace
    --userns2 FD                 Enter this user namespace once all is set up
    --disable-userns             No more user namespaces inside
    --assert-userns-disabled     Fail where there can be user namespaces inside
    --pidns FD                   Use this PID namespace (the parent of that of --unshare-pid)
    --uid UID, --gid GID         Ids inside (need --unshare-user or --userns)
    --hostname NAME              Host name inside (needs --unshare-uts)
    --chdir DIR                  Start in DIR
    --clearenv                   Unset all environment variables
    --setenv VAR VALUE           Set an environment variable
    --unsetenv VAR               Unset an environment variable
    --lock-file DEST             Hold a lock on DEST while anything runs
    --sync-fd FD                 Keep FD open while anything runs
    --bind SRC DEST              Show the path SRC at DEST
    --dev-bind SRC DEST          The same, with devices
    --ro-bind SRC DEST           The same, read-only
    --bind-try, --dev-bind-try, --ro-bind-try SRC DEST
                                 The same, unless there is no SRC
    --bind-fd, --ro-bind-fd FD DEST
                                 Show the directory or path that FD is open on
    --remount-ro DEST            Make the mount at DEST read-only, not those below
    --overlay-src SRC            A lower directory of the overlay that follows
    --overlay RWSRC WORKDIR DEST An overlay with writes to RWSRC
    --tmp-overlay DEST           An overlay with writes to memory
    --ro-overlay DEST            An overlay that is read-only
    --exec-label, --file-label LABEL
                                 SELinux labels: refused, for there is no SELinux
    --proc DEST                  Mount a new procfs
    --dev DEST                   Mount a small /dev
    --tmpfs DEST                 Mount a new tmpfs
    --mqueue DEST                Mount a new mqueue
    --dir DEST                   Make a directory
    --file FD DEST               Make a file of what FD gives
    --bind-data, --ro-bind-data FD DEST
                                 Mount a file of what FD gives
    --symlink SRC DEST           Make a symbolic link at DEST to SRC
    --seccomp FD                 Install the filter that FD gives
    --add-seccomp-fd FD          The same, repeatable
    --block-fd FD                Wait for FD before the command is run
    --userns-block-fd FD         Wait for FD until the id maps are written
    --info-fd FD                 Write facts to FD
    --json-status-fd FD          Write facts and the exit code to FD
    --new-session                A terminal session of its own
    --die-with-parent            Be killed when the parent dies
    --as-pid-1                   No small init as process 1
    --cap-add, --cap-drop CAP    Add or drop a capability, or ALL
    --perms OCTAL                Permissions of what the next option makes
    --size BYTES                 Size of the next --tmpfs
    --chmod OCTAL PATH           Change permissions of PATH
";
