//! The face `bwrap` beside Debian's bubblewrap: each list of arguments is given to both, and what
//! is seen inside is compared.

mod fixture;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixture::{Said, home, is_root, program, said};

const ORIGINAL: &str = "/usr/bin/bwrap";

/// What tells all of a sandbox that can be seen from inside.
const LOOK: &str = "
    cat /proc/self/mountinfo 2>/dev/null; echo --
    grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap|Seccomp|Sig(Blk|Ign))' /proc/self/status 2>/dev/null; echo --
    env | grep -v ^_= | sort; echo --
    for fd in /proc/self/fd/*; do echo ${fd##*/}; done; echo --
    cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups 2>/dev/null; echo --
    pwd; umask; uname -n; ls -la /dev 2>/dev/null | wc -l
    read -r pid name state parent group session rest 2>/dev/null </proc/self/stat
    echo $((pid == session)) $((pid == group)) $$ | sed 's/ [0-9][0-9][0-9]*$/ PID/'
    for path in /made /made/below /file /link /data @/new /tmp/x; do
        [ -e $path ] && stat -c '%n %A %u %g %s' $path; done; cat /file /data /link 2>/dev/null; exit 7";

/// A directory that both sides see under the same name, made anew for each.
struct Place {
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let place = Self { path: home().join(format!("bwrap-{name}-{}", std::process::id())) };
        place.renew();
        place
    }

    fn renew(&self) {
        let _ = std::fs::remove_dir_all(&self.path);
        std::fs::create_dir_all(self.path.join("dir/sub")).unwrap();
        std::fs::write(self.path.join("text"), "text\n").unwrap();
        std::fs::write(self.path.join("dir/inner"), "inner\n").unwrap();
        std::fs::write(self.path.join("args"), "--setenv\0FROM\0file\0--dir\0/tmp/x\0").unwrap();
        // Allows everything (linux/filter.h: BPF_RET | BPF_K, SECCOMP_RET_ALLOW).
        std::fs::write(self.path.join("filter"), [6, 0, 0, 0, 0, 0, 0xff, 0x7f]).unwrap();
        // seccomp(2) does not exist, all else does: load the number; jump; return; return.
        let allowing_prctl: [(u16, u8, u8, u32); 4] = [
            (0x20, 0, 0, 0),
            (0x15, 0, 1, 317),
            (0x06, 0, 0, 0x0005_0026),
            (0x06, 0, 0, 0x7fff_0000),
        ];
        let bytes = allowing_prctl.iter().flat_map(|&(code, jt, jf, k)| {
            [code.to_ne_bytes().as_slice(), &[jt, jf], &k.to_ne_bytes()].concat()
        });
        std::fs::write(self.path.join("no-seccomp"), bytes.collect::<Vec<u8>>()).unwrap();
        std::os::unix::fs::symlink("dir", self.path.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", self.path.join("dangling")).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// This program by its other name.
fn ours(place: &Place) -> PathBuf {
    let link = place.path.join("bin/bwrap");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(program(), &link).unwrap();
    link
}

/// Runs one of both: `@` is the place, `LOOK` what tells all, and after `|` come a shell's redirections.
fn run(bwrap: &Path, list: &str, place: &Place) -> Said {
    let at = place.path.to_str().unwrap();
    let (words, redirections) = list.split_once('|').unwrap_or((list, ""));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$@\" {}", redirections.replace('@', at)), "sh"]);
    command.arg(bwrap);
    for word in words.split_whitespace() {
        let word = if word == "LOOK" { LOOK } else { word };
        command.arg(word.replace('@', at).replace('~', " "));
    }
    let path = "/usr/bin:/bin:/usr/sbin:/sbin";
    command.env_clear().env("PATH", path).env("HOME", "/").env("LC_ALL", "C").env("KEPT", "kept");
    said(command.current_dir(&place.path).stdin(Stdio::null()))
}

/// What differs from run to run taken out.
fn plain(said: Said, bwrap: &Path, place: &Place) -> String {
    let (mounts, rest) = said.out.split_once("--\n").unwrap_or(("", &said.out));
    let mut text = format!("exit {}\n{}{rest}", said.code, visible(mounts));
    // The usage has words of its own.
    let name = bwrap.display().to_string();
    let err = said.err.replace(&name, "BWRAP");
    let err = if err.starts_with("usage:") { err.lines().next().unwrap_or_default() } else { &err };
    let _ = write!(text, "said {err}");
    for file in ["info", "status"] {
        let told = std::fs::read_to_string(place.path.join(file)).unwrap_or_default();
        let told: String =
            told.split(|c: char| c.is_ascii_digit()).filter(|p| !p.is_empty()).collect();
        let _ = write!(text, "\n{file} {told}");
    }
    text
}

/// Mounts that can be reached, without what the kernel numbers.
fn visible(mountinfo: &str) -> String {
    struct Mount<'a> {
        id: &'a str,
        parent: &'a str,
        at: &'a str,
        text: String,
    }
    let mounts: Vec<Mount<'_>> = mountinfo
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [id, parent, _, root, at, options] = *fields.get(..6)? else { return None };
            let root = if root.starts_with("/bindfile") { "/bindfile" } else { root };
            let rest = fields[6..].join(" ");
            // Peer groups are numbered as they are made.
            let rest: String = rest.split(' ').map(|f| f.split(':').next().unwrap()).collect();
            Some(Mount { id, parent, at, text: format!("{at} {root} {options} {rest}\n") })
        })
        .collect();
    let below = |path: &str, of: &str| {
        path == of
            || path.strip_prefix(of.trim_end_matches('/')).is_some_and(|r| r.starts_with('/'))
    };
    let mut hidden: Vec<&str> = Vec::new();
    for (n, mount) in mounts.iter().enumerate() {
        let over = |m: &Mount<'_>| m.parent == mount.id && m.at == mount.at;
        let beside = |m: &Mount<'_>| m.parent == mount.parent && below(mount.at, m.at);
        if mounts.iter().any(over)
            || mounts[n + 1..].iter().any(beside)
            || hidden.contains(&mount.parent)
                && !mounts.iter().any(|m| m.id == mount.parent && m.at == mount.at)
        {
            hidden.push(mount.id);
        }
    }
    // What an ordinary user cannot reach, the original leaves as it is.
    let reached = |at: &str| {
        let error = std::fs::symlink_metadata(at).err();
        error.is_none_or(|e| e.kind() != std::io::ErrorKind::PermissionDenied)
    };
    let shown = mounts.iter().filter(|m| !hidden.contains(&m.id) && reached(m.at));
    shown.map(|m| m.text.as_str()).collect()
}

#[track_caller]
fn alike(lists: &[String]) {
    assert!(Path::new(ORIGINAL).exists(), "bubblewrap is installed (`cargo xtask setup`)");
    let name = lists.first().map_or(0, |l| l.len() + lists.len());
    let place = Place::new(&name.to_string());
    let mut differing = Vec::new();
    let both = |list: &str| {
        place.renew();
        let theirs = plain(run(Path::new(ORIGINAL), list, &place), Path::new(ORIGINAL), &place);
        place.renew();
        let bwrap = ours(&place);
        (plain(run(&bwrap, list, &place), &bwrap, &place), theirs)
    };
    for list in lists {
        let mut seen = both(list);
        // The host's own mounts may change in between.
        for _ in 0..2 {
            if seen.0 != seen.1 {
                seen = both(list);
            }
        }
        let (ours, theirs) = seen;
        if ours != theirs {
            let pairs = ours.lines().zip(theirs.lines()).filter(|(a, b)| a != b).take(4);
            let lines: String =
                pairs.map(|(a, b)| format!("\n  ours   {a:?}\n  theirs {b:?}")).collect();
            differing.push(format!(
                "{list}: {} and {} lines{lines}",
                ours.lines().count(),
                theirs.lines().count()
            ));
        }
    }
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

/// Each of these after a root that has all that looking needs.
fn in_root(root: &str, lists: &[&str]) -> Vec<String> {
    let with = |list: &&str| {
        let (options, redirections) = list.split_once('|').unwrap_or((list, ""));
        format!("{root} {options} sh -c LOOK |{redirections}")
    };
    lists.iter().map(with).collect()
}

#[test]
fn namespaces_and_ids() {
    let mut lists = in_root(
        "--ro-bind / /",
        &[
            "",
            "--unshare-user",
            "--unshare-user-try",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup",
            "--unshare-cgroup-try",
            "--unshare-all",
            "--unshare-all --share-net",
            "--unshare-user --uid 0 --gid 0",
            "--unshare-user --uid 5 --gid 7",
            "--unshare-user --uid 5 --dev /dev",
            "--unshare-user --uid 0 --gid 0 --dev /dev",
            "--unshare-user --uid 1 --uid 2",
            "--unshare-user --unshare-pid --as-pid-1",
            "--unshare-uts --hostname other",
            "--unshare-uts --hostname one --hostname two",
            "--unshare-user --disable-userns",
            "--unshare-user --disable-userns --uid 3",
            "--unshare-user --disable-userns --assert-userns-disabled --proc /proc",
            "--assert-userns-disabled",
            "--new-session",
            "--new-session --unshare-pid",
            "--die-with-parent",
            "--die-with-parent --unshare-pid --new-session",
            "--cap-drop ALL",
            "--cap-drop CAP_KILL --cap-drop cap_chown",
            "--cap-add ALL --unshare-user",
            "--cap-add CAP_NET_ADMIN --unshare-user --uid 0",
            "--cap-add CAP_NET_ADMIN --unshare-user --uid 9",
            "--cap-drop ALL --cap-add CAP_SYS_ADMIN --unshare-user",
            "--unshare-user --cap-add ALL --dev /dev --proc /proc",
            "--unshare-pid --cap-drop ALL",
        ],
    );
    lists.extend(in_root(
        "--dev-bind / / --unshare-pid --proc /proc",
        &[
            "",
            "--unshare-user",
            "--as-pid-1",
            "--unshare-all",
            "--unshare-all --dev /dev --tmpfs /tmp",
            "--unshare-user --uid 0 --dev /dev",
        ],
    ));
    alike(&lists);
}

#[test]
fn pieces_of_a_root() {
    let small = "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
                 --symlink usr/sbin /sbin --proc /proc";
    let mut lists = in_root(
        small,
        &[
            "",
            "--dev /dev",
            "--dev /dev --dev /made/dev",
            "--tmpfs /tmp",
            "--tmpfs /tmp --dir /tmp/x",
            "--perms 1777 --tmpfs /tmp",
            "--perms 0700 --dir /made",
            "--perms 0700 --dir /made/below",
            "--perms 0750 --dir /made/below",
            "--perms 0000 --dir /made/below",
            "--perms 1741 --dir /made",
            "--size 65536 --tmpfs /made",
            "--size 0x10000 --perms 0711 --tmpfs /made",
            "--dir /made --chmod 0701 /made",
            "--dir /made --symlink made /link --chmod 0700 /link",
            "--chmod 0700 /nothing",
            "--dir made",
            "--dir /made/",
            "--dir //made//below",
            "--dir /",
            "--dir /usr",
            "--dir /bin/new",
            "--mqueue /made",
            "--bind @/dir /made",
            "--bind @/dir /",
            "--bind @/link /made",
            "--bind @/text /file",
            "--bind @/text /made/below",
            "--bind @/dir /file --bind @/text /file",
            "--bind @/text /made --bind @/dir /made",
            "--bind @/dangling /made",
            "--bind @/nothing /made",
            "--bind-try @/nothing /made",
            "--ro-bind-try @/nothing /made",
            "--dev-bind-try @/nothing /made",
            "--bind-try @/dir /made",
            "--ro-bind @/dir /made",
            "--dev-bind @/dir /made",
            "--dev-bind /dev /dev",
            "--dev-bind /dev/null /file",
            "--bind /dev/null /made/null",
            "--bind dir /made",
            "--bind . /made",
            "--bind @ @",
            "--bind @ @ --chdir @/dir",
            "--bind @ @ --tmpfs @/dir",
            "--bind @ @ --remount-ro @",
            "--tmpfs /made --remount-ro /made",
            "--dir /made --remount-ro /made",
            "--remount-ro /",
            "--remount-ro /nothing",
            "--remount-ro /usr",
            "--bind @ /made --ro-bind @/dir /made/dir",
            "--ro-bind @ /made --bind @/dir /made/dir",
            "--ro-bind @ /made --bind @/dir /made/new",
            "--ro-bind @ /made --dir /made/new",
            "--bind @ @ --dir @/new",
            "--bind @ @ --perms 0700 --dir @/new",
            "--bind @ @ --symlink text @/new",
            "--symlink to /link",
            "--symlink to /made/below",
            "--dir /made --symlink made /link --bind @/dir /link",
            "--file 0 /file",
            "--file 3 /file |3<@/text",
            "--perms 0640 --file 3 /file |3<@/text",
            "--file 3 /made/below/file |3<@/text",
            "--perms 0600 --file 3 /made/below/file |3<@/text",
            "--bind-data 3 /data |3<@/text",
            "--perms 0644 --bind-data 3 /data |3<@/text",
            "--ro-bind-data 3 /data |3<@/text",
            "--file 3 /file --bind-data 4 /data --ro-bind-data 5 /file |3<@/text 4<@/text 5<@/args",
            "--bind-data 3 /made/data |3<@/text",
            "--file 3 /usr/new |3<@/text",
            "--file 9 /file",
            "--proc /made",
            "--proc /made/proc",
            "--unshare-pid --proc /made/proc",
            "--bind / /made",
            "--ro-bind / /made --tmpfs /made/tmp",
        ],
    );
    lists.extend(in_root(
        "--bind / / --tmpfs /tmp",
        &[
            "",
            "--proc /proc --dev /dev",
            "--unshare-all --proc /proc --dev /dev",
            "--dir /tmp/x",
            "--bind / / --bind /tmp /tmp",
        ],
    ));
    alike(&lists);
}

#[test]
fn surroundings() {
    let lists = in_root(
        "--ro-bind / / --proc /proc",
        &[
            "--setenv A b",
            "--setenv A b --unsetenv KEPT",
            "--setenv A b --setenv A c",
            "--clearenv",
            "--clearenv --setenv PATH /usr/bin",
            "--setenv A b --clearenv",
            "--unsetenv NONE",
            "--setenv HOME /usr --tmpfs @",
            "--chdir /usr",
            "--chdir /nothing",
            "--chdir /usr --chdir /etc",
            "--tmpfs @",
            "--args 3 |3<@/args",
            "--tmpfs /tmp --args 3 |3<@/args",
            "--tmpfs /tmp --args 3 --args 4 |3<@/args 4<@/args",
            "--seccomp 3 |3<@/filter",
            "--seccomp 3 --unshare-pid |3<@/filter",
            "--add-seccomp-fd 3 --add-seccomp-fd 4 |3<@/filter 4<@/filter",
            "--add-seccomp-fd 3 --add-seccomp-fd 4 |3<@/no-seccomp 4<@/filter",
            "--add-seccomp-fd 3 --add-seccomp-fd 4 --unshare-pid |3<@/no-seccomp 4<@/filter",
            "--seccomp 3 |3<@/text",
            "--info-fd 3 |3>@/info",
            "--info-fd 3 --unshare-all |3>@/info",
            "--json-status-fd 3 |3>@/status",
            "--json-status-fd 3 --unshare-all |3>@/status",
            "--json-status-fd 3 --info-fd 4 --unshare-pid --as-pid-1 |3>@/status 4>@/info",
            "--json-status-fd 3 --bind @/nothing /x |3>@/status",
            "--block-fd 3 |3</dev/null",
            "--sync-fd 3 |3<@/text",
            "--sync-fd 3 --unshare-pid |3<@/text",
            "--sync-fd 3 --unshare-pid --as-pid-1 |3<@/text",
            "--lock-file @/text",
            "--lock-file @/text --unshare-pid",
            "|5<@/text",
            "--unshare-pid |5<@/text 7>&1",
            "|1>&2",
        ],
    );
    alike(&lists);
}

#[test]
fn errors_and_ends() {
    let mut lists: Vec<String> = [
        "",
        "--",
        "--bind",
        "--bind / /",
        "--bind /",
        "--nosuch true",
        "-x true",
        "--dir",
        "--symlink a",
        "--chdir",
        "--setenv A",
        "--unsetenv",
        "--perms 0700 true",
        "--perms 0700 --symlink a b true",
        "--perms 99999 --dir /a true",
        "--perms x --dir /a true",
        "--perms 0700 --perms 0700 --dir /a true",
        "--size 0 --tmpfs /a true",
        "--size 1x --tmpfs /a true",
        "--size -1 --tmpfs /a true",
        "--size 18446744073709551616 --tmpfs /a true",
        "--size 9223372036854775809 --tmpfs /a true",
        "--size 1 --size 1 --tmpfs /a true",
        "--size 1 --dir /a true",
        "--chmod 0700",
        "--chmod 8 /a true",
        "--uid x true",
        "--uid -1 true",
        "--gid true",
        "--unshare-user --uid",
        "--hostname x --bind / / true",
        "--as-pid-1 --bind / / true",
        "--unshare-pid --as-pid-1 --lock-file /x --bind / / true",
        "--args",
        "--args x",
        "--args 99 true",
        "--bind / / --lock-file @/nothing true",
        "--info-fd x true",
        "--info-fd -1 true",
        "--seccomp x",
        "--userns x true",
        "--userns 0 --unshare-user true",
        "--userns 0 --unshare-user-try true",
        "--userns-block-fd 0 true",
        "--userns-block-fd 0 --unshare-user true",
        "--disable-userns true",
        "--cap-add NONE true",
        "--cap-add KILL true",
        "--cap-add",
        "--bind / / nosuch",
        "--bind / / /etc/passwd",
        "--bind / / /usr",
        "--bind / / -- true",
        "--bind / / -- --bind",
        "--dir /x true",
        "--bind / / true --bind",
        "--bind / / --unshare-pid sh -c exit~3",
        "--bind / / --unshare-pid sh -c kill~-9~$$",
        "--bind / / sh -c kill~-15~$$",
        "--bind / / --unshare-pid --as-pid-1 sh -c exit~4",
        "--bind / / --unshare-pid sh -c (sleep~0.1;echo~late)&exit~5",
        "--bind / / --seccomp 3 --seccomp 3 true |3</dev/null",
        "--bind / / --seccomp 3 --add-seccomp-fd 4 true |3</dev/null 4</dev/null",
    ]
    .map(str::to_owned)
    .into();
    lists.extend(in_root("--ro-bind / / --unshare-user", &["--uid 4 --gid 4 --unshare-pid"]));
    if !is_root() {
        lists.extend(["--uid 3 --ro-bind / / id -u".to_owned(), "--bind /root /x true".to_owned()]);
    }
    alike(&lists);
}

/// What the original in Debian does not have yet.
#[test]
fn what_came_later() {
    let place = Place::new("later");
    let bwrap = ours(&place);
    let at = |list: &str| run(&bwrap, list, &place);
    let told = at("--ro-bind / / --argv0 other sh -c echo~$0");
    assert_eq!((told.code, told.out.as_str()), (0, "other\n"), "{told:?}");
    assert!(at("--argv0 a --argv0 b true").err.contains("--argv0 used multiple times"));
    let told = at("--level-prefix --bind /nothing / true");
    assert!(told.err.starts_with("<3>bwrap: Can't find source path /nothing: "), "{told:?}");
    let told = at("--ro-bind / / --bind-fd 3 /mnt sh -c cat~/mnt/inner;echo~x>/mnt/new |3<@/dir");
    assert_eq!((told.code, told.out.as_str()), (0, "inner\n"), "{told:?}");
    assert!(place.path.join("dir/new").exists());
    let told = at("--ro-bind / / --ro-bind-fd 3 /mnt touch /mnt/new |3<@/dir");
    assert!(told.code == 1 && told.err.contains("Read-only"), "{told:?}");

    let root = "--ro-bind / / --tmpfs /mnt --dir /mnt/o";
    let told = at(&format!(
        "{root} --overlay-src @/dir --tmp-overlay /mnt/o sh -c echo~x>/mnt/o/made;ls~/mnt/o"
    ));
    assert_eq!((told.code, told.out.as_str()), (0, "inner\nmade\nnew\nsub\n"), "{told:?}");
    assert!(!place.path.join("dir/made").exists());
    for directory in ["upper", "work", "second"] {
        std::fs::create_dir(place.path.join(directory)).unwrap();
    }
    std::fs::write(place.path.join("second/inner"), "second\n").unwrap();
    let told = at(&format!(
        "{root} --overlay-src @/dir --overlay-src @/second --ro-overlay /mnt/o sh -c cat~/mnt/o/inner;touch~/mnt/o/x"
    ));
    assert_eq!((told.code, told.out.as_str()), (1, "second\n"), "the last one is on top: {told:?}");
    let told = at(&format!(
        "{root} --overlay-src @/dir --overlay @/upper @/work /mnt/o touch /mnt/o/made"
    ));
    assert_eq!(told.code, 0, "{told:?}");
    assert!(place.path.join("upper/made").exists());
    for (list, text) in [
        ("--overlay-src /x true", "--overlay-src must be followed"),
        ("--overlay-src /x --dir /y true", "--overlay-src must be followed"),
        ("--tmp-overlay /x true", "--tmp-overlay requires at least one --overlay-src"),
        ("--overlay-src /x --ro-overlay /y true", "--ro-overlay requires at least two"),
        ("--overlay-src /x --overlay /y", "--overlay takes three arguments"),
        ("--exec-label x true", "labeling not supported on this system"),
        ("--file-label x true", "labeling not supported on this system"),
    ] {
        let told = at(list);
        assert!(told.code == 1 && told.err.contains(text), "{list}: {told:?}");
    }
    // A link that is there already will do, and nothing else; and links lead to places in the new root.
    let small = "--ro-bind / / --tmpfs /mnt --symlink to /mnt/l";
    for (list, code, text) in [
        ("--symlink to /mnt/l readlink /mnt/l", 0, "to\n"),
        (
            "--symlink other /mnt/l true",
            1,
            "bwrap: Can't make symlink at /mnt/l: existing destination is to\n",
        ),
        (
            "--symlink x /mnt true",
            1,
            "bwrap: Can't make symlink at /mnt: destination exists and is not a symlink\n",
        ),
        ("--dir /mnt/d --symlink /mnt/d /mnt/a --dir /mnt/a/x ls /mnt/d", 0, "x\n"),
    ] {
        let told = at(&format!("{small} {list}"));
        assert_eq!((told.code, told.out + &told.err), (code, text.to_owned()), "{list}");
    }
    // A directory that the overlay needs is removed by nobody else.
    let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(&place.path).status();
}

/// A launcher that is killed while its child waits leaves nothing.
#[test]
fn a_killed_launcher_leaves_nothing() {
    let place = Place::new("killed");
    let word = format!("3.{}", std::process::id());
    for options in ["--unshare-pid --die-with-parent", "--die-with-parent"] {
        let mut command = Command::new(ours(&place));
        command.args("--bind / /".split(' ')).args(options.split(' '));
        let mut child = command.args(["sleep", &format!("10{word}")]).spawn().unwrap();
        fixture::wait_until("it runs", || {
            let found = fixture::processes_with(&word);
            found.iter().any(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.starts_with(b"sleep"))
            })
        });
        child.kill().unwrap();
        child.wait().unwrap();
        fixture::wait_until("all is gone", || fixture::processes_with(&word).is_empty());
        std::fs::remove_file(place.path.join("bin/bwrap")).unwrap();
    }
}

/// Namespaces that another sandbox has can be entered, and waiting ends when it is told to.
#[test]
fn namespaces_of_another_are_entered() {
    use std::io::{BufRead, BufReader, Write};
    let place = Place::new("joined");
    let bwrap = ours(&place);
    let mut first = Command::new("sh");
    let script = format!(
        "exec {} --bind / / --unshare-user --unshare-pid --proc /proc --info-fd 3 \
         sh -c 'echo ready; read line' 3>{}/info",
        bwrap.display(),
        place.path.display()
    );
    let mut first =
        first.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let info = std::fs::read_to_string(place.path.join("info")).unwrap();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let pid = info["child-pid"].as_i64().unwrap();
    let number = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let list = format!(
        "--userns 3 --pidns 4 --bind / / --proc /proc readlink /proc/self/ns/user /proc/self/ns/pid \
         |3</proc/{pid}/ns/user 4</proc/{pid}/ns/pid"
    );
    let told = run(&bwrap, &list, &place);
    let expected = format!("{}\n{}\n", number("user"), number("pid"));
    assert_eq!((told.code, told.out.as_str()), (0, expected.as_str()), "{told:?}");
    let told = run(&bwrap, "--bind / / --userns 3 true |3</proc/self/ns/user", &place);
    assert!(
        told.code == 1 && told.err.contains("Joining the specified user namespace failed"),
        "{told:?}"
    );
    first.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(first.wait().unwrap().success());

    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut waiting = Command::new(&bwrap);
    waiting.args("--bind / / --block-fd 0 echo went on".split(' ')).stdin(reader);
    let mut waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    assert!(waiting.try_wait().unwrap().is_none());
    writer.write_all(b"x").unwrap();
    let told = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), "went on\n");
}
